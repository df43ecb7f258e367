"""Literal rules of the ``onnx`` dialect: shapes, split sizes and bounds come as tensors, often computed.

A shape operand may be a stored constant, or a chain such as ``Shape → Gather → Concat`` in which some entries
are constants that repeat a channel count. The chain is evaluated on the example inputs as it will be after
the cut; entries that would be wrong are corrected where they are stored, or else scaled by an exact integer
ratio."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from otgraph.graph.affine import argument
from otgraph.graph.axes.expression import Mask
from otgraph.graph.graph import label, op_name
from otgraph.graph.literals import Cutting, left_share, place_after_cut
from otgraph.graph.onnx.ops.arithmetic import Div, Mul
from otgraph.graph.onnx.origin import OnnxOrigin

Required = Sequence[int | None]
"""What each entry of a shape operand must be after the cut; None where it may be anything."""


def _reshape(node: fx.Node, cutting: Cutting) -> None:
    before = _value(argument(node, 1, "shape"), cutting, cut=False)
    if before is not None:
        after = [size for _, size in cutting.sizes(node)]
        required = [None if v in (-1, 0) else s for v, s in zip(before, after, strict=True)]
        _require(node, _key(node, 1, "shape"), required, cutting)


def _expand(node: fx.Node, cutting: Cutting) -> None:
    before = _value(argument(node, 1, "shape"), cutting, cut=False)
    if before is not None:
        after = [size for _, size in cutting.sizes(node)][-len(before) or None :]
        _require(node, 1, [None if v == 1 else s for v, s in zip(before, after, strict=True)], cutting)


def _constant_of_shape(node: fx.Node, cutting: Cutting) -> None:
    _require(node, 0, [size for _, size in cutting.sizes(node)], cutting)


def _resize(node: fx.Node, cutting: Cutting) -> None:
    if argument(node, 3, "sizes") is None:
        return
    after = [size for _, size in cutting.sizes(node)]
    along = node.kwargs.get("axes")
    _require(node, 3, after if along is None else [after[int(a)] for a in along], cutting)  # type: ignore[union-attr]


def _split(node: fx.Node, cutting: Cutting) -> None:
    source = node.args[0]
    if not isinstance(source, fx.Node):
        return
    dim = int(node.kwargs.get("axis", 0)) % cutting.rank(source)  # type: ignore[arg-type]
    parts = [cutting.sizes(node, k)[dim] for k in range(len(cutting.results(node)))]
    if all(before == after for before, after in parts):
        return
    sizes = [after for _, after in parts]
    if argument(node, 1, "split") is not None:
        _require(node, _key(node, 1, "split"), sizes, cutting)
    elif sizes != _equal_parts(sum(sizes), len(sizes)):
        _say_sizes(node, sizes, cutting)


def _equal_parts(size: int, count: int) -> list[int]:
    part = math.ceil(size / count)
    return [min(part, max(size - k * part, 0)) for k in range(count)]


def _say_sizes(node: fx.Node, sizes: list[int], cutting: Cutting) -> None:
    """Sizes where there were none: an attribute before opset 13, an input instead of a number since."""
    if cutting.graph.header.opsets.get("", 0) < 13:
        cutting.editor.set_argument(node, "split", sizes)
    else:
        cutting.editor.set_argument(node, 1, _constant(node, sizes, cutting))
    cutting.editor.set_argument(node, "num_outputs", None)


def _slice(node: fx.Node, cutting: Cutting) -> None:
    source = node.args[0]
    starts = _value(argument(node, 1, "starts"), cutting, cut=False)
    ends = _value(argument(node, 2, "ends"), cutting, cut=False)
    if starts is None or ends is None or not isinstance(source, fx.Node):
        return
    given = argument(node, 3, "axes")
    along = list(range(len(starts))) if given is None else _value(given, cutting, cut=False)
    if along is None:
        return
    masks = [cutting.mask(source, int(axis)) for axis in along]
    steps = _value(argument(node, 4, "steps"), cutting, cut=False) or [1] * len(masks)
    for position, name, places in ((1, "starts", starts), (2, "ends", ends)):
        rows = zip(places, masks, steps, strict=True)
        wanted = [_bound(name, p, m, step) if not m.all() else None for p, m, step in rows]
        _require(node, _key(node, position, name), wanted, cutting)


def _bound(name: str, place: int, mask: Mask, step: int) -> int | None:
    """A bound after the cut. Only whole strides are cut, so a strided slice starts where it did."""
    if step == 1:
        return place_after_cut(place, mask)
    return None if name == "starts" or place >= len(mask) else int(mask.sum())


def _key(node: fx.Node, position: int, name: str) -> int | str:
    """How an operand is given: by position, or as the attribute that it was in older opsets."""
    return name if name in node.kwargs else position


def _group(key: str) -> Callable[[fx.Node, Cutting], None]:
    def rule(node: fx.Node, cutting: Cutting) -> None:
        old = node.kwargs.get(key, 1)
        if not isinstance(old, int) or old == 1 or not isinstance(node.args[0], fx.Node):
            return
        new = int(cutting.mask(node.args[0], 1).reshape(old, -1).any(axis=1).sum())
        if new != old:
            cutting.editor.set_argument(node, key, new)

    return rule


def _hidden_size(node: fx.Node, cutting: Cutting) -> None:
    """The width of the states, which the recurrent weight has as well."""
    weight, old = argument(node, 2, "r"), node.kwargs.get("hidden_size")
    if isinstance(weight, fx.Node) and isinstance(old, int):
        _, new = cutting.sizes(weight)[2]
        if new != old:
            cutting.editor.set_argument(node, "hidden_size", new)


def _cast(node: fx.Node, cutting: Cutting) -> None:
    """A size that becomes a number of the computation (an attention scale) must stay what it was."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or node.kwargs.get("to") not in _FLOATS:
        return
    before, after = (_evaluate(source, cutting, cut) for cut in (False, True))
    if before is not None and after is not None and not torch.equal(before, after):
        cutting.editor.set_argument(node, 0, cutting.editor.add_tensor(f"{_stem(node)}_size", before))


