"""A model in a later opset, where that is the same model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import version_converter

from otgraph.data import Array
from otgraph.engines.onnxruntime import first_line
from otgraph.errors import ModelError
from otgraph.precision.session import open_session

DEFAULT_DOMAINS = ("", "ai.onnx")

LIMIT = 1e-5
"""Largest ‖a - b‖ / ‖a‖ of outputs, which rounding stays below; a convention of an operator that was not
carried over does not."""


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators; 1 where none is stated."""
    return max((each.version for each in model.opset_import if each.domain in DEFAULT_DOMAINS), default=1)


def raise_opset(model: onnx.ModelProto, opset: int, feeds: Mapping[str, Array], name: str) -> onnx.ModelProto:
    """``model`` in ``opset``, by ONNX's version converter, compared with ``model`` on ``feeds``.

    Raises:
        ModelError: it cannot be converted, or is another network then.
    """
    where = f"{name}: cannot be brought from opset {opset_of(model)} to {opset}"
    try:
        raised = version_converter.convert_version(model, opset)
        onnx.checker.check_model(raised)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{where} ({first_line(error)}); export it with opset {opset} or later") from error
    wanted, found = (open_session(each, name).run(feeds) for each in (model, raised))
    for key, value in wanted.items():
        if not _near(value, found[key]):
            raise ModelError(f"{where}: output {key} differs; export it with opset {opset} or later")
    return raised


def _near(a: Array, b: Array) -> bool:
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    full = a.astype(np.float64)
    return float(np.linalg.norm(full - b.astype(np.float64))) <= LIMIT * float(np.linalg.norm(full))
