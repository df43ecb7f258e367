"""Calls of every operator that has an axis rule, at random sizes; tests and tables run over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from otgraph.graph.axes.call import Call

aten = torch.ops.aten


class Draw:
    """Random sizes and tensors from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def size(self, low: int = 2, high: int = 5) -> int:
        """A size between ``low`` and ``high``, both included."""
        return int(self.random.integers(low, high + 1))

    def sizes(self, count: int) -> list[int]:
        """``count`` sizes between 2 and 5."""
        return [self.size() for _ in range(count)]

    def tensor(self, *shape: int) -> torch.Tensor:
        """Normal entries in float64."""
        return torch.from_numpy(self.random.normal(size=shape))

    def positive(self, *shape: int) -> torch.Tensor:
        """Entries between 0.5 and 2."""
        return torch.from_numpy(self.random.uniform(0.5, 2, size=shape))

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        """Places below ``high``."""
        return torch.from_numpy(self.random.integers(0, high, size=shape))


Arguments = tuple[Any, ...]
Make = Callable[[Draw], Arguments]


@dataclass(frozen=True)
class Case:
    """One use of an operator: ``make`` gives the positional arguments of one call."""

    name: str
    func: OpOverload
    make: Make
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def operator(self) -> str:
        """The key of the operator in the table of rules."""
        return self.func.overloadpacket.__name__

    def call(self, seed: int) -> Call:
        """Run the operator once."""
        return record(self.func, self.make(Draw(seed)), self.kwargs)


def record(func: OpOverload, args: Arguments, kwargs: dict[str, Any]) -> Call:
    """The call of ``func`` as the axis rules see it. In-place operators work on copies."""
    args, kwargs = _copied(args), _copied(kwargs)
    operands = tuple(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
    out = func(*_copied(args), **_copied(kwargs))
    results = tuple(leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, torch.Tensor))
    return Call(func, args, kwargs, operands, results)


def _copied(tree: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, tree)


def _unary(*extra: Any) -> Make:
    return lambda d: (d.tensor(*d.sizes(3)), *extra)


def _image(rank: int, *extra: Any) -> Make:
    """An image with ``rank`` spatial axes of size 6, and further arguments."""
    return lambda d: (d.tensor(d.size(), d.size(), *[6] * rank), *extra)


def _pair(d: Draw) -> Arguments:
    shape = d.sizes(3)
    return d.tensor(*shape), d.tensor(*shape)


def _attention(d: Draw) -> Arguments:
    n, h, length, s, e = d.sizes(5)
    return d.tensor(n, h, length, e), d.tensor(n, h, s, e), d.tensor(n, h, s, e)


def _grouped_attention(d: Draw) -> Arguments:
    (n, h, length, s, e), r = d.sizes(5), d.size(2, 3)
    return d.tensor(n, h * r, length, e), d.tensor(n, h, s, e), d.tensor(n, h, s, e), 0.0, False


def _whole_attention(d: Draw) -> Arguments:
    return *_attention(d), 0.0, False


def _convolution(rank: int, *, groups: bool, bias: bool, transposed: bool = False) -> Make:
    def make(d: Draw) -> Arguments:
        g, i, o = d.size(2, 3) if groups else 1, d.size(), d.size()
        weight = d.tensor(*((g * i, o) if transposed else (g * o, i)), *[3] * rank)
        x = d.tensor(d.size(), g * i, *[5] * rank)
        ones, zeros = [1] * rank, [0] * rank
        return x, weight, d.tensor(g * o) if bias else None, ones, ones, ones, transposed, zeros, g

    return make


def _batch_norm(d: Draw) -> Arguments:
    n, c, h, w = d.sizes(4)
    mean, variance = d.tensor(c), d.positive(c)
    return d.tensor(n, c, h, w), d.tensor(c), d.tensor(c), mean, variance


def _plain_batch_norm(d: Draw) -> Arguments:
    x, _, _, mean, variance = _batch_norm(d)
    return x, None, None, mean, variance


