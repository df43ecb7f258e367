"""Reductions: a sum contracts, everything else that mixes an axis fixes it."""

from __future__ import annotations

from typing import Any

from otgraph.graph.axes.call import Builder, Call, axes, text_of
from otgraph.graph.axes.rule import AxisRule, Combine


def _reduced(call: Call) -> list[int]:
    """The reduced axes: the first list (or the integer ``dim``) among the arguments; none given means all."""
    rank = call.operands[0].dim()
    found: Any = call.kwargs.get("dim")
    lists = [k for k, given in enumerate(call.args) if isinstance(given, (list, tuple))]
    if found is None and lists:
        found = call.args[lists[0]]
    if found is None and call.name in _DIM_SECOND:
        found = call.argument(1, "dim")
    dims: list[int] = [found] if isinstance(found, int) else list(found or range(rank))
    return sorted({d % max(rank, 1) for d in dims})


def _reduce(call: Call, mark: str, combine: Combine = "any") -> AxisRule:
    rank, gone = call.operands[0].dim(), _reduced(call)
    source = [f"a{i}{mark if i in gone else ''}" for i in range(rank)]
    kept = call.results[0].dim() == rank and rank > 0
    target = ["1" if i in gone else f"a{i}" for i in range(rank) if kept or i not in gone]
    text = f"{' '.join(source)} -> {', '.join([' '.join(target)] * len(call.results))}"
    return call.rule(text, reduce=() if mark else tuple(f"a{i}" for i in gone), combine=combine)


def summing(call: Call) -> AxisRule:
    """Sums, and norms (sums of powers): removed entries that are zero contribute nothing."""
    if call.name == "linalg_vector_norm" and float(call.argument(1, "ord", 2)) < 0:
        return mixing(call)  # zeros decide a norm of negative order
    return _reduce(call, "")


def mixing(call: Call) -> AxisRule:
    """Extrema, variances, products: they depend on how many entries there are, or on all of them."""
    return _reduce(call, "!")


def mean(call: Call) -> AxisRule:
    """``mean``: a sum over a count; the count is brought up to date by a factor on the result."""
    rank, gone = call.operands[0].dim(), _reduced(call)
    kept = call.results[0].dim() == rank and rank > 0
    source = [f"a{i}" for i in range(rank)]
    target = ["1" if i in gone else f"a{i}" for i in range(rank) if kept or i not in gone]
    return call.rule(text_of([source], [target]), averaged=tuple(f"a{i}" for i in gone))


def log_sum(call: Call) -> AxisRule:
    """``logsumexp``: the logarithm of how many entries there are, where they are zero."""
    return _reduce(call, "!", "always")


def along(call: Call) -> AxisRule:
    """Operators that mix one axis and keep it: softmax, cumulative sums, sorting, flips, rolls."""
    x = call.operands[0]
    found: Any = call.argument(2 if call.name == "roll" else 1, "dim" if call.name == "cumsum" else "dims")
    dims: list[int] = [found] if isinstance(found, int) else list(found or range(x.dim()))
    fixed = {d % max(x.dim(), 1) for d in dims}
    names = [a + ("!" if i in fixed else "") for i, a in enumerate(axes("a", x.dim()))]
    return call.rule(f"{' '.join(names)} -> {', '.join([' '.join(names)] * len(call.results))}")


def softmax(call: Call) -> AxisRule:
    """Softmax: positive everywhere, so a removed entry of another axis does not stay zero."""
    x, dim = call.operands[0], int(call.argument(1, "dim")) % max(call.operands[0].dim(), 1)
    names = " ".join(a + ("!" if i == dim else "") for i, a in enumerate(axes("a", x.dim())))
    return call.rule(f"{names} -> {names}", combine="always")


_DIM_SECOND = frozenset(
    {"argmax", "argmin", "max", "min", "median", "all", "any", "prod", "sum", "mean", "logsumexp"}
)

RULES: dict[str, Builder] = {
    "sum": summing,
    "linalg_vector_norm": summing,
    "mean": mean,
    "amax": mixing,
    "amin": mixing,
    "var": mixing,
    "var_mean": mixing,
    "std": mixing,
    "prod": mixing,
    "argmax": mixing,
    "argmin": mixing,
    "max": mixing,
    "min": mixing,
    "any": mixing,
    "all": mixing,
    "logsumexp": log_sum,
    "_softmax": softmax,
    "_safe_softmax": softmax,
    "_log_softmax": softmax,
    "cumsum": along,
    "flip": along,
    "roll": along,
}
