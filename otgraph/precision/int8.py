"""float32 → int8 by Q/DQ nodes, with ONNX Runtime's static quantizer and the user's calibration inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from otgraph.data import Data
from otgraph.data_model import ModelData
from otgraph.engines.feeds import FeedBatch, batches
from otgraph.engines.onnxruntime import ORT_ERRORS, first_line
from otgraph.errors import ModelError, UsageError
from otgraph.precision.opset import opset_of, raise_opset
from otgraph.precision.session import check_converted, open_session
from otgraph.quiet import quiet
from otgraph.remark import Remark
from otgraph.scratch import scratch_folder

SOURCE = "to-int8"

PER_CHANNEL = 13
"""The first opset whose Q/DQ nodes have a scale per channel."""

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What engines compute in int8 on GPUs; between them float16 or float32 costs little."""

CARRIERS = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Reshape", "Transpose")
"""What processors compute in int8 between products without a range of its own to lose. Sums, and the pieces
of normalizations and gates, stay in float: in int8 too, 91 % of positions of the benchmarks' text recognizer
agreed with the original, without them 96 %, and nothing was faster."""


def to_int8(
    model: onnx.ModelProto, calibration: Data | None, *, symmetric: bool = False, name: str = ""
) -> tuple[onnx.ModelProto, tuple[Remark, ...]]:
    """``model`` with Q/DQ nodes: int8 weights per output channel, activations in the range that they had on
    ``calibration``.

    ``symmetric``: as TensorRT wants it: int8 activations with zero in the middle, products only, biases in
    float. Otherwise as processors want it: uint8 activations, products and ``CARRIERS``, and weights of seven
    bits, since a processor without VNNI adds pairs of products in 16 bits, which saturate. A model of an
    opset before 13 is brought to it, or gets one scale per weight. The result is checked, and loads in
    ONNX Runtime. ``name``: what messages call the model.

    Raises:
        UsageError: there is no calibration data.
        DataError: it does not fit the model.
        ModelError: the model is quantized already, or the quantizer fails.
    """
    name = name or model.graph.name or "model"
    if calibration is None:
        raise UsageError("int8: needs inputs to find the ranges of activations on; give --calib DATA")
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise ModelError(f"{name}: is quantized already; convert the model that it was made of")
    if not any(node.op_type in PRODUCTS for node in model.graph.node):
        return model, (Remark("missed", SOURCE, name, "has no products; nothing was quantized"),)
    specs = open_session(model, name).inputs
    feeds = list(batches(ModelData.of(calibration, specs), specs))
    recent, said = _recent(model, feeds[0], name)
    choices = _choices(symmetric=symmetric, per_channel=not said)
    quantized = check_converted(_quantized(recent, feeds, choices, name), model, name, "int8")
    return quantized, (*_remarks(quantized, name, sum(batch.count for batch in feeds)), *said)


def _recent(
    model: onnx.ModelProto, batch: FeedBatch, name: str
) -> tuple[onnx.ModelProto, tuple[Remark, ...]]:
    """``model`` in an opset that has a scale per channel, or itself and what that costs."""
    if opset_of(model) >= PER_CHANNEL:
        return model, ()
    try:
        return raise_opset(model, PER_CHANNEL, batch.feeds, name), ()
    except ModelError as error:
        return model, (Remark("missed", SOURCE, name, f"has one scale per weight, not per channel: {error}"),)


def _quantized(
    model: onnx.ModelProto, feeds: Sequence[FeedBatch], choices: dict[str, Any], name: str
) -> onnx.ModelProto:
    with scratch_folder() as folder, quiet():
        source, prepared, target = (
            Path(folder) / f"{each}.onnx" for each in ("source", "prepared", "target")
        )
        onnx.save(model, source)
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(str(prepared), str(target), _Reader(feeds), **choices)
        except (*ORT_ERRORS, AttributeError, KeyError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"{name}: cannot be quantized ({first_line(error)}); use --precision fp16, or keep it in fp32"
            ) from error
        return onnx.load(target)


def _choices(*, symmetric: bool, per_channel: bool) -> dict[str, Any]:
    common: dict[str, Any] = {"quant_format": QuantFormat.QDQ, "per_channel": per_channel}
    if symmetric:
        # outputs are quantized where they are read: before an activation their range is far larger than after
        outputs = {"OpTypesToExcludeOutputQuantization": list(PRODUCTS)}
        extra = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False, **outputs}
        types = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
        return {**common, **types, "op_types_to_quantize": list(PRODUCTS), "extra_options": extra}
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantized = [*PRODUCTS, *CARRIERS]
    extra = {"WeightSymmetric": True}
    return {
        **common,
        **types,
        "op_types_to_quantize": quantized,
        "reduce_range": True,
        "extra_options": extra,
    }


def _remarks(model: onnx.ModelProto, name: str, samples: int) -> tuple[Remark, ...]:
    quantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    left = [node for node in products if not all(each in quantized for each in node.input[:2])]
    count = len(products) - len(left)
    figures = {"products": count, "samples": samples}
    found = [Remark("applied", SOURCE, name, "quantized to int8 between Q/DQ nodes", figures)]
    reason = "stays in float: the quantizer finds no int8 form for it"
    found += [Remark("missed", SOURCE, node.name or node.output[0], reason) for node in left]
    return tuple(found)


@final
class _Reader(CalibrationDataReader):
    """The calibration inputs as the quantizer asks for them, batch by batch.

    A fixed batch that they do not fill repeats the last of them, which no range notices.
    """

    def __init__(self, feeds: Sequence[FeedBatch]) -> None:
        self._left: Iterator[FeedBatch] = iter(feeds)

    def get_next(self) -> Any:
        """The next feeds, None at the end."""
        batch = next(self._left, None)
        return None if batch is None else dict(batch.feeds)
