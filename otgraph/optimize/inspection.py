"""``inspect``: what of a graph can be cut, what cannot, and which operator is why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from otgraph.graph.axes.analysis import analyse
from otgraph.graph.axes.axis_map import AxisMap, Dim
from otgraph.graph.graph import Graph, label, op_name


@dataclass(frozen=True)
class Blocker:
    """One reason why dims cannot be cut: which dims, how many channels, how many parameters they run
    through."""

    reason: str
    dims: tuple[str, ...]
    channels: int
    parameters: int


@dataclass(frozen=True)
class Inspection:
    """A graph with its axes."""

    graph: Graph
    axes: AxisMap

    def blockers(self) -> tuple[Blocker, ...]:
        """Why dims are blocked, the reason that blocks most parameters first."""
        groups: dict[str, list[Dim]] = {}
        for dim in self.axes.dims.values():
            if dim.blocked is not None and dim.size > 1:
                groups.setdefault(dim.blocked, []).append(dim)
        found = [
            Blocker(
                reason,
                tuple(dim.name for dim in dims),
                sum(dim.size for dim in dims),
                _parameters(self.graph, {port.tensor for dim in dims for port in dim.ports}),
            )
            for reason, dims in groups.items()
        ]
        return tuple(sorted(found, key=lambda b: -b.parameters))

    @property
    def dims_text(self) -> str:
        """A table of the dims."""
        rows = [("dim", "size", "writes", "reads", "carries", "can be cut")]
        for dim in self.axes.dims.values():
            roles = [port.role for port in dim.ports]
            writes, reads, carries = (str(roles.count(role)) for role in ("writes", "reads", "carries"))
            rows.append((dim.name, str(dim.size), writes, reads, carries, _verdict(dim)))
        cut = self.axes.prunable()
        share = _parameters(self.graph, {p.tensor for d in cut for p in d.ports}) / max(
            _parameters(self.graph, None), 1
        )
        said = f"{len(cut)} of {len(self.axes.dims)} dims can be cut"
        return f"{_table(rows)}\n{said}; {share:.0%} of the parameters depend on them"

    @property
    def blockers_text(self) -> str:
        """A table of what blocks, and what no rule knows."""
        rows = [("blocked by", "dims", "channels", "parameters")]
        rows += [(b.reason, str(len(b.dims)), str(b.channels), str(b.parameters)) for b in self.blockers()]
        said = "".join(f"\n{remark}" for remark in (*self.graph.remarks, *self.axes.remarks))
        return (_table(rows) if len(rows) > 1 else "nothing is blocked") + said

    @property
    def graph_text(self) -> str:
        """The program, one line per node, with the axes of every value and what annotations say."""
        lines: list[str] = []
        for node in self.graph.module.graph.nodes:
            results = self.axes.values.get(node.name, ())
            shapes = " ".join("[" + ", ".join(map(str, result)) + "]" for result in results)
            inputs = ", ".join(n.name for n in node.all_input_nodes)
            name = label(node)
            where = f"  # {name}" if name != node.name else ""
            lines.append(f"{node.name} = {op_name(node)}({inputs}) {shapes}{where}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Dims, blockers and remarks as plain JSON values."""
        return {
            "dims": [
                {
                    "name": dim.name,
                    "size": dim.size,
                    "prunable": dim.prunable,
                    "blocked": dim.blocked,
                    "normalised": dim.normalised,
                    "residual": dim.residual,
                    "ports": [vars(port) for port in dim.ports],
                }
                for dim in self.axes.dims.values()
            ],
            "blockers": [{**vars(b), "dims": list(b.dims)} for b in self.blockers()],
            "remarks": [r.to_json() for r in (*self.graph.remarks, *self.axes.remarks)],
        }


def inspect(graph: Graph) -> Inspection:
    """Analyse the axes of ``graph``."""
    return Inspection(graph, analyse(graph))


def _verdict(dim: Dim) -> str:
    if not dim.prunable:
        return f"no: {dim.blocked or 'a single index'}"
    marks = [text for flag, text in ((dim.residual, "residual"), (dim.normalised, "normalised")) if flag]
    return "yes" + (f" ({', '.join(marks)})" if marks else "")


def _parameters(graph: Graph, names: set[str] | None) -> int:
    tensors = graph.tensors()
    return sum(
        t.numel() for name, t in tensors.items() if t.is_floating_point() and (names is None or name in names)
    )


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join(lines)