def _then(make: Make, *extra: Any) -> Make:
    return lambda d: (*make(d), *extra)


def _layer_norm(d: Draw) -> Arguments:
    n, t, c, e = d.sizes(4)
    return d.tensor(n, t, c, e), [c, e], d.tensor(c, e), d.tensor(c, e), 1e-5


def _group_norm(d: Draw) -> Arguments:
    n, g, c, h, w = d.sizes(5)
    x = d.tensor(n, g * c, h, w)
    return x, d.tensor(g * c), d.tensor(g * c), n, g * c, h * w, g, 1e-5


def _cat(d: Draw) -> Arguments:
    n, h = d.sizes(2)
    return [d.tensor(n, size, h) for size in d.sizes(3)], 1


def _legacy_cat(d: Draw) -> Arguments:
    n, c = d.sizes(2)
    return [d.tensor(0), d.tensor(n, c), d.tensor(n, c + 1)], -1


def _padding(d: Draw) -> Arguments:
    return d.tensor(*d.sizes(3)), [1, 2, 0, 3], 0.5


def _cropping(d: Draw) -> Arguments:
    return d.tensor(d.size(), d.size(), d.size(4, 6)), [-1, 1], 0.0


def _expand(d: Draw) -> Arguments:
    n, c, h = d.sizes(3)
    return d.tensor(c, 1), [n, c, h]


def _view(kind: str) -> Make:
    """A reshape of ``[a, b*c, e]`` whose middle axis is split, merged or both."""

    def make(d: Draw) -> Arguments:
        a, b, c, e = d.sizes(4)
        shapes = {
            "split": [a, b, c, e],
            "merge": [a, b * c * e],
            "both": [a * b, c * e],
            "unit": [a, 1, b * c, e],
        }
        return d.tensor(a, b * c, e), shapes[kind]

    return make


def _uneven_view(d: Draw) -> Arguments:
    return d.tensor(d.size(), 4, 6), [-1, 6, 4]


def _flat(d: Draw) -> Arguments:
    a, b, c = d.sizes(3)
    return d.tensor(a, b, c), [a, b * c], [b * c, 1]


def _index(d: Draw) -> Arguments:
    a, b, c, e = d.sizes(4)
    return d.tensor(a, b, c, e), [None, d.integers(b, 3, 2), d.integers(c, 2)]


def _inner(d: Draw) -> Arguments:
    b, n, i, o = d.sizes(4)
    return d.tensor(b, n, i), d.tensor(b, i, o)


def _matrices(d: Draw) -> Arguments:
    n, i, o = d.sizes(3)
    return d.tensor(n, i), d.tensor(i, o)


def _grid(d: Draw) -> Arguments:
    n, c, h, w, a, b = d.sizes(6)
    return d.tensor(n, c, h, w), d.tensor(n, a, b, 2), 0, 0, False


def _shuffle(d: Draw) -> Arguments:
    n, c, h, w = d.sizes(4)
    return d.tensor(n, c * 4, h, w), 2


def _unshuffle(d: Draw) -> Arguments:
    n, c, h, w = d.sizes(4)
    return d.tensor(n, c, h * 2, w * 2), 2


def _linear(d: Draw) -> Arguments:
    n, t, i, o = d.sizes(4)
    return d.tensor(n, t, i), d.tensor(o, i), d.tensor(o)


def _where(d: Draw) -> Arguments:
    n, c, h = d.sizes(3)
    return d.tensor(n, 1, h) > 0, d.tensor(n, c, h), d.tensor(c, 1)


def _embedding(d: Draw) -> Arguments:
    v, c, n, t = d.sizes(4)
    return d.tensor(v, c), d.integers(v, n, t)


def _bags(mode: int, *, weighted: bool = False) -> Make:
    def make(d: Draw) -> Arguments:
        v, c, t = d.size(), d.size(), d.size(4, 6)
        weights = d.tensor(t) if weighted else None
        return d.tensor(v, c), d.integers(v, t), torch.tensor([0, 1, 3]), False, mode, False, weights

    return make


