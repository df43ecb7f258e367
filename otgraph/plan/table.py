"""A plan as plain text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otgraph.plan.decision import DepthAction, DimDecision
from otgraph.text_table import aligned

if TYPE_CHECKING:
    from otgraph.plan.plan import Plan


def plan_table(plan: Plan) -> str:
    """The plan's facts, then one line per dim that is cut: what stays, and the predicted damage; and one per
    span that collapses: what it becomes, and the time of its nodes before and after."""
    cut = [dim for dim in plan.dims if len(dim.kept) < dim.size]
    rows = [
        (
            dim.name,
            f"{len(dim.kept)} of {dim.size}",
            f"{dim.damage:.3g}" if dim.damage else "–",
            f"{dim.cost:.3g}",
            f"{dim.bound:.3g}",
        )
        for dim in cut
    ]
    lines = [f"{name + ':':<13}{text}" for name, text in _facts(plan)]
    lines += (
        ["", *aligned([("dim", "kept", "damage alone", "cost", "cost at least"), *rows], left=1)]
        if rows
        else []
    )
    lines += _constants(cut)
    depth = [_action(action) for action in plan.depth]
    lines += (
        ["", *aligned([("span", "nodes", "becomes", "damage alone", "ms", "ms after"), *depth], left=1)]
        if depth
        else []
    )
    whole = len(plan.dims) - len(cut)
    lines += [f"{whole} more {'dim is' if whole == 1 else 'dims are'} kept whole"] if whole else []
    return "\n".join(lines)


def _constants(cut: list[DimDecision]) -> list[str]:
    """How many channels of each dim the calibration inputs never moved; nothing where all vary."""
    named = [f"{dim.name} {dim.constant} of {dim.size}" for dim in cut if dim.constant]
    if not named:
        return []
    return [f"constant on the calibration inputs, which others may move: {', '.join(named)}"]


def _action(action: DepthAction) -> tuple[str, ...]:
    collapse = action.collapse
    size = "×".join(map(str, collapse.kernel))
    words = (size, collapse.map, "" if collapse.map == "identity" else f"({collapse.estimator})")
    return (
        collapse.span.name,
        str(len(collapse.span.nodes)),
        " ".join(word for word in words if word),
        f"{action.damage:.3g}" if action.damage else "–",
        _figure(action.old_ms, "") or "–",
        _figure(action.new_ms, "") or "–",
    )


def _facts(plan: Plan) -> list[tuple[str, str]]:
    predicted = plan.predictions
    figures = [
        ("time", _figure(predicted.time_ratio, "x")),
        ("MACs", _figure(predicted.macs_ratio, "x")),
        ("relative L2", _figure(predicted.damage, "")),
        ("damages of single decisions within a factor of", _figure(predicted.uncertainty, "")),
        ("gap to the best allocation at most", _figure(predicted.gap, "")),
    ]
    device = ", ".join(f"{key} {value}" for key, value in plan.device.items())
    facts = [
        ("plan for", f"{plan.model} ({plan.fingerprint.digest})"),
        ("budget", str(plan.budget)),
        ("engine", plan.engine + (f" ({device})" if device else "")),
        ("criterion", f"{plan.criterion}, seed {plan.seed}"),
        ("predicted", ", ".join(f"{name} {text}" for name, text in figures if text) or "nothing"),
        ("passes", plan.pipeline),
    ]
    if plan.calibration is not None:
        used, drawn = plan.calibration.count, plan.calibration.drawn
        kept = "" if drawn is None else f", {drawn - used} more kept to judge by"
        facts.insert(4, ("calibration", f"{used} inputs of {plan.calibration.source}{kept}"))
    return facts


def _figure(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g}{unit}"
