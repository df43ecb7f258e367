"""Which torch function an ONNX operator means: the one table, keyed by domain, type and opset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from otgraph.graph.onnx.ops import (
    activation,
    arithmetic,
    convolution,
    create,
    indexing,
    logic,
    matmul,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduce,
    resize,
    shape,
)

Function = Callable[..., Any]
OLDEST = 7
"""Before opset 7 broadcasting was an attribute; such models run in ONNX Runtime only."""


@dataclass(frozen=True)
class Op:
    """One version of an operator: ``function`` is right for opsets ``since`` to ``until`` (inclusive)."""

    op_type: str
    function: Function
    since: int = OLDEST
    until: int = 10_000
    domain: str = ""


def _same_name(module: ModuleType, names: str) -> Iterable[Op]:
    return (Op(name, getattr(module, name)) for name in names.split())


_OPS: tuple[Op, ...] = (
    *_same_name(
        arithmetic,
        "Abs Acos Acosh Add Asin Asinh Atan Atanh BitShift Ceil Cos Cosh Div Erf Exp Floor Log Max Mean Min "
        "Mod Mul Neg Pow Reciprocal Round Sign Sin Sinh Sqrt Sub Sum Tan",
    ),
    *_same_name(
        activation,
        "Celu Clip Dropout Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Shrink Sigmoid "
        "Softplus Softsign Swish Tanh ThresholdedRelu",
    ),
    *_same_name(
        logic,
        "And BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Equal Greater GreaterOrEqual IsInf IsNaN Less "
        "LessOrEqual Not Or Where Xor",
    ),
    *_same_name(
        reduce,
        "ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare",
    ),
    *_same_name(
        shape,
        "Concat DepthToSpace Expand Flatten Identity Pad Reshape Shape Size Slice SpaceToDepth Split Squeeze "
        "Tile Transpose Unsqueeze",
    ),
    *_same_name(
        indexing, "Gather GatherElements GatherND NonZero OneHot ScatterElements ScatterND TopK Trilu"
    ),
    *_same_name(create, "Cast CastLike ConstantOfShape EyeLike Range"),
    *_same_name(matmul, "Einsum Gemm MatMul"),
    *_same_name(convolution, "Conv ConvTranspose"),
    *_same_name(pooling, "AveragePool GlobalAveragePool GlobalMaxPool MaxPool"),
    *_same_name(
        normalization,
        "BatchNormalization InstanceNormalization LRN LayerNormalization LpNormalization RMSNormalization",
    ),
    *_same_name(recurrent, "GRU LSTM"),
    *_same_name(quantization, "DequantizeLinear QuantizeLinear"),
    Op("GroupNormalization", normalization.GroupNormalization, since=21),
    Op("LogSoftmax", activation.LogSoftmax_1, until=12),
    Op("LogSoftmax", activation.LogSoftmax, since=13),
    Op("Resize", resize.Resize_10, until=10),
    Op("Resize", resize.Resize, since=11),
    Op("Softmax", activation.Softmax_1, until=12),
    Op("Softmax", activation.Softmax, since=13),
    Op("Upsample", resize.Upsample, until=9),
)

TABLE: dict[tuple[str, str], tuple[Op, ...]] = {}
for _op in _OPS:
    TABLE[_op.domain, _op.op_type] = (*TABLE.get((_op.domain, _op.op_type), ()), _op)

TUPLES = frozenset({"GRU", "LSTM", "Split", "TopK"})
"""Operators whose function returns a tuple; the others return their first output."""

_MEANING = {op.function: op for op in _OPS}


def function_of(domain: str, op_type: str, opset: int) -> Function | None:
    """The function of an operator in a model with that opset of its domain, or None where there is none."""
    for op in TABLE.get((domain, op_type), ()):
        if op.since <= opset <= op.until:
            return op.function
    return None


def meaning_of(function: Any) -> Op | None:
    """The operator that a call to ``function`` is written as, or None for any other function."""
    return _MEANING.get(function)
