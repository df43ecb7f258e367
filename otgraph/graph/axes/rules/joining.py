"""Concatenation and its inverses: split, slice, select, gather by an index."""

from __future__ import annotations

import torch

from otgraph.graph.axes.call import Builder, Call, axes, text_of
from otgraph.graph.axes.rule import AxisRule


def cat(call: Call) -> AxisRule:
    """``aten.cat``: legacy empty operands of another rank take no part."""
    rank = call.results[0].dim()
    dim = int(call.argument(1, "dim", 0)) % rank
    names = axes("a", rank)
    operands: list[list[str]] = []
    parts: list[str] = []
    for k, tensor in enumerate(call.operands):
        if tensor.dim() != rank:
            operands.append(axes(f"empty{k}_", tensor.dim()))
            continue
        part = f"p{k}"
        operands.append([*names[:dim], part, *names[dim + 1 :]])
        parts += [part] * (tensor.shape[dim] != 0)
    sizes = {f"p{k}": int(t.shape[dim]) for k, t in enumerate(call.operands) if t.dim() == rank}
    result = [*names[:dim], "+".join(parts), *names[dim + 1 :]]
    return call.rule(text_of(operands, [result]), sizes=sizes)


def stack(call: Call) -> AxisRule:
    """``aten.stack``: the new axis is fixed."""
    rank = call.results[0].dim()
    dim = int(call.argument(1, "dim", 0)) % rank
    names = axes("a", rank - 1)
    return call.rule(text_of([names] * len(call.operands), [[*names[:dim], "k!", *names[dim:]]]))


def split(call: Call) -> AxisRule:
    """``split``, ``split_with_sizes``, ``chunk``: consecutive parts of one axis."""
    rank = call.operands[0].dim()
    dim = int(call.argument(2, "dim", 0)) % rank
    names = axes("a", rank)
    parts = [f"p{k}" for k in range(len(call.results))]
    sizes = {part: int(r.shape[dim]) for part, r in zip(parts, call.results, strict=True)}
    source = [*names[:dim], "+".join(p for p in parts if sizes[p]), *names[dim + 1 :]]
    results = [[*names[:dim], part, *names[dim + 1 :]] for part in parts]
    return call.rule(text_of([source], results), sizes=sizes)


def slice_(call: Call) -> AxisRule:
    """``aten.slice(x, dim, start, end, step)``: one part of an axis; every ``step``-th entry is the outer
    factor of a product; any other strided slice fixes the axis."""
    x, y = call.operands[0], call.results[0]
    dim, step = int(call.argument(1, "dim", 0)) % x.dim(), int(call.argument(4, "step", 1))
    names = axes("a", x.dim())
    size, taken = int(x.shape[dim]), int(y.shape[dim])
    if taken == size:
        return call.rule(text_of([names], [names]))
    if step > 1 and size % step == 0 and taken == size // step:
        source = [*names[:dim], "q*s!", *names[dim + 1 :]]
        return call.rule(
            text_of([source], [[*names[:dim], "q", *names[dim + 1 :]]]), sizes={"q": taken, "s": step}
        )
    if step != 1 or taken == 0:
        result = [*names[:dim], "y!", *names[dim + 1 :]]
        return call.rule(text_of([[*names[:dim], f"a{dim}!", *names[dim + 1 :]]], [result]))
    start = call.argument(2, "start")
    start = 0 if start is None else int(start)
    start = min(max(start + size if start < 0 else start, 0), size)
    return _part(call, dim, start, taken, names)


def _part(call: Call, dim: int, start: int, taken: int, names: list[str]) -> AxisRule:
    size = int(call.operands[0].shape[dim])
    sizes = {"before": start, "part": taken, "after": size - start - taken}
    whole = "+".join(p for p in ("before", "part", "after") if sizes[p])
    source, result = [*names[:dim], whole, *names[dim + 1 :]], [*names[:dim], "part", *names[dim + 1 :]]
    return call.rule(text_of([source], [result]), sizes=sizes)