def _reduce_mean(node: fx.Node, cutting: Cutting) -> None:
    """A mean over fewer entries, the removed ones being zero, is larger by their share: scale it back."""
    source, key = node.args[0], _key(node, 1, "axes")
    given = argument(node, 1, "axes") if isinstance(key, int) else node.kwargs[key]
    along = None if given is None else _value(given, cutting, cut=False)
    if not isinstance(source, fx.Node) or (given is not None and along is None):
        return
    share = left_share(cutting.sizes(source), along)
    if share != 1:
        _scale(node, share, cutting)


def _rms_normalization(node: fx.Node, cutting: Cutting) -> None:
    """γ·√(D/K) and ε·D/K, as for ``aten.rms_norm``."""
    sizes = cutting.sizes(node)
    first = int(node.kwargs.get("axis", -1)) % len(sizes)  # type: ignore[arg-type]
    share = left_share(sizes, list(range(first, len(sizes))))
    if share != 1:
        epsilon = float(node.kwargs.get("epsilon", 1e-5))  # type: ignore[arg-type]
        cutting.editor.set_argument(node, "epsilon", epsilon / share)
        _scale(node, math.sqrt(1 / share), cutting)


def _scale(node: fx.Node, factor: float, cutting: Cutting) -> None:
    """Multiply the result of ``node``, in its own type."""
    value = torch.tensor(factor, dtype=_dtype(node, cutting))
    cutting.scale(node, Mul, cutting.editor.add_tensor(f"{_stem(node)}_share", value))


def _dtype(node: fx.Node, cutting: Cutting) -> torch.dtype:
    """The floating-point type of the program: of the first weight that has one, of the inputs else."""
    floats = (
        t.dtype for t in (*cutting.graph.tensors().values(), *cutting.graph.example) if t.is_floating_point()
    )
    return next(floats, torch.float32)


def _require(node: fx.Node, key: int | str, required: Required, cutting: Cutting) -> None:
    """Make the shape operand ``key`` of ``node`` give ``required`` after the cut."""
    operand = argument(node, key, "") if isinstance(key, int) else node.kwargs.get(key)
    now = _value(operand, cutting, cut=True)
    if now is None or len(now) != len(required) or _fits(now, required):
        return
    new = _corrected(operand, now, required, node, cutting)
    cutting.editor.set_argument(node, key, new)


def _fits(now: Sequence[int], required: Required) -> bool:
    return all(want is None or want == have for have, want in zip(now, required, strict=True))


def _corrected(operand: Any, now: list[int], required: Required, node: fx.Node, cutting: Cutting) -> Any:
    wanted = [have if want is None else want for have, want in zip(now, required, strict=True)]
    if not isinstance(operand, fx.Node):
        return wanted if isinstance(operand, (list, tuple)) else wanted[0]
    if operand.op == "get_attr":
        return _constant(node, wanted, cutting, like=operand)
    if (
        op_name(operand) == "onnx.Concat"
        and len(operand.users) == 1
        and _correct_parts(operand, required, cutting)
    ):
        return operand
    scaled = _insert(operand, Mul, _ratio(wanted, now), "Mul", node, cutting)
    return _insert(scaled, Div, _ratio(now, wanted), "Div", node, cutting)


