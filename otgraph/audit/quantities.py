"""How figures are written for people, the same in the terminal and in the HTML report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otgraph.audit.changes import NodeRef, by_op

if TYPE_CHECKING:
    from otgraph.audit.fidelity import Fidelity
    from otgraph.audit.intervals import Interval
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


def fidelity_title(found: Fidelity) -> str:
    """``fidelity over 77 samples kept from everything``: on which samples the figures are."""
    return f"fidelity over {found.samples:,} {_SAMPLES[found.source]}"


_SAMPLES = {
    "data": "samples",
    "fitted": "samples that B was fitted on",
    "held-out": "samples that nothing was fitted on",
    "cross-fitted": "samples, each kept from the repair it is judged by",
}


def fidelity_lines(found: Fidelity) -> list[tuple[str, str]]:
    """Label and value of each figure of fidelity, with its 95 % interval, the most telling first."""
    lines: list[tuple[str, str]] = []
    if found.classification is not None:
        scores = found.classification
        unit = "positions" if scores.per_position else "samples"
        agreement = _between(scores.top1_agreement_interval, percent)
        lines.append((f"top-1 agreement ({unit})", f"{share(scores.top1_agreement)}{agreement}"))
        lines.append(("KL(A ‖ B), mean", f"{scores.kl:.4g} nats{_between(scores.kl_interval)}"))
        if scores.accuracy_a is not None and scores.accuracy_b is not None:
            lines.append(("accuracy, A → B", f"{share(scores.accuracy_a)} → {share(scores.accuracy_b)}"))
            if scores.accuracy_change_interval is not None:
                change = f"{100 * (scores.accuracy_b - scores.accuracy_a):+.2f} points"
                shown = _between(scores.accuracy_change_interval, _points)
                lines.append(("change of accuracy", _minus(f"{change}{shown}")))
    if found.metric is not None:
        lines.append((f"{found.metric.name}, A → B", f"{found.metric.a:.6g} → {found.metric.b:.6g}"))
    for output in found.outputs:
        if output.relative_l2 is None:
            between = _between(output.equal_interval, percent)
            lines.append((f"{output.name}: equal elements", f"{share(output.equal)}{between}"))
            continue
        cosine = "–" if output.cosine is None else f"{output.cosine:.5f}"
        cosine += _between(output.cosine_interval, "{:.5f}".format)
        relative = f"{output.relative_l2:.4g}{_between(output.relative_l2_interval)}"
        lines.append((f"{output.name}: relative L2", relative))
        lines.append((f"{output.name}: cosine", cosine))
        lines.append((f"{output.name}: largest difference", f"{output.max_abs:.4g}"))
        if output.non_finite:
            lines.append((f"{output.name}: NaN or infinite", f"{output.non_finite:,} elements"))
    return lines


def gap_line(audit: Audit) -> str:
    """The most telling figures on the inputs of the repair beside those on unseen ones."""
    found = audit.generalization
    if found is None:
        return ""
    count = f"{found.fitted.samples:,}"
    return f"on the {count} inputs it was fitted on: {_brief(found.fitted)}; unseen: {_brief(found.unseen)}"


def seen_line(audit: Audit) -> str:
    """That B was fitted on some of the samples, which no figure about them tells by itself."""
    if not audit.fitted_samples or audit.fidelity.source != "data":
        return ""
    count, samples = audit.fitted_samples, audit.fidelity.samples
    which = "these samples" if count == samples else f"{count:,} of these {samples:,} samples"
    return f"B was fitted on {which}, so that the figures flatter it; audit it on others"


def shifts_line(audit: Audit) -> str:
    """How B fares on inputs a little unlike these, beside the same inputs as they are."""
    found = audit.shifts
    if found is None:
        return ""
    figures = [f"{label} {value}" for label, value in shift_figures(audit)]
    return f"on {found.samples} inputs moved a little, {found.drift_name}: {', '.join(figures)}"


def shift_figures(audit: Audit) -> list[tuple[str, str]]:
    """Label and drift of each change of the inputs, the unchanged ones first."""
    if audit.shifts is None:
        return []
    changed = [
        (s.name, "not comparable" if s.drift is None else f"{s.drift:.4g}") for s in audit.shifts.shifts
    ]
    return [("as they are", f"{audit.shifts.unchanged:.4g}"), *changed]


def constant_line(audit: Audit) -> str:
    """How much of what was cut the calibration inputs never moved."""
    if not audit.constant:
        return ""
    what = f"{audit.constant} channels of the dims that were cut were constant on the calibration inputs"
    return f"{what}; inputs that are unlike those may move them"


def _brief(found: Fidelity) -> str:
    """``KL divergence 0.066 [0.051, 0.083], top-1 agreement 89.6 % [85.1, 92.9]``."""
    parts = [f"{found.drift_name} {found.drift:.4g}{_between(found.drift_interval)}"]
    scores = found.classification
    if scores is not None:
        interval = _between(scores.top1_agreement_interval, percent)
        parts.append(f"top-1 agreement {share(scores.top1_agreement)}{interval}")
    return ", ".join(parts)


def _between(interval: Interval | None, write: Callable[[float], str] = "{:.3g}".format) -> str:
    return "" if interval is None else f" [{write(interval[0])}, {write(interval[1])}]"


def percent(value: float) -> str:
    """The number of percent, with one decimal."""
    return f"{100 * value:.1f}"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _minus(text: str) -> str:
    return text.replace("-", "−")


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
    """How the outputs were read, where their look alone decided it."""
    reading = audit.fidelity.reading
    return "" if reading is None or reading.asked != "auto" else f"read as {reading.text}"


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
