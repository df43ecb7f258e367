"""How figures are written for people, the same in the terminal and in the HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otgraph.audit.changes import NodeRef, by_op

if TYPE_CHECKING:
    from otgraph.audit.report import Audit


NAMED = 6
"""So many layers are named on a line; the JSON and the HTML name all."""


@dataclass(frozen=True)
class Quantity:
    """Something both models have an amount of, with the texts that show it."""

    label: str
    a: float
    b: float
    a_text: str
    b_text: str

    @property
    def larger(self) -> float:
        """The amount that a full bar stands for; never zero."""
        return max(self.a, self.b) or 1.0

    @property
    def change(self) -> str:
        """B relative to A, as a signed percentage."""
        if self.a == 0:
            return "" if self.b == 0 else "new"
        percent = 100 * (self.b / self.a - 1)
        return "±0 %" if abs(percent) < 0.05 else f"{percent:+.1f} %".replace("-", "−")


def quantities(audit: Audit) -> list[Quantity]:
    """Latency, size, MACs, parameters, nodes and depths, as far as both can tell."""
    a, b, latency = audit.a.structure, audit.b.structure, audit.latency
    clock = "latency" if latency.clock == "wall" else f"{latency.clock} per call"
    counted = [
        ("MACs", a.macs, b.macs, amount),
        ("parameters", a.parameters, b.parameters, amount),
        ("size on disk", a.bytes, b.bytes, _bytes),
        ("nodes", a.nodes, b.nodes, _whole),
        ("depth", a.depth, b.depth, _whole),
        ("compute depth", a.compute_depth, b.compute_depth, _whole),
    ]
    return [
        Quantity(clock, latency.a_ms, latency.b_ms, milliseconds(latency.a_ms), milliseconds(latency.b_ms)),
        *(
            Quantity(label, left, right, write(left), write(right))
            for label, left, right, write in counted
            if left is not None and right is not None
        ),
    ]


def _bytes(value: float) -> str:
    return amount(value, "B")


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def fidelity_lines(audit: Audit) -> list[tuple[str, str]]:
    """Label and value of each figure of fidelity, the most telling first."""
    lines: list[tuple[str, str]] = []
    found = audit.fidelity
    if found.classification is not None:
        scores = found.classification
        unit = "positions" if scores.per_position else "samples"
        lines.append((f"top-1 agreement ({unit})", share(scores.top1_agreement)))
        lines.append(("KL(A ‖ B), mean", f"{scores.kl:.4g} nats"))
        if scores.accuracy_a is not None and scores.accuracy_b is not None:
            lines.append(("accuracy, A → B", f"{share(scores.accuracy_a)} → {share(scores.accuracy_b)}"))
    if found.metric is not None:
        lines.append((f"{found.metric.name}, A → B", f"{found.metric.a:.6g} → {found.metric.b:.6g}"))
    for output in found.outputs:
        if output.relative_l2 is None:
            lines.append((f"{output.name}: equal elements", share(output.equal)))
            continue
        cosine = "–" if output.cosine is None else f"{output.cosine:.5f}"
        lines.append((f"{output.name}: relative L2", f"{output.relative_l2:.4g}"))
        lines.append((f"{output.name}: cosine", cosine))
        lines.append((f"{output.name}: largest difference", f"{output.max_abs:.4g}"))
        if output.non_finite:
            lines.append((f"{output.name}: NaN or infinite", f"{output.non_finite:,} elements"))
    return lines


def conditions_line(audit: Audit) -> str:
    """How and under which load latency was measured."""
    latency, state = audit.latency, audit.latency.conditions
    parts = [
        f"{len(latency.per_repeat)} × {latency.pairs} pairs",
        f"{latency.threads} thread{'s' * (latency.threads > 1)}",
        latency.clock,
        f"CPU/wall {state.cpu_over_wall:.2f}",
    ]
    parts += [] if state.load is None else [f"load {state.load:.1f} on {state.cpu_count} CPUs"]
    parts += [] if state.steal is None else [f"steal {100 * state.steal:.1f} %"]
    parts += [] if state.governor is None else [f"governor {state.governor}"]
    parts += [f"{name} {a:.0f} to {b:.0f}" for name, (a, b) in state.sensors.items()]
    return ", ".join(parts)


def not_counted_line(audit: Audit) -> str:
    """Which ops are missing from the MACs, or nothing."""
    ops = {**audit.a.structure.not_counted, **audit.b.structure.not_counted}
    return f"MACs leave out: {', '.join(sorted(ops))}" if ops else ""


def changes_lines(audit: Audit) -> list[str]:
    """Which nodes went and which are new, the layers by name; nothing where all are the same."""
    if any(item.structure.nodes is None for item in (audit.a, audit.b)):
        return ["nodes: an engine's file does not list them"]
    found = audit.changes
    if not found.comparable:
        return ["nodes: A and B share no name, so what went cannot be told; compare files of one exporter"]
    return [_changed(word, nodes) for word, nodes in (("gone", found.gone), ("new", found.new)) if nodes]


def _changed(word: str, nodes: Sequence[NodeRef]) -> str:
    """``gone: 3 nodes (2 Conv, 1 Relu): conv1, conv2``; only layers are named, the first few."""
    layers = [node.name for node in nodes if node.compute]
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    names = f": {', '.join(layers[:NAMED])}{more}" if layers else ""
    return f"{word}: {len(nodes)} node{'s' * (len(nodes) > 1)} ({by_op(nodes)}){names}"


def task_line(audit: Audit) -> str:
    """That the outputs were taken for class scores by their look alone, where that may be wrong."""
    scores = audit.fidelity.classification
    if scores is None or audit.fidelity.task_asked != "auto":
        return ""
    if scores.rows != "logits" or scores.accuracy_a is not None:
        return ""
    what = f"{scores.output} was read as scores of {scores.classes} classes"
    return f"{what}; if it is not that, say --task regression"


def amount(value: float, unit: str = "") -> str:
    """Three significant digits with k, M, G before the unit."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{three_digits(value / size)} {prefix}{unit}"
    return f"{value:,.0f} {unit}".strip()


def milliseconds(value: float) -> str:
    """Three significant digits; microseconds below 0.1 ms."""
    return f"{three_digits(value * 1e3)} µs" if value < 0.1 else f"{three_digits(value)} ms"


def three_digits(value: float) -> str:
    """Three significant digits, trailing zeros kept so that columns line up; whole above 999."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:#.3g}".removesuffix(".")


def share(value: float) -> str:
    """A percentage with two decimals, never rounded up to 100."""
    text = f"{100 * value:.2f} %"
    return "99.99 %" if text == "100.00 %" and value < 1 else text
