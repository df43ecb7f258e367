"""float32 → mixed float16, by ONNX Runtime's converter, with what must stay in float32 said and kept so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from otgraph.data import Data
from otgraph.data_model import ModelData
from otgraph.engines.feeds import FeedBatch, batches
from otgraph.engines.onnxruntime import first_line
from otgraph.errors import ModelError
from otgraph.precision.casts import mend_casts
from otgraph.precision.ranges import value_ranges
from otgraph.precision.rounding import float16_error, value_types
from otgraph.precision.session import check_converted, open_session
from otgraph.precision.wide import wide_nodes
from otgraph.quiet import quiet
from otgraph.remark import Remark

OVERFLOWS = "its intermediate values leave float16's range"
SUMS = "it sums squares, which overflow above 256"

KEPT: Mapping[str, str] = {
    **dict.fromkeys(DEFAULT_OP_BLOCK_LIST, "ONNX Runtime has no float16 kernel for it"),
    **dict.fromkeys(("Exp", "Pow", "Softplus", "ReduceLogSumExp", "ReduceProd"), OVERFLOWS),
    **dict.fromkeys(("ReduceSumSquare", "ReduceL2", "LpNormalization"), SUMS),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "InstanceNormalization"), SUMS),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization", "MeanVarianceNormalization"), SUMS),
    **dict.fromkeys(("If", "Loop", "Scan"), "the networks inside it are left as they are"),
    "Log": "near zero its argument is rounded away",
    "Reciprocal": "of a small number it is infinite",
}
"""The operators that stay in float32, and why; the normalizations follow TensorRT's own advice."""

SOURCE = "to-fp16"

SAMPLES = 64
"""The error of the outputs is found on so many of the calibration inputs; ranges on all of them."""

NOT_LOOKED_AT = "what its values reach was not looked at, so some may overflow; give --calib DATA"


def to_float16(
    model: onnx.ModelProto, calibration: Data | None = None, *, name: str = ""
) -> tuple[onnx.ModelProto, tuple[Remark, ...]]:
    """``model`` with weights and arithmetic in float16 and its inputs and outputs as they were.

    In float32 stay operators of ``KEPT``, nodes that read a weight which float16 cannot hold, and with
    ``calibration`` those that read or give values above ``LIMIT`` on it. Float32 values go from one such node
    to the next as they are. The result is sorted, checked, and on ``calibration`` compared with ``model``,
    all values rounded as float16 rounds them. ``model`` is not changed. ``name``: what messages call it.

    Raises:
        ModelError: it is quantized already, cannot be converted, or overflows nevertheless.
        DataError: ``calibration`` does not fit it.
    """
    name = name or model.graph.name or "model"
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise ModelError(f"{name}: is quantized already; convert the model that it was made of")
    if _stored(model, TensorProto.FLOAT16):
        return model, (Remark("missed", SOURCE, name, "is in float16 already; nothing was converted"),)
    if not _stored(model, TensorProto.FLOAT):
        return model, (Remark("missed", SOURCE, name, "has no float32 weights; nothing was converted"),)
    whole = _prepared(model, name)
    types = value_types(whole)
    feeds = [] if calibration is None else _feeds(model, calibration, name)
    ranges, said = _ranges(whole, types, feeds, name)
    wide = wide_nodes(whole, types, ranges)
    changed, kept = _kept(whole, wide)
    if not changed:
        return model, (Remark("missed", SOURCE, name, "no node of it can be float16"), *kept, *said)
    half = check_converted(_converted(whole, wide, name), model, name, "float16")
    figures = {"nodes": changed, **(_error(model, half, feeds, name) if feeds else {})}
    return half, (Remark("applied", SOURCE, name, "converted to float16", figures), *kept, *said)


