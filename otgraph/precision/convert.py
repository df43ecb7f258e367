"""An ONNX file in another precision, as the engine that will run it wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from otgraph.data import Data
from otgraph.engines.onnx_file import read_onnx, write_onnx
from otgraph.errors import UsageError
from otgraph.remark import Remark

Precision = Literal["fp32", "fp16", "int8"]
"""``fp32``: as the file is. What int8 leaves in float stays in float32."""

SYMMETRIC = ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt")
"""The engines whose activations are quantized around zero."""


def check_precision(text: str) -> Precision:
    """``text`` as one of the precisions. Raises ``UsageError``."""
    for known in get_args(Precision):
        if text == known:
            return known
    raise UsageError(f"precision {text!r}: unknown; give one of {', '.join(get_args(Precision))}")


def convert_file(
    model: Path, place: Path, precision: Precision, calibration: Data | None, engine: str
) -> tuple[Path, tuple[Remark, ...]]:
    """``model`` itself for fp32, else ``place``, written in ``precision``; and what was said.

    float16 looks at ``calibration`` for values that overflow; int8 needs it.

    Raises ``ModelError``, ``UsageError`` and ``DataError`` as the conversions do.
    """
    if precision == "fp32":
        return model, ()
    proto = read_onnx(model)
    # what only measures artifacts on a device does not need what converts them
    if precision == "fp16":
        from otgraph.precision.float16 import to_float16  # noqa: PLC0415

        converted, said = to_float16(proto, calibration, name=model.name)
    else:
        from otgraph.precision.int8 import to_int8  # noqa: PLC0415

        converted, said = to_int8(proto, calibration, symmetric=engine in SYMMETRIC, name=model.name)
    write_onnx(converted, place)
    return place, said