def _correct_parts(concat: fx.Node, required: Required, cutting: Cutting) -> bool:
    """Correct the stored parts of a concatenated shape; False, and nothing done, if another part is wrong."""
    plan: list[tuple[int, list[int]]] = []
    start = 0
    for at, part in enumerate(concat.args):
        now = _value(part, cutting, cut=True)
        if now is None or not isinstance(part, fx.Node):
            return False
        want = required[start : start + len(now)]
        start += len(now)
        if not _fits(now, want):
            if part.op != "get_attr":
                return False
            plan.append((at, [have if w is None else w for have, w in zip(now, want, strict=True)]))
    for at, values in plan:
        part = concat.args[at]
        like = part if isinstance(part, fx.Node) else None
        cutting.editor.set_argument(concat, at, _constant(concat, values, cutting, like=like))
    return True


def _ratio(wanted: Sequence[int], now: Sequence[int]) -> list[int]:
    return [1 if w == n else w // math.gcd(w, n) for w, n in zip(wanted, now, strict=True)]


def _insert(
    value: fx.Node, function: Callable[..., Any], by: list[int], op_type: str, node: fx.Node, cutting: Cutting
) -> fx.Node:
    constant = _constant(node, by, cutting)
    origin = OnnxOrigin(op_type, "", f"{label(node)}_{op_type}")
    return cutting.editor.insert_after(value, function, (value, constant), meta={"onnx": origin})


def _constant(node: fx.Node, values: Sequence[int], cutting: Cutting, like: fx.Node | None = None) -> fx.Node:
    tensor = torch.tensor(list(values), dtype=torch.int64)
    if like is not None:
        stored = cutting.tensor(str(like.target))
        tensor = tensor.to(stored.dtype).reshape(stored.shape)
    return cutting.editor.add_tensor(f"{_stem(node)}_shape", tensor)


def _stem(node: fx.Node) -> str:
    return "".join(c if c.isalnum() else "_" for c in label(node)) or node.name


def _value(operand: Any, cutting: Cutting, *, cut: bool) -> list[int] | None:
    """The integers of a shape operand on the example inputs, before or after the cut, if computable."""
    if isinstance(operand, fx.Node):
        found = _evaluate(operand, cutting, cut)
        return None if found is None else [int(v) for v in found.reshape(-1).tolist()]
    if isinstance(operand, (list, tuple)):
        return [int(v) for v in operand]
    return [int(operand)] if isinstance(operand, int) else None


def _evaluate(node: fx.Node, cutting: Cutting, cut: bool) -> torch.Tensor | None:  # noqa: FBT001
    key = (node, cut)
    if key not in cutting.values:
        cutting.values[key] = None  # inputs and cycles are not computable
        cutting.values[key] = _compute(node, cutting, cut)
    return cutting.values[key]


def _compute(node: fx.Node, cutting: Cutting, cut: bool) -> torch.Tensor | None:  # noqa: FBT001
    if node.op == "get_attr":
        return cutting.tensor(str(node.target))
    if op_name(node) == "onnx.Shape" and isinstance(node.args[0], fx.Node):
        sizes = [after if cut else before for before, after in cutting.sizes(node.args[0])]
        start, end = node.kwargs.get("start", 0), node.kwargs.get("end")
        return torch.tensor(sizes[start:end], dtype=torch.int64)  # type: ignore[misc]
    if node.op != "call_function" or not callable(node.target) or op_name(node) not in _SHAPE_ARITHMETIC:
        return None
    operands = {n: _evaluate(n, cutting, cut) for n in node.all_input_nodes}
    if any(value is None for value in operands.values()):
        return None
    args = map_arg(node.args, lambda n: operands[n])
    kwargs = map_arg(node.kwargs, lambda n: operands[n])
    result = node.target(*args, **kwargs)
    return result if isinstance(result, torch.Tensor) else None


_FLOATS = {1, 10, 11, 16}
"""ONNX types of floating-point numbers: float, float16, double, bfloat16."""

_SHAPE_ARITHMETIC = frozenset(
    f"onnx.{name}"
    for name in [
        "Concat",
        "Gather",
        "Slice",
        "Unsqueeze",
        "Squeeze",
        "Cast",
        "Identity",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Mod",
        "Floor",
        "Ceil",
        "Reshape",
        "Max",
        "Min",
        "ReduceProd",
        "Where",
        "Equal",
        "Constant",
        "ConstantOfShape",
        "Neg",
        "Sqrt",
        "Range",
        "Less",
        "Greater",
        "Expand",
        "Reciprocal",
    ]
)

RULES: dict[str, Callable[[fx.Node, Cutting], None]] = {
    "onnx.Reshape": _reshape,
    "onnx.Expand": _expand,
    "onnx.ConstantOfShape": _constant_of_shape,
    "onnx.Resize": _resize,
    "onnx.Split": _split,
    "onnx.Slice": _slice,
    "onnx.Conv": _group("group"),
    "onnx.ConvTranspose": _group("group"),
    "onnx.GroupNormalization": _group("num_groups"),
    "onnx.GRU": _hidden_size,
    "onnx.LSTM": _hidden_size,
    "onnx.Cast": _cast,
    "onnx.ReduceMean": _reduce_mean,
    "onnx.RMSNormalization": _rms_normalization,
}