def _recurrent(gates: int, layers: int = 1, *, both: bool = False, biases: bool = True) -> Make:
    """A recurrent layer of ``gates`` gates; that of four has a second state."""

    def make(d: Draw) -> Arguments:
        n, t, i, h = d.sizes(4)
        weights: list[torch.Tensor] = []
        for layer in range(layers):
            for _ in range(1 + both):
                width = i if layer == 0 else h * (1 + both)
                weights += [d.tensor(gates * h, width), d.tensor(gates * h, h)]
                weights += [d.tensor(gates * h), d.tensor(gates * h)] if biases else []
        states = [d.tensor(layers * (1 + both), n, h) for _ in range(1 + (gates == 4))]
        first = states if gates == 4 else states[0]
        x = d.tensor(n, t, i) if both else d.tensor(t, n, i)
        return x, first, weights, biases, layers, 0.0, False, both, both

    return make


def _named(func: OpOverload, make: Make, note: str = "", **kwargs: Any) -> Case:
    return Case(func.overloadpacket.__name__ + (f" ({note})" if note else ""), func, make, kwargs)


_POINTWISE = [
    *(_named(getattr(aten, name).default, _unary()) for name in ("clone", "detach", "_to_copy", "alias")),
    *(
        _named(getattr(aten, name).default, _unary())
        for name in ("lift_fresh", "lift_fresh_copy", "contiguous")
    ),
    *(
        _named(getattr(aten, name).default, _unary())
        for name in ("hardtanh", "hardtanh_", "hardswish", "hardswish_")
    ),
    *(
        _named(getattr(aten, name).default, _unary())
        for name in ("hardsigmoid", "hardsigmoid_", "zero_", "mish")
    ),
    *(_named(getattr(aten, name).default, _unary()) for name in ("leaky_relu", "leaky_relu_", "elu", "elu_")),
    *(_named(getattr(aten, name).default, _unary()) for name in ("mish_", "celu", "softplus")),
    *(_named(getattr(aten, name).default, _unary()) for name in ("zeros_like", "ones_like")),
    *(_named(getattr(aten, name).Scalar, _unary(1.5)) for name in ("fill", "fill_")),
    _named(aten.full_like.default, _unary(1.5)),
    _named(aten.dropout.default, _unary(0.5, False)),
    _named(aten.native_dropout.default, _unary(0.5, False)),
    _named(aten.copy.default, _pair),
    _named(aten.copy_.default, _pair),
    _named(aten.where.self, _where),
    _named(aten._prelu_kernel.default, lambda d: (d.tensor(2, (c := d.size()), 3), d.tensor(1, c, 1))),
    _named(aten.relu.default, _unary(), "no rule of its own"),
    _named(
        aten.add.Tensor, lambda d: (d.tensor(2, (c := d.size()), 3), d.tensor(c, 1)), "no rule of its own"
    ),
]

