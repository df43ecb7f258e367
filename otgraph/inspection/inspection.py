"""``inspect``: what of a graph can be cut, what cannot, and which operator is why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from otgraph.calibrate.feeds import feeds
from otgraph.calibrate.width import DEFAULT_CRITERION
from otgraph.data_model import ModelData
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap, Dim
from otgraph.graph.axes.expression import Expression
from otgraph.graph.graph import Graph, label, op_name
from otgraph.inspection.annotations import SHARES, DimCurve, annotated_curves
from otgraph.inspection.blockers import Blocker, find_blockers
from otgraph.remark import Remark
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.text_table import aligned
from otgraph.transport.criteria.catalog import criterion as find_criterion


@dataclass(frozen=True)
class Inspection:
    """A graph with its axes. ``curves``: what removing channels costs, of the dims that are annotated."""

    graph: Graph
    axes: AxisMap
    curves: tuple[DimCurve, ...] = ()
    remarks: tuple[Remark, ...] = ()

    def blockers(self) -> tuple[Blocker, ...]:
        """Why dims are blocked, what holds back most parameters and multiply–accumulates first."""
        return find_blockers(self.graph, self.axes)

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
        return "\n".join([*aligned(rows), f"{said}; {share:.0%} of the parameters depend on them"])

    @property
    def blockers_text(self) -> str:
        """A table of what blocks, and what no rule knows."""
        rows = [("operator", "node", "why", "dims", "channels", "parameters", "MACs")]
        rows += [
            (
                b.operator or "-",
                b.node or "-",
                b.why,
                *_numbers(b.dims, b.channels, b.parameters),
                f"{b.macs:.1%}",
            )
            for b in self.blockers()
        ]
        nothing = "nothing is blocked" if self.axes.dims else "no weight has an axis that could be followed"
        said = aligned(rows) if len(rows) > 1 else [nothing]
        said += _normalized(self.axes.prunable())
        return "\n".join([*said, *_once((*self.graph.remarks, *self.axes.remarks))])

    @property
    def curves_text(self) -> str:
        """A table of what keeping three quarters, half and a quarter of each dim costs."""
        if not self.curves:
            return "no dim is annotated; give calibration inputs"
        shares = [f"{share} %" for share in SHARES]
        rows = [("cost of keeping", "size", *shares, *(f"gap at {share}" for share in shares))]
        for curve in self.curves:
            costs = [f"{point.cost:.2%}" for point in curve.points]
            gaps = [f"{point.gap:.2%}" for point in curve.points]
            rows.append((curve.dim, str(curve.size), *costs, *gaps))
        lines = [
            *aligned(rows),
            f"cost: by {self.curves[0].criterion}, as a share of dropping every channel of the dim",
            "gap: the share of the re-routing cost that any other choice of as many could save at most",
            *(str(remark) for remark in self.remarks if remark.kind == "missed"),
        ]
        return "\n".join(lines)

    @property
    def graph_text(self) -> str:
        """The program, one line per operator: weights and results with their axes, a dim by its name."""
        lines: list[str] = []
        annotated = {curve.node: f"annotated: {curve.dim}" for curve in self.curves}
        for node in self.graph.module.graph.nodes:
            if node.op == "get_attr":
                continue
            results = " ".join(_axes(result) for result in self.axes.values.get(node.name, ()))
            inputs = ", ".join(self._operand(source) for source in node.all_input_nodes)
            if node.op == "placeholder":
                lines.append(f"input {node.name} {results}")
            elif node.op == "output":
                lines.append(f"return {inputs}")
            else:
                name = label(node)
                notes = [name] if name != node.name else []
                notes += [annotated[node.name]] if node.name in annotated else []
                comment = f"  # {'; '.join(notes)}" if notes else ""
                lines.append(f"{node.name} = {op_name(node)}({inputs}) {results}{comment}")
        return "\n".join(lines)

    def _operand(self, node: fx.Node) -> str:
        if node.op != "get_attr":
            return node.name
        name = str(node.target)
        return name + _axes(self.axes.tensors.get(name, ()))

    def to_json(self) -> dict[str, Any]:
        """Dims, blockers and remarks as plain JSON values."""
        return {
            "dims": [
                {
                    "name": dim.name,
                    "size": dim.size,
                    "prunable": dim.prunable,
                    "blocked": dim.blocked,
                    "normalized": dim.normalized,
                    "residual": dim.residual,
                    "ports": [vars(port) for port in dim.ports],
                }
                for dim in self.axes.dims.values()
            ],
            "blockers": [{**vars(b), "dims": list(b.dims)} for b in self.blockers()],
            "curves": [curve.to_json() for curve in self.curves],
            "remarks": [r.to_json() for r in (*self.graph.remarks, *self.axes.remarks, *self.remarks)],
        }


def inspect(
    graph: Graph, data: ModelData | None = None, *, criterion: str = DEFAULT_CRITERION, seed: int = 0
) -> Inspection:
    """Analyze the axes of ``graph``, and with calibration inputs what removing channels of each dim costs.

    Annotations that ``graph`` carries already are shown as well. Raises ``UsageError`` where there is no such
    criterion.
    """
    remarks: tuple[Remark, ...] = ()
    if data is not None:
        find_criterion(criterion)
        graph = graph.with_example(next(feeds(graph, data, 2), graph.example))
        annotate = PassManager(parse_pipeline(f"annotate-width{{criterion={criterion}}}"), random_probes=0)
        result = annotate.run(graph, Context(data=data, seed=seed))
        graph, remarks = result.graph, result.remarks
    axes = analyze(graph)
    known = (*graph.remarks, *axes.remarks)
    return Inspection(graph, axes, annotated_curves(graph), tuple(r for r in remarks if r not in known))


def _once(remarks: Sequence[Remark]) -> list[str]:
    """What is said of several nodes alike, of the first only, with how many others there are."""
    alike: dict[str, list[Remark]] = {}
    for remark in remarks:
        alike.setdefault(remark.message, []).append(remark)
    return [f"{same[0]}" + (f" (and {len(same) - 1} more)" if same[1:] else "") for same in alike.values()]


def _normalized(dims: Sequence[Dim]) -> list[str]:
    """A line on the dims that may be cut, and are not unless that is asked for."""
    held = [dim for dim in dims if dim.normalized]
    if not held:
        return []
    named = ", ".join(dim.name for dim in held[:3]) + (", …" if held[3:] else "")
    count = f"{len(held)} dim{'s' * (len(held) > 1)} of {sum(dim.size for dim in held)} channels"
    return [
        f"not blocked, but cut only with prune-channels{{normalized=true}}: {count} that a normalization "
        f"takes its statistics over ({named})"
    ]


def _axes(result: Sequence[Expression]) -> str:
    return "[" + ", ".join(map(str, result)) + "]"


def _numbers(dims: Sequence[str], *counts: int) -> tuple[str, ...]:
    return tuple(map(str, (len(dims), *counts)))


def _verdict(dim: Dim) -> str:
    if not dim.prunable:
        return f"no: {dim.blocked or 'a single index'}"
    marks = [text for flag, text in ((dim.residual, "residual"), (dim.normalized, "normalized")) if flag]
    return "yes" + (f" ({', '.join(marks)})" if marks else "")


def _parameters(graph: Graph, names: set[str] | None) -> int:
    tensors = graph.tensors()
    return sum(
        t.numel() for name, t in tensors.items() if t.is_floating_point() and (names is None or name in names)
    )
