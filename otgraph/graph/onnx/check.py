"""The border for ``.onnx`` files: what is read afterwards may trust the file."""

from __future__ import annotations

from pathlib import Path

import onnx

from otgraph.errors import ModelError
from otgraph.graph.onnx.check_names import check_names, check_text
from otgraph.graph.onnx.check_nodes import check_nodes, check_versions
from otgraph.graph.onnx.check_tensors import check_tensors


def check_readable(model: onnx.ModelProto, folder: Path, where: str) -> None:
    """Hold a model as it was parsed against what its parts say of each other; nothing is allocated.

    What ``onnx.checker`` adds to this (types of attributes, order, shapes) is left to the first run: runtimes
    take more than it does, and so do we. ``folder`` is where external data lies.

    Raises:
        ModelError: opens with ``where`` and names the tensor, value or node that is wrong.
    """
    check_text(model, where)
    if not model.graph.output:
        raise ModelError(f"{where}: is not an ONNX model (it has no graph outputs); export it again")
    check_versions(model, where)
    check_names(model, where)
    check_nodes(model, where)
    check_tensors(model, folder, where)