def gated(call: Call) -> AxisRule:
    """``aten.glu``: one half of an axis times the sigmoid of the other; the halves are cut alike."""
    x, dim = call.operands[0], int(call.argument(1, "dim", -1)) % call.operands[0].dim()
    names = axes("a", x.dim())
    source = [*names[:dim], "p+p", *names[dim + 1 :]]
    sizes = {"p": int(x.shape[dim]) // 2}
    return call.rule(text_of([source], [[*names[:dim], "p", *names[dim + 1 :]]]), sizes=sizes)


def select(call: Call) -> AxisRule:
    """``aten.select``: the axis is gone; which index it was is a literal, so the axis is fixed."""
    x, dim = call.operands[0], int(call.argument(1, "dim")) % call.operands[0].dim()
    names = axes("a", x.dim())
    return call.rule(
        text_of([[*names[:dim], f"a{dim}!", *names[dim + 1 :]]], [names[:dim] + names[dim + 1 :]])
    )


def scatter(call: Call) -> AxisRule:
    """``slice_scatter``, ``select_scatter``: the axis that is written into is fixed."""
    x, src = call.operands[:2]
    dim = int(call.argument(2, "dim", 0)) % x.dim()
    names = axes("a", x.dim())
    whole = [*names[:dim], f"a{dim}!", *names[dim + 1 :]]
    part = [*names[:dim], *["s!"] * (src.dim() == x.dim()), *names[dim + 1 :]]
    return call.rule(text_of([whole, part], [whole]))


def unbind(call: Call) -> AxisRule:
    """``aten.unbind``: every index becomes a tensor of its own."""
    x, dim = call.operands[0], int(call.argument(1, "dim", 0)) % call.operands[0].dim()
    names = axes("a", x.dim())
    rest = names[:dim] + names[dim + 1 :]
    return call.rule(text_of([[*names[:dim], f"a{dim}!", *names[dim + 1 :]]], [rest] * len(call.results)))


def embedding(call: Call) -> AxisRule:
    """``aten.embedding(weight, indices)``: the vocabulary is fixed."""
    places = axes("t", call.operands[1].dim())
    return call.rule(text_of([["v!", "c"], places], [[*places, "c"]]))


def embedding_bag(call: Call) -> AxisRule:
    """``aten._embedding_bag(weight, indices, offsets, …)``: sums, means or extrema over the entries of a bag;
    which bag an entry is in, their sizes and the places of extrema are integers."""
    rest = [axes(f"t{k}_", t.dim(), "!") for k, t in enumerate(call.operands[1:])]
    counts = [axes(f"z{k}_", r.dim(), "!") for k, r in enumerate(call.results[1:])]
    return call.rule(text_of([["v!", "c"], *rest], [["b!", "c"], *counts]))


def index_select(call: Call) -> AxisRule:
    """``aten.index_select(x, dim, index)``: the axis that is looked up is fixed."""
    x, dim = call.operands[0], int(call.argument(1, "dim")) % max(call.operands[0].dim(), 1)
    names = axes("a", x.dim())
    source = [*names[:dim], f"a{dim}!", *names[dim + 1 :]]
    index = ["k!"] if call.operands[1].dim() else []
    result = [*names[:dim], "y!", *names[dim + 1 :]]
    return call.rule(text_of([source, index], [result]))


def index(call: Call) -> AxisRule | None:
    """``aten.index(x, [index or None, …])`` with index tensors on adjacent axes."""
    x, places = call.args[0], list(call.args[1])
    used = [i for i, t in enumerate(places) if t is not None]
    adjacent = bool(used) and used == list(range(used[0], used[-1] + 1))
    if not adjacent or any(places[i].dtype == torch.bool for i in used):
        return None
    names = [f"a{i}{'!' if i in used else ''}" for i in range(x.dim())]
    made = call.results[0].dim() - (x.dim() - len(used))
    lookups = [axes(f"k{i}_", places[i].dim(), "!") for i in used]
    result = names[: used[0]] + axes("y", made, "!") + names[used[-1] + 1 :]
    return call.rule(text_of([names, *lookups], [result]))


RULES: dict[str, Builder] = {
    "cat": cat,
    "stack": stack,
    "split": split,
    "split_with_sizes": split,
    "unsafe_split": split,
    "unsafe_split_with_sizes": split,
    "glu": gated,
    "slice": slice_,
    "select": select,
    "unbind": unbind,
    "slice_scatter": scatter,
    "select_scatter": scatter,
    "embedding": embedding,
    "_embedding_bag": embedding_bag,
    "_embedding_bag_forward_only": embedding_bag,
    "index_select": index_select,
    "index": index,
}