def _prepared(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy without functions, each node named, float constants held as tensors, types stated."""
    whole = onnx.ModelProto()
    whole.CopyFrom(onnx.inliner.inline_local_functions(model) if model.functions else model)
    taken = {node.name for node in whole.graph.node}
    for node in whole.graph.node:
        if not node.name:
            wanted = next(filter(None, node.output), node.op_type)
            node.name = next(each for each in _names(wanted) if each not in taken)
            taken.add(node.name)
        if node.op_type == "Constant":
            _hold_as_tensor(node)
    try:
        return onnx.shape_inference.infer_shapes(whole)
    except (ValueError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"{name}: its types cannot be told ({first_line(error)}); keep it in fp32"
        ) from error


def _names(wanted: str) -> Iterator[str]:
    yield wanted
    yield from (f"{wanted}_{number}" for number in count(1))


def _hold_as_tensor(node: onnx.NodeProto) -> None:
    """The converter turns tensors into float16, and no other form of a constant."""
    for item in node.attribute:
        if item.name in ("value_float", "value_floats"):
            value = item.f if item.name == "value_float" else list(item.floats)
            tensor = numpy_helper.from_array(np.asarray(value, np.float32))
            item.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _feeds(model: onnx.ModelProto, calibration: Data, name: str) -> list[FeedBatch]:
    specs = open_session(model, name).inputs
    return list(batches(ModelData.of(calibration, specs), specs))


def _ranges(
    model: onnx.ModelProto, types: Mapping[str, int], feeds: Sequence[FeedBatch], name: str
) -> tuple[dict[str, float] | None, tuple[Remark, ...]]:
    if not feeds:
        return None, (Remark("missed", SOURCE, name, NOT_LOOKED_AT),)
    try:
        return value_ranges(model, types, feeds, name), ()
    except ModelError as error:  # what an old opset, or an empty value, does not allow
        return None, (
            Remark("missed", SOURCE, name, f"what its values reach could not be looked at ({error})"),
        )


def _converted(model: onnx.ModelProto, wide: Mapping[str, str], name: str) -> onnx.ModelProto:
    """``model`` itself, changed in place as the converter does it."""
    original = {node.name for node in model.graph.node}
    with quiet():
        try:
            converted = convert_float_to_float16(
                model,
                keep_io_types=True,
                disable_shape_infer=True,
                op_block_list=sorted(KEPT),
                node_block_list=sorted(wide),
            )
        except (ValueError, TypeError, RuntimeError) as error:
            raise ModelError(f"{name}: cannot be converted to float16 ({error}); keep it in fp32") from error
    return mend_casts(converted, original)


def _error(
    model: onnx.ModelProto, half: onnx.ModelProto, feeds: Sequence[FeedBatch], name: str
) -> dict[str, float | int]:
    """The figures of the comparison, on the first ``SAMPLES``."""
    numbers = np.cumsum([batch.count for batch in feeds])
    few = feeds[: int(np.searchsorted(numbers, SAMPLES)) + 1]
    error = float16_error(model, half, few, name)
    if not np.isfinite(error):
        raise ModelError(f"{name}: overflows in float16 on the calibration inputs; keep it in fp32")
    return {"samples": int(numbers[-1]), "relative_error": float(f"{error:.2g}")}


def _kept(model: onnx.ModelProto, wide: Mapping[str, str]) -> tuple[int, list[Remark]]:
    """How many nodes are to be converted, and why the others are not."""
    kept = Counter(node.op_type for node in model.graph.node if node.op_type in KEPT)
    alone = [node for node in model.graph.node if node.name in wide and node.op_type not in KEPT]
    found = [
        Remark("missed", SOURCE, op, f"stays in float32: {KEPT[op]}", {"nodes": number})
        for op, number in sorted(kept.items())
    ]
    found += [Remark("missed", SOURCE, node.name, f"stays in float32: {wide[node.name]}") for node in alone]
    return len(model.graph.node) - sum(kept.values()) - len(alone), found


def _stored(model: onnx.ModelProto, kind: int) -> bool:
    """Whether a weight is of this type."""
    return any(tensor.data_type == kind for tensor in model.graph.initializer) or any(
        item.t.data_type == kind
        for node in model.graph.node
        if node.op_type == "Constant"
        for item in node.attribute
        if item.name == "value"
    )