_JOINING = [
    _named(aten.cat.default, _cat),
    _named(aten.cat.default, _legacy_cat, "an empty operand"),
    _named(aten.stack.default, lambda d: ([*_pair(d)], 1)),
    _named(aten.split.Tensor, lambda d: (d.tensor(d.size(), d.size(6, 8)), 3, 1)),
    _named(aten.split_with_sizes.default, lambda d: (d.tensor(d.size(), 9, 2), [2, 3, 4], 1)),
    _named(aten.unsafe_split.Tensor, lambda d: (d.tensor(d.size(), d.size(6, 8)), 3, 1)),
    _named(aten.unsafe_split_with_sizes.default, lambda d: (d.tensor(d.size(), 9, 2), [2, 3, 4], 1)),
    _named(aten.slice.Tensor, lambda d: (d.tensor(d.size(), 9), 1, 2, -3)),
    _named(aten.slice.Tensor, lambda d: (d.tensor(d.size(), 9), 1, 1, 9, 2), "strided"),
    _named(aten.slice.Tensor, lambda d: (d.tensor(d.size(), 8), 1, 1, 8, 2), "every second"),
    _named(aten.slice.Tensor, lambda d: (d.tensor(d.size(), 9), -1, 0, 2**63 - 1), "whole"),
    _named(aten.glu.default, lambda d: (d.tensor(d.size(), d.size() * 2, d.size()), 1)),
    _named(aten.select.int, _unary(1, 1)),
    _named(aten.slice_scatter.default, lambda d: (d.tensor(c := d.size(), 6), d.tensor(c, 3), 1, 1, 4)),
    _named(aten.select_scatter.default, lambda d: (d.tensor(c := d.size(), 6), d.tensor(c), 1, 2)),
    _named(aten.unbind.int, _unary(1)),
    _named(aten.embedding.default, _embedding),
    *(
        _named(aten._embedding_bag_forward_only.default, _bags(mode), note)
        for mode, note in enumerate(("sums", "means", "largest"))
    ),
    _named(aten._embedding_bag.default, _bags(0, weighted=True), "weighted"),
    _named(aten.index_select.default, lambda d: (d.tensor(*d.sizes(3)), 1, d.integers(2, 4))),
    _named(aten.index.Tensor, _index),
]

_PRODUCTS = [
    _named(aten._scaled_dot_product_flash_attention_for_cpu.default, _whole_attention),
    _named(aten._scaled_dot_product_flash_attention_for_cpu.default, _grouped_attention, "grouped queries"),
    _named(aten.mm.default, _matrices),
    _named(aten.bmm.default, _inner),
    _named(aten.mv.default, lambda d: (d.tensor(d.size(), (i := d.size())), d.tensor(i))),
    _named(aten.dot.default, lambda d: (d.tensor(i := d.size()), d.tensor(i))),
    _named(
        aten.baddbmm.default,
        lambda d: (d.tensor((p := _inner(d))[0].shape[0], p[0].shape[1], p[1].shape[2]), *p),
    ),
    _named(aten.addmm.default, lambda d: (d.tensor((p := _matrices(d))[1].shape[1]), *p)),
    _named(
        aten.addmm.default,
        lambda d: (d.tensor((p := _matrices(d))[0].shape[0], p[1].shape[1]), *p),
        "a matrix",
    ),
    _named(aten.linear.default, _linear),
    _named(aten.convolution.default, _convolution(2, groups=False, bias=True)),
    _named(aten.convolution.default, _convolution(1, groups=True, bias=False), "grouped"),
    _named(aten.convolution.default, _convolution(2, groups=False, bias=True, transposed=True), "transposed"),
    _named(
        aten.convolution.default,
        _convolution(1, groups=True, bias=True, transposed=True),
        "grouped, transposed",
    ),
    _named(aten.convolution.default, lambda d: _depthwise(d), "depthwise"),
]


def _depthwise(d: Draw) -> Arguments:
    c, two = d.size(), [1, 1]
    return d.tensor(2, c, 5, 5), d.tensor(c, 1, 3, 3), d.tensor(c), two, two, two, False, [0, 0], c


_NORMALIZATION = [
    _named(aten.native_batch_norm.default, _then(_batch_norm, False, 0.1, 1e-5)),
    _named(aten.native_batch_norm.default, _then(_plain_batch_norm, False, 0.1, 1e-5), "no weight"),
    _named(aten._native_batch_norm_legit_no_training.default, _then(_batch_norm, 0.1, 1e-5)),
    _named(aten._native_batch_norm_legit.default, _then(_batch_norm, False, 0.1, 1e-5)),
    _named(aten.native_layer_norm.default, _layer_norm),
    _named(aten.native_layer_norm.default, lambda d: (*_layer_norm(d)[:2], None, None, 1e-5), "no weight"),
    _named(aten.native_group_norm.default, _group_norm),
    _named(aten.native_batch_norm.default, _then(_batch_norm, True, 0.1, 1e-5), "of the batch"),
]

