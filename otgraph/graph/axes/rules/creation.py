"""Operators that make tensors out of sizes and constants."""

from __future__ import annotations

from otgraph.graph.axes.call import Builder, Call, axes, text_of
from otgraph.graph.axes.rule import AxisRule, Combine


def filled(call: Call) -> AxisRule:
    """``full``, ``ones``, ``new_*``: every entry is the same, so any axis may be cut."""
    return _filled(call, "always")


def blank(call: Call) -> AxisRule:
    """``zeros``, ``new_zeros``: as ``filled``, and zero wherever it is cut."""
    return _filled(call, "never")


def _filled(call: Call, combine: Combine) -> AxisRule:
    operands = [axes(f"s{i}_", t.dim()) for i, t in enumerate(call.operands)]
    names = axes("a", call.results[0].dim())
    return call.rule(text_of(operands, [names]), fresh=tuple(names), combine=combine)


def counted(call: Call) -> AxisRule:
    """``arange``, ``scalar_tensor``, ``eye``: the entries depend on their places, so the axes are fixed."""
    operands = [axes(f"s{i}_", t.dim()) for i, t in enumerate(call.operands)]
    results = [axes(f"a{i}_", r.dim(), "!") for i, r in enumerate(call.results)]
    return call.rule(text_of(operands, results), combine="always")


RULES: dict[str, Builder] = {
    **dict.fromkeys(["full", "ones", "new_ones", "new_full", "empty", "new_empty"], filled),
    **dict.fromkeys(["zeros", "new_zeros"], blank),
    **dict.fromkeys(["arange", "scalar_tensor", "eye", "linspace", "tril_indices"], counted),
}
