"""float32 → mixed float16, by ONNX Runtime's converter, with what must stay in float32 said and kept so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from onnx import TensorProto, numpy_helper
from onnx_ir.passes.common import TopologicalSortPass
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from otgraph.errors import ModelError
from otgraph.quiet import quiet
from otgraph.remark import Remark

LARGEST = float(np.finfo(np.float16).max)

OVERFLOWS = "its intermediate values leave float16's range"
SUMS = "it sums squares, which overflow above 256"

KEPT: Mapping[str, str] = {
    **dict.fromkeys(DEFAULT_OP_BLOCK_LIST, "ONNX Runtime has no float16 kernel for it"),
    **dict.fromkeys(("Exp", "Pow", "Softplus", "ReduceLogSumExp", "ReduceProd"), OVERFLOWS),
    **dict.fromkeys(("ReduceSumSquare", "ReduceL2", "LpNormalization"), SUMS),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "InstanceNormalization"), SUMS),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization", "MeanVarianceNormalization"), SUMS),
    "Log": "near zero its argument is rounded away",
    "Reciprocal": "of a small number it is infinite",
}
"""The operators that stay in float32, and why; the normalisations follow TensorRT's own advice."""

SOURCE = "to-fp16"


def to_float16(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Remark, ...]]:
    """``model`` with weights and arithmetic in float16 and its inputs and outputs as they were.

    Operators of ``KEPT``, and nodes with a weight that float16 cannot hold, stay in float32 between casts.
    The result is sorted and checked. ``model`` is not changed.

    Raises:
        ModelError: it is quantised already, or cannot be converted.
    """
    name = model.graph.name or "model"
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise ModelError(f"{name}: is quantised already; convert the model that it was made of")
    if _stored(model, TensorProto.FLOAT16):
        return model, (Remark("missed", SOURCE, name, "is in float16 already; nothing was converted"),)
    if not _stored(model, TensorProto.FLOAT):
        return model, (Remark("missed", SOURCE, name, "has no float32 weights; nothing was converted"),)
    whole = onnx.inliner.inline_local_functions(model) if model.functions else _copy(model)
    large = _large_weights(whole)
    with quiet():
        try:
            converted = convert_float_to_float16(
                whole,
                keep_io_types=True,
                op_block_list=sorted(KEPT),
                node_block_list=sorted(large),
            )
        except (ValueError, TypeError, RuntimeError, onnx.shape_inference.InferenceError) as error:
            raise ModelError(f"{name}: cannot be converted to float16 ({error}); keep it in fp32") from error
    return _checked(_sorted(converted), name), _remarks(whole, large)


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The converter appends its casts at the end; ONNX wants every value made before it is read."""
    return ir.to_proto(TopologicalSortPass()(ir.from_proto(model)).model)


def _checked(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name}: in float16 it is not valid ONNX ({reason}); keep it in fp32") from error
    except ValueError:  # above protobuf's 2 GB the checker cannot look at it in memory
        return model
    return model


def _remarks(model: onnx.ModelProto, large: Mapping[str, str]) -> tuple[Remark, ...]:
    kept = Counter(node.op_type for node in model.graph.node if node.op_type in KEPT)
    count = len(model.graph.node) - sum(kept.values()) - len(large)
    found = [Remark("applied", SOURCE, model.graph.name or "model", "converted to float16", {"nodes": count})]
    found += [
        Remark("missed", SOURCE, op, f"stays in float32: {KEPT[op]}", {"nodes": number})
        for op, number in sorted(kept.items())
    ]
    found += [
        Remark("missed", SOURCE, node, f"stays in float32: its weight {weight} holds more than {LARGEST:g}")
        for node, weight in large.items()
    ]
    return tuple(found)


def _large_weights(model: onnx.ModelProto) -> dict[str, str]:
    """The nodes, by name, with the weight that float16 cannot hold; infinities it can."""
    large = {tensor.name for tensor in model.graph.initializer if _exceeds(tensor)}
    return {node.name: name for node in model.graph.node if node.name for name in node.input if name in large}


def _exceeds(tensor: TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = numpy_helper.to_array(tensor)
    return bool((np.isfinite(values) & (np.abs(values) > LARGEST)).any())


def _stored(model: onnx.ModelProto, kind: int) -> bool:
    """Whether a weight is of this type."""
    return any(tensor.data_type == kind for tensor in model.graph.initializer) or any(
        item.t.data_type == kind
        for node in model.graph.node
        if node.op_type == "Constant"
        for item in node.attribute
        if item.name == "value"
    )


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The converter works in place."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