_CREATION = [
    *(_named(getattr(aten, name).default, lambda d: (d.sizes(3),)) for name in ("zeros", "ones")),
    _named(aten.full.default, lambda d: (d.sizes(3), 1.5)),
    *(
        _named(getattr(aten, name).default, lambda d: (d.tensor(3), d.sizes(3)))
        for name in ("new_zeros", "new_ones")
    ),
    _named(aten.new_full.default, lambda d: (d.tensor(3), d.sizes(3), 1.5)),
    _named(aten.arange.default, lambda d: (d.size(),)),
    _named(aten.scalar_tensor.default, lambda d: (1.5,)),
    _named(aten.eye.default, lambda d: (d.size(),)),
    _named(aten.linspace.default, lambda d: (0.0, 1.0, d.size())),
    _named(aten.tril_indices.default, lambda d: (d.size(), d.size())),
]

_POOLING = [
    *(_named(getattr(aten, f"avg_pool{k}d").default, _image(k, [2] * k)) for k in (1, 2, 3)),
    *(_named(getattr(aten, f"max_pool{k}d").default, _image(k, [2] * k)) for k in (1, 2, 3)),
    *(_named(getattr(aten, f"max_pool{k}d_with_indices").default, _image(k, [2] * k)) for k in (1, 2, 3)),
    *(_named(getattr(aten, f"_adaptive_avg_pool{k}d").default, _image(k, [2] * k)) for k in (2, 3)),
    *(_named(getattr(aten, f"adaptive_max_pool{k}d").default, _image(k, [2] * k)) for k in (1, 2, 3)),
    *(_named(getattr(aten, f"reflection_pad{k}d").default, _image(k, [1] * (2 * k))) for k in (1, 2, 3)),
    *(_named(getattr(aten, f"replication_pad{k}d").default, _image(k, [1] * (2 * k))) for k in (1, 2, 3)),
    *(_named(getattr(aten, f"upsample_nearest{k}d").default, _image(k, [9] * k)) for k in (1, 2, 3)),
    _named(aten.upsample_linear1d.default, _image(1, [9], False)),
    *(
        _named(getattr(aten, f"upsample_bi{kind}2d").default, _image(2, [9, 9], False))
        for kind in ("linear", "cubic")
    ),
    *(
        _named(getattr(aten, f"_upsample_bi{k}2d_aa").default, _image(2, [9, 9], False))
        for k in ("linear", "cubic")
    ),
    _named(aten.upsample_trilinear3d.default, _image(3, [9, 9, 9], False)),
    _named(aten._upsample_nearest_exact2d.default, _image(2, [9, 9])),
    _named(aten.adaptive_avg_pool2d.default, _image(2, [2, 2])),
    _named(aten.constant_pad_nd.default, _padding),
    _named(aten.constant_pad_nd.default, _cropping, "negative"),
    _named(aten.pixel_shuffle.default, _shuffle),
    _named(aten.pixel_unshuffle.default, _unshuffle),
    _named(aten.im2col.default, _image(2, [3, 3], [1, 1], [1, 1], [1, 1])),
    _named(aten.unfold.default, _image(2, 2, 3, 1)),
    _named(aten.grid_sampler_2d.default, _grid),
]

_RECURRENT = [
    _named(aten.lstm.input, _recurrent(4)),
    _named(aten.lstm.input, _recurrent(4, 2, both=True), "two layers, both directions"),
    _named(aten.lstm.input, _recurrent(4, 2, biases=False), "two layers, no biases"),
    _named(aten.gru.input, _recurrent(3)),
    _named(aten.gru.input, _recurrent(3, 2, both=True), "two layers, both directions"),
    _named(aten.rnn_tanh.input, _recurrent(1, both=True)),
    _named(aten.rnn_relu.input, _recurrent(1)),
]

