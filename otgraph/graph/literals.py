"""Which arguments of a node repeat a size, and what they must say after a cut.

Both dialects bake sizes into arguments (``view`` sizes, ``groups``, ``Reshape`` shapes, split sizes, the
default attention scale). ``rewrite_literals`` brings them up to date through an ``Editor``, before any tensor
is cut.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import fx

from otgraph.graph.affine import argument
from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.axes.expression import Expression, Mask
from otgraph.graph.graph import Graph, op_name


class Editor(Protocol):
    """The edits this module needs; the ``Rewriter`` has them."""

    def set_argument(self, node: fx.Node, key: int | str, value: Any) -> None:
        """Set a positional (int) or keyword (str) argument."""
        ...

    def set_tensor(self, name: str, value: torch.Tensor) -> None:
        """Replace a stored tensor."""
        ...

    def replace(self, node: fx.Node, value: fx.Node) -> None:
        """Let every user of ``node`` use ``value``, which reads it, instead."""
        ...

    def add_tensor(self, name: str, value: torch.Tensor) -> fx.Node:
        """Store a new tensor; returns the ``get_attr`` node that reads it."""
        ...

    def insert_after(
        self,
        node: fx.Node,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> fx.Node:
        """Insert a call after ``node``."""
        ...


class Cutting:
    """The cut as the literal rules see it: axes of every value, before and after."""

    def __init__(self, graph: Graph, axes: AxisMap, keep: Keep, editor: Editor) -> None:
        self.graph = graph
        self.values: dict[tuple[fx.Node, bool], torch.Tensor | None] = {}
        self.axes = axes
        self.keep = keep
        self.editor = editor
        self._scaled: dict[str, str] = {}

    def tensor(self, name: str) -> torch.Tensor:
        """A stored tensor, before the cut."""
        return self.graph.tensor(name)

    def axis(self, node: fx.Node, axis: int, result: int = 0) -> Expression:
        """The expression of one axis of what ``node`` returns."""
        return self.results(node)[result][axis]

    def results(self, node: fx.Node) -> tuple[tuple[Expression, ...], ...]:
        """The axes of everything ``node`` returns."""
        return self.axes.values[self._scaled.get(node.name, node.name)]

    def scale(self, node: fx.Node, multiply: Callable[..., Any], factor: Any) -> None:
        """Multiply what ``node`` returns by ``factor``, for all who read it."""
        scaled = self.editor.insert_after(node, multiply, (node, factor))
        self.editor.replace(node, scaled)
        self._scaled[scaled.name] = node.name

    def mask(self, node: fx.Node, axis: int, result: int = 0) -> Mask:
        """Which positions of that axis stay."""
        return self.axis(node, axis, result).mask(self.keep)

    def rank(self, node: fx.Node, result: int = 0) -> int:
        """How many axes ``node`` has."""
        return len(self.results(node)[result])

    def sizes(self, node: fx.Node, result: int = 0) -> list[tuple[int, int]]:
        """(before, after) of every axis of what ``node`` returns."""
        shape = self.results(node)[result]
        return [(axis.size, int(axis.mask(self.keep).sum())) for axis in shape]


LiteralRule = Callable[[fx.Node, Cutting], None]


def rewrite_literals(
    graph: Graph, axes: AxisMap, keep: Keep, editor: Editor, rules: Mapping[str, LiteralRule] | None = None
) -> None:
    """Bring every size that an argument in ``graph`` repeats up to date with the cut ``keep``.

    ``rules``: operator name → rule; by default those of the ``aten`` dialect.
    """
    cutting = Cutting(graph, axes, keep, editor)
    for node in list(graph.module.graph.nodes):
        rule = (RULES if rules is None else rules).get(op_name(node))
        if rule is not None and node.name in axes.values:
            rule(node, cutting)


def _shape_list(position: int) -> Callable[[fx.Node, Cutting], None]:
    """The list argument at ``position`` is the shape of the result."""

    def rule(node: fx.Node, cutting: Cutting) -> None:
        old = list(node.args[position])  # type: ignore[arg-type]
        node_sizes = cutting.sizes(node)
        new = [_new_size(v, sizes, node, cutting) for v, sizes in zip(old, node_sizes, strict=True)]
        if new != old:
            cutting.editor.set_argument(node, position, new)

    return rule


def _new_size(value: Any, sizes: tuple[int, int], node: fx.Node, cutting: Cutting) -> Any:
    before, after = sizes
    if isinstance(value, int):
        return after if value == before else value  # -1 stays
    if not isinstance(value, fx.Node):
        return value
    now = _evaluate(value, cutting, cut=True)
    if now is None or now == after:
        return value
    scale = math.gcd(now, after)
    product = cutting.editor.insert_after(value, operator.mul, (value, after // scale))
    return cutting.editor.insert_after(product, operator.floordiv, (product, now // scale))


def _evaluate(node: fx.Node, cutting: Cutting, *, cut: bool) -> int | None:
    """The integer a size computation gives on the example inputs, after (or before) the cut."""
    if op_name(node) == "aten.sym_size":
        before, after = cutting.sizes(node.args[0])[int(node.args[1])]  # type: ignore[arg-type]
        return after if cut else before
    function = _INTEGER.get(node.target)
    if function is None:
        return None
    values = [_evaluate(a, cutting, cut=cut) if isinstance(a, fx.Node) else a for a in node.args]
    return None if any(not isinstance(v, int) for v in values) else function(*values)


_INTEGER: dict[Any, Callable[..., int]] = {
    operator.mul: operator.mul,
    operator.add: operator.add,
    operator.sub: operator.sub,
    operator.floordiv: operator.floordiv,
    operator.mod: operator.mod,
}


def _groups(position: int | str) -> Callable[[fx.Node, Cutting], None]:
    """The number of groups that survive: those of which any channel does."""

    def rule(node: fx.Node, cutting: Cutting) -> None:
        key: str = position if isinstance(position, str) else ("num_groups" if position == 1 else "groups")
        old = node.kwargs.get(position) if isinstance(position, str) else argument(node, position, key)
        count = _evaluate(old, cutting, cut=False) if isinstance(old, fx.Node) else old
        if not isinstance(count, int) or count == 1 or not isinstance(node.args[0], fx.Node):
            return
        mask = cutting.mask(node.args[0], 1)
        left = int(mask.reshape(count, -1).any(axis=1).sum())
        new = _new_size(old, (count, left), node, cutting)
        if new is not old and new != old:
            where = position if isinstance(position, str) or len(node.args) > position else key
            cutting.editor.set_argument(node, where, new)

    return rule


def _split(node: fx.Node, cutting: Cutting) -> None:
    """``split``, ``split_with_sizes``, ``chunk`` become ``split_with_sizes`` with the parts that are left."""
    source = node.args[0]
    if not isinstance(source, fx.Node):
        return
    dim = int(argument(node, 2, "dim", 0)) % cutting.rank(source)  # type: ignore[arg-type]
    count = len(cutting.results(node))
    parts = [cutting.sizes(node, k)[dim] for k in range(count)]
    if all(before == after for before, after in parts):
        return
    cutting.editor.set_argument(node, 1, [after for _, after in parts])
    node.target = torch.ops.aten.split_with_sizes.default


def _slice(node: fx.Node, cutting: Cutting) -> None:
    """Start and end count the positions that are left before them."""
    source = node.args[0]
    if not isinstance(source, fx.Node):
        return
    dim = int(argument(node, 1, "dim", 0))
    mask = cutting.mask(source, dim)
    if argument(node, 4, "step", 1) != 1:
        _strided(node, mask, cutting)
        return
    for position, name in ((2, "start"), (3, "end")):
        old = argument(node, position, name)
        if isinstance(old, int) and not mask.all():
            new = place_after_cut(old, mask)
            if new != old:
                cutting.editor.set_argument(node, position if len(node.args) > position else name, new)


def _strided(node: fx.Node, mask: Mask, cutting: Cutting) -> None:
    """Only whole strides are cut, so the start stays; an end inside the axis becomes the end of the axis."""
    end = argument(node, 3, "end")
    if isinstance(end, int) and end < len(mask) and not mask.all():
        cutting.editor.set_argument(node, 3 if len(node.args) > 3 else "end", int(mask.sum()))


def place_after_cut(place: int, mask: Mask) -> int:
    """Where a slice bound lies after the cut; past-the-end and open bounds stay what they are."""
    size = len(mask)
    if place >= size:
        return place
    absolute = max(place + size, 0) if place < 0 else place
    return int(mask[:absolute].sum())


def _layer_norm(node: fx.Node, cutting: Cutting) -> None:
    shape = list(node.args[1])  # type: ignore[arg-type]
    new = [after for _, after in cutting.sizes(node)[-len(shape) :]]
    if new != shape:
        cutting.editor.set_argument(node, 1, new)


def _mean(node: fx.Node, cutting: Cutting) -> None:
    """A mean over fewer entries, the removed ones being zero, is larger by their share: scale it back."""
    source = node.args[0]
    if isinstance(source, fx.Node):
        share = left_share(cutting.sizes(source), argument(node, 1, "dim"))
        if share != 1:
            cutting.scale(node, torch.ops.aten.mul.Tensor, share)


def left_share(sizes: list[tuple[int, int]], along: Any) -> float:
    """What is left of the entries over the axes ``along``; None or no axis means all."""
    places = [along] if isinstance(along, int) else list(along or range(len(sizes)))
    return math.prod(sizes[int(axis)][1] for axis in places) / math.prod(sizes[int(a)][0] for a in places)


def _rms_norm(node: fx.Node, cutting: Cutting) -> None:
    """γ·√(D/K) and ε·D/K: the mean square over D entries of which D − K are zero, exactly."""
    shape = list(node.args[1])  # type: ignore[arg-type]
    sizes = cutting.sizes(node)[-len(shape) :]
    share = math.prod(after for _, after in sizes) / math.prod(before for before, _ in sizes)
    if share == 1:
        return
    _layer_norm(node, cutting)
    eps, weight = argument(node, 3, "eps"), argument(node, 2, "weight")
    if eps is None:
        eps = torch.finfo(_dtype(cutting.graph)).eps
    key = 3 if len(node.args) > 2 and "eps" not in node.kwargs else "eps"
    cutting.editor.set_argument(node, key, float(eps) / share)  # type: ignore[arg-type]
    if isinstance(weight, fx.Node) and _sole_reader(weight, cutting.graph):
        name = str(weight.target)
        cutting.editor.set_tensor(name, cutting.tensor(name).detach() * math.sqrt(1 / share))
    else:
        cutting.scale(node, torch.ops.aten.mul.Tensor, math.sqrt(1 / share))


def _sole_reader(weight: fx.Node, graph: Graph) -> bool:
    """Whether a stored tensor is read here and nowhere else."""
    readers = [n for n in graph.module.graph.nodes if n.op == "get_attr" and n.target == weight.target]
    return weight.op == "get_attr" and len(readers) == 1 and len(weight.users) == 1


def _dtype(graph: Graph) -> torch.dtype:
    """The type of the inputs that are no integers: what a norm without a weight computes in."""
    return next((t.dtype for t in graph.example if t.is_floating_point()), torch.float32)


def _attention(node: fx.Node, cutting: Cutting) -> None:
    """The default scale is 1/√(head width): it must stay what it was."""
    query = node.args[0]
    if argument(node, 6, "scale") is None and isinstance(query, fx.Node):
        before, after = cutting.sizes(query)[-1]
        if before != after:
            cutting.editor.set_argument(node, "scale", 1.0 / math.sqrt(before))


def _repeat_interleave(node: fx.Node, cutting: Cutting) -> None:
    """Each position is repeated as often as positions of the result are left for it."""
    source, dim = node.args[0], argument(node, 2, "dim")
    if not isinstance(source, fx.Node) or not isinstance(node.args[1], int) or dim is None:
        return
    before, after = cutting.sizes(source)[int(dim)][1], cutting.sizes(node)[int(dim)][1]
    if after != before * node.args[1]:
        cutting.editor.set_argument(node, 1, after // before)


def _channel_shuffle(node: fx.Node, cutting: Cutting) -> None:
    """The number of groups that are left, of the channels before the shuffle."""
    source, groups = node.args[0], argument(node, 1, "groups")
    if isinstance(source, fx.Node) and isinstance(groups, int):
        new = int(cutting.mask(source, 1).reshape(groups, -1).any(axis=1).sum())
        if new != groups:
            cutting.editor.set_argument(node, 1, new)


def _unflatten(node: fx.Node, cutting: Cutting) -> None:
    """The sizes that one axis is split into; -1 stays."""
    source, sizes = node.args[0], argument(node, 2, "sizes")
    if not isinstance(source, fx.Node) or not isinstance(sizes, (list, tuple)):
        return
    dim = int(argument(node, 1, "dim")) % cutting.rank(source)
    left = [after for _, after in cutting.sizes(node)[dim : dim + len(sizes)]]
    new = [
        old if not isinstance(old, int) or old == -1 else now for old, now in zip(sizes, left, strict=True)
    ]
    if new != list(sizes):
        cutting.editor.set_argument(node, 2, new)


def _narrow(node: fx.Node, cutting: Cutting) -> None:
    """Start and length count the positions that are left."""
    source, start = node.args[0], argument(node, 2, "start")
    if not isinstance(source, fx.Node) or not isinstance(start, int):
        return
    dim = int(argument(node, 1, "dim"))
    mask = cutting.mask(source, dim)
    if not mask.all():
        cutting.editor.set_argument(node, 2, place_after_cut(start, mask))
        cutting.editor.set_argument(node, 3, cutting.sizes(node)[dim][1])


RULES: dict[str, Callable[[fx.Node, Cutting], None]] = {
    **dict.fromkeys(["aten.view", "aten.reshape", "aten._unsafe_view", "aten.view_copy"], _shape_list(1)),
    **dict.fromkeys(["aten.expand", "aten.broadcast_to", "aten.new_zeros", "aten.new_ones"], _shape_list(1)),
    **dict.fromkeys(["aten.new_full", "aten.new_empty"], _shape_list(1)),
    **dict.fromkeys(["aten.full", "aten.zeros", "aten.ones", "aten.empty"], _shape_list(0)),
    **dict.fromkeys(["aten.conv1d", "aten.conv2d", "aten.conv3d"], _groups(6)),
    **dict.fromkeys(["aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d"], _groups(6)),
    "aten.convolution": _groups(8),
    "aten.group_norm": _groups(1),
    **dict.fromkeys(["aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unsafe_chunk"], _split),
    "aten.slice": _slice,
    "aten.narrow": _narrow,
    "aten.unflatten": _unflatten,
    "aten.repeat_interleave": _repeat_interleave,
    **dict.fromkeys(["aten.channel_shuffle", "aten.native_channel_shuffle"], _channel_shuffle),
    "aten.layer_norm": _layer_norm,
    "aten.rms_norm": _rms_norm,
    "aten.mean": _mean,
    "aten.scaled_dot_product_attention": _attention,
}
