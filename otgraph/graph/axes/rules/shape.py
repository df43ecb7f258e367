"""Views, permutations and broadcasts: the same entries under other axes."""

from __future__ import annotations

import itertools
import math

from torch._subclasses.fake_tensor import FakeTensor

from otgraph.graph.axes.call import Builder, Call, axes, text_of
from otgraph.graph.axes.rule import AxisRule


def view(call: Call) -> AxisRule:
    """Reshapes: runs of axes of equal extent are split into common factors, or fixed where there are none."""
    old, new = list(call.operands[0].shape), list(call.results[0].shape)
    source, target = ["1"] * len(old), ["1"] * len(new)
    sizes: dict[str, int] = {}
    for number, (left, right) in enumerate(_runs(old, new)):
        a, b = [old[i] for i in left], [new[j] for j in right]
        factors = _common_factors(a, b)
        if factors is None:
            source = _put(source, left, [f"x{number}_{i}!" for i in range(len(a))])
            target = _put(target, right, [f"y{number}_{j}!" for j in range(len(b))])
            continue
        names = [f"f{number}_{k}" for k in range(len(factors))]
        sizes |= dict(zip(names, factors, strict=True))
        source = _put(source, left, _grouped(names, factors, a))
        target = _put(target, right, _grouped(names, factors, b))
    return call.rule(text_of([source], [target]), sizes=sizes)


def _runs(old: list[int], new: list[int]) -> list[tuple[list[int], list[int]]]:
    """Pairs of shortest runs of axes with the same number of entries; axes of size 1 belong to none."""
    left = [i for i, size in enumerate(old) if size != 1]
    right = [j for j, size in enumerate(new) if size != 1]
    runs: list[tuple[list[int], list[int]]] = []
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        p, q = old[a[0]], new[b[0]]
        while p != q:
            if p < q:
                a.append(left.pop(0))
                p *= old[a[-1]]
            else:
                b.append(right.pop(0))
                q *= new[b[-1]]
        runs.append((a, b))
    return runs


def _common_factors(a: list[int], b: list[int]) -> list[int] | None:
    ends = sorted({math.prod(side[: k + 1]) for side in (a, b) for k in range(len(side))})
    pairs = list(itertools.pairwise([1, *ends]))
    return None if any(stop % start for start, stop in pairs) else [stop // start for start, stop in pairs]


def _grouped(names: list[str], factors: list[int], sizes: list[int]) -> list[str]:
    result: list[str] = []
    at = 0
    for size in sizes:
        span, group = 1, list[str]()
        while span < size:
            group.append(names[at])
            span *= factors[at]
            at += 1
        result.append("*".join(group))
    return result


def _put(into: list[str], places: list[int], values: list[str]) -> list[str]:
    result = list(into)
    for place, value in zip(places, values, strict=True):
        result[place] = value
    return result


def permute(call: Call) -> AxisRule:
    """``permute``, ``transpose``, ``t``: the axes in another order."""
    rank = call.operands[0].dim()
    order = list(range(rank))
    if call.name == "permute":
        order = [int(d) % rank for d in call.argument(1, "dims")]
    elif rank > 1:
        i, j = (0, 1) if call.name in ("t", "t_") else (int(d) % rank for d in call.args[1:3])
        order[i], order[j] = order[j], order[i]
    names = axes("a", rank)
    return call.rule(text_of([names], [[names[i] for i in order]]))


def expand(call: Call) -> AxisRule:
    """``expand``, ``broadcast_to``: an axis of size 1 that grows is free, whatever it will meet decides."""
    x, y = call.operands[0], call.results[0]
    names = axes("a", y.dim())
    offset = y.dim() - x.dim()
    grown = [n for i, n in enumerate(names) if i < offset or x.shape[i - offset] != y.shape[i]]
    return call.rule(
        text_of([names[offset:]], [names]),
        sizes=dict(zip(names, map(int, y.shape), strict=True)),
        fresh=tuple(grown),
    )


def repeat(call: Call) -> AxisRule:
    """``aten.repeat``: copies laid end to end, a fixed factor outside."""
    x, y = call.operands[0], call.results[0]
    times = [int(r) for r in call.argument(1, "repeats")]
    offset = y.dim() - x.dim()
    source = axes("a", x.dim())
    sizes = {f"r{i}": t for i, t in enumerate(times)}
    target = [
        f"r{i}!" if i < offset else (source[i - offset] if t == 1 else f"r{i}!*{source[i - offset]}")
        for i, t in enumerate(times)
    ]
    sizes |= {name: int(size) for name, size in zip(source, x.shape, strict=True)}
    return call.rule(text_of([source], [target]), sizes=sizes)


def channel_shuffle(call: Call) -> AxisRule:
    """``native_channel_shuffle``: channels as (groups, rest), exchanged."""
    x, groups = call.operands[0], int(call.argument(1, "groups"))
    space = " ".join(axes("h", x.dim() - 2))
    sizes = {"g": groups, "c": int(x.shape[1]) // groups}
    return call.rule(f"n g*c {space} -> n c*g {space}", sizes=sizes)


def squeeze(call: Call) -> AxisRule:
    """``unsqueeze``, ``squeeze``: axes of size 1 come and go."""
    return view(call)


def restride(call: Call) -> AxisRule | None:
    """``as_strided_``: on fake tensors kernels lay their empty result out with it; else it moves entries."""
    x, size = call.operands[0], [int(s) for s in call.argument(1, "size")]
    if not isinstance(x, FakeTensor) or size != list(x.shape):
        return None
    names = axes("a", x.dim())
    return call.rule(text_of([names], [names]))


RULES: dict[str, Builder] = {
    **dict.fromkeys(
        ["view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "view_copy"], view
    ),
    **dict.fromkeys(["unsqueeze", "unsqueeze_", "squeeze", "squeeze_"], squeeze),
    **dict.fromkeys(["permute", "transpose", "transpose_", "t", "t_"], permute),
    **dict.fromkeys(["expand", "broadcast_to"], expand),
    "repeat": repeat,
    **dict.fromkeys(["channel_shuffle", "native_channel_shuffle"], channel_shuffle),
    "as_strided_": restride,
}
