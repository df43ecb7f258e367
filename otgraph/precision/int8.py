"""float32 → int8 by Q/DQ nodes, with ONNX Runtime's static quantiser and the user's calibration inputs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, final

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from otgraph.data import Data
from otgraph.data_check import check_data
from otgraph.engines.engine import TensorSpec
from otgraph.engines.onnxruntime import ORT_ERRORS, OnnxRuntime, first_line
from otgraph.errors import ModelError, UsageError
from otgraph.quiet import quiet
from otgraph.remark import Remark

SOURCE = "to-int8"

BATCH = 8
"""So many inputs are looked at together where the batch is free."""

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What engines compute in int8 on GPUs; between them float16 or float32 costs little."""


def to_int8(
    model: onnx.ModelProto, calibration: Data | None, *, symmetric: bool = False
) -> tuple[onnx.ModelProto, tuple[Remark, ...]]:
    """``model`` with Q/DQ nodes: int8 weights per output channel, activations in the range that they had on
    ``calibration``.

    ``symmetric``: as TensorRT wants it: int8 activations with zero in the middle, products only, biases in
    float. Otherwise as processors want it: uint8 activations, all operators that have an int8 form.

    Raises:
        UsageError: there is no calibration data.
        ModelError: the model is quantised already, or the quantiser fails.
    """
    name = model.graph.name or "model"
    if calibration is None:
        raise UsageError("int8: needs inputs to find the ranges of activations on; give --calib DATA")
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise ModelError(f"{name}: is quantised already; convert the model that it was made of")
    if not any(node.op_type in PRODUCTS for node in model.graph.node):
        return model, (Remark("missed", SOURCE, name, "has no products; nothing was quantised"),)
    with tempfile.TemporaryDirectory(prefix="otgraph-") as folder, quiet():
        names = ("source.onnx", "prepared.onnx", "target.onnx")
        source, prepared, target = (Path(folder) / each for each in names)
        onnx.save(model, source)
        specs = OnnxRuntime().load(source).inputs
        data = calibration.named([spec.name for spec in specs])
        check_data(data, specs)
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(str(prepared), str(target), _Reader(data, specs), **_choices(symmetric=symmetric))
        except (*ORT_ERRORS, AttributeError, KeyError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"{name}: cannot be quantised ({first_line(error)}); use --precision fp16, or keep it in fp32"
            ) from error
        quantised = onnx.load(target)
    return quantised, _remarks(quantised, name, len(data))


def _choices(*, symmetric: bool) -> dict[str, Any]:
    common: dict[str, Any] = {"quant_format": QuantFormat.QDQ, "per_channel": True}
    if symmetric:
        # outputs are quantised where they are read: before an activation their range is far larger than after
        outputs = {"OpTypesToExcludeOutputQuantization": list(PRODUCTS)}
        extra = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False, **outputs}
        types = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
        return {**common, **types, "op_types_to_quantize": list(PRODUCTS), "extra_options": extra}
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    return {**common, **types, "extra_options": {"WeightSymmetric": True}}


def _remarks(model: onnx.ModelProto, name: str, samples: int) -> tuple[Remark, ...]:
    quantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    left = [node for node in products if not all(each in quantised for each in node.input[:2])]
    count = len(products) - len(left)
    figures = {"products": count, "samples": samples}
    found = [Remark("applied", SOURCE, name, "quantised to int8 between Q/DQ nodes", figures)]
    reason = "stays in float: the quantiser finds no int8 form for it"
    found += [Remark("missed", SOURCE, node.name or node.output[0], reason) for node in left]
    return tuple(found)


@final
class _Reader(CalibrationDataReader):
    """The calibration inputs as the quantiser asks for them, batch by batch."""

    def __init__(self, data: Data, specs: tuple[TensorSpec, ...]) -> None:
        fixed = [spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)]
        self._names = [spec.name for spec in specs]
        size = fixed[0] if fixed else BATCH
        self._batches = (
            {name: chunk.arrays[name] for name in self._names}
            for chunk in data.batches(size)
            if not fixed or len(chunk) == size
        )

    def get_next(self) -> Any:
        """The next feeds, None at the end."""
        return next(self._batches, None)
