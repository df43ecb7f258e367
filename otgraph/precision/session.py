"""What ONNX Runtime says of a model that a conversion reads or made, under the name the user knows."""

from __future__ import annotations

import onnx
from google.protobuf.message import EncodeError

from otgraph.engines.engine import Session
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import ModelError

ANONYMOUS = "model in memory: "


def open_session(model: onnx.ModelProto, name: str) -> Session:
    """``model``, called ``name`` in messages, ready to run. Raises ``ModelError``."""
    try:
        return OnnxRuntime().load(model.SerializeToString())
    except (EncodeError, ValueError) as error:  # protobuf's limit
        raise ModelError(f"{name}: is larger than 2 GB, more than a conversion can run") from error
    except ModelError as error:
        raise ModelError(f"{name}: {str(error).removeprefix(ANONYMOUS)}") from error


def check_converted(
    converted: onnx.ModelProto, original: onnx.ModelProto, name: str, precision: str
) -> onnx.ModelProto:
    """``converted``, which is valid ONNX and loads in ONNX Runtime wherever ``original`` does.

    Above protobuf's 2 GB neither can be looked at in memory, and ``converted`` is taken as it is.

    Raises:
        ModelError: it is not.
    """
    try:
        onnx.checker.check_model(converted)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{name}: in {precision} it is not valid ONNX ({reason}); keep it in fp32"
        ) from error
    except ValueError:
        return converted
    refused = _refusal(converted)
    # a model of operators that only another engine has cannot be tried here
    if refused is not None and _refusal(original) is None:
        raise ModelError(f"{name}: in {precision} ONNX Runtime cannot load it ({refused}); keep it in fp32")
    return converted


def _refusal(model: onnx.ModelProto) -> str | None:
    """Why ONNX Runtime cannot load it; None where it can."""
    try:
        OnnxRuntime().load(model.SerializeToString())
    except ModelError as error:
        cause = error.__cause__ or error
        return str(cause).strip().splitlines()[0]
    return None