_REDUCTION = [
    _named(aten.sum.dim_IntList, _unary([0, 2])),
    _named(aten.sum.default, _unary(), "everything"),
    _named(aten.linalg_vector_norm.default, _unary(2, [1], True)),
    _named(aten.linalg_vector_norm.default, _unary(-1, [1], True), "of negative order"),
    _named(aten.mean.dim, _unary([1, 2], True)),
    *(_named(getattr(aten, name).default, _unary([1])) for name in ("amax", "amin")),
    *(_named(getattr(aten, name).correction, _unary([1])) for name in ("var", "var_mean", "std")),
    _named(aten.prod.dim_int, _unary(1)),
    *(_named(getattr(aten, name).default, _unary(1)) for name in ("argmax", "argmin")),
    *(_named(getattr(aten, name).dim, _unary(1)) for name in ("max", "min", "any", "all")),
    _named(aten.logsumexp.default, _unary([1])),
    *(_named(getattr(aten, name).default, _unary(1, False)) for name in ("_softmax", "_log_softmax")),
    _named(aten._safe_softmax.default, _unary(1)),
    _named(aten.cumsum.default, _unary(1)),
    _named(aten.flip.default, _unary([0, 2])),
    _named(aten.roll.default, _unary([1, 2], [0, 1])),
    _named(aten.roll.default, _unary([1]), "flat"),
]

_SHAPE = [
    *(
        _named(getattr(aten, name).default, _view("both"))
        for name in ("view", "_unsafe_view", "reshape", "view_copy")
    ),
    _named(aten.view.default, _view("split"), "split"),
    _named(aten.view.default, _view("merge"), "merge"),
    _named(aten.view.default, _view("unit"), "unit axis"),
    _named(aten.view.default, _uneven_view, "no common factors"),
    _named(aten._reshape_alias.default, _flat),
    _named(aten.flatten.using_ints, _unary(1, 2)),
    _named(aten.unflatten.int, lambda d: (d.tensor(d.size(), (b := d.size()) * (c := d.size())), 1, [b, c])),
    *(_named(getattr(aten, name).default, _unary(1)) for name in ("unsqueeze", "unsqueeze_")),
    *(
        _named(getattr(aten, name).dim, lambda d: (d.tensor(d.size(), 1, d.size()), 1))
        for name in ("squeeze", "squeeze_")
    ),
    _named(aten.permute.default, _unary([2, 0, 1])),
    _named(aten.transpose.int, _unary(-1, 0)),
    _named(aten.transpose_.default, _unary(1, 0)),
    *(_named(getattr(aten, name).default, lambda d: _matrices(d)[:1]) for name in ("t", "t_")),
    *(_named(getattr(aten, name).default, _expand) for name in ("expand", "broadcast_to")),
    *(
        _named(getattr(aten, name).default, lambda d: (d.tensor(2, (g := d.size(2, 3)) * d.size(), 3, 2), g))
        for name in ("channel_shuffle", "native_channel_shuffle")
    ),
    _named(aten.repeat.default, lambda d: (d.tensor(*d.sizes(2)), [2, 1, 3])),
]

CASES = (
    *_POINTWISE,
    *_JOINING,
    *_PRODUCTS,
    *_NORMALIZATION,
    *_CREATION,
    *_POOLING,
    *_RECURRENT,
    *_REDUCTION,
    *_SHAPE,
)

NOT_CALLED: dict[str, str] = {
    "_scaled_dot_product_flash_attention": "needs a GPU; the rule is that of the CPU kernel",
    "_scaled_dot_product_efficient_attention": "needs a GPU; the rule is that of the CPU kernel",
    "cudnn_batch_norm": "needs a GPU; the rule is that of native_batch_norm",
    "empty": "its entries are undefined, so there is nothing to compare",
    "new_empty": "its entries are undefined, so there is nothing to compare",
    "empty_like": "its entries are undefined, so there is nothing to compare",
    "as_strided_": "is understood on fake tensors only, where kernels lay out their empty results with it",
    "mkldnn_max_pool2d": "takes tensors of the mkldnn layout only",
}
"""Operators with a rule that no case calls, and why."""
