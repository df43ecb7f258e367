"""``OnnxHeader``: what of an ONNX file is neither a node's argument nor a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx


@dataclass(frozen=True)
class OnnxHeader:
    """The file as it was read, and how the program's tensors map to it. Never changed after loading.

    ``model`` is the whole file, external data not loaded. ``folder`` is where external data lies.
    ``tensors``: program tensor → ONNX value name. ``constants``: program tensor → index of the node making
    it (``Constant``, or ``ConstantOfShape`` of a stored shape); other tensors are initializers. ``external``
    says whether the file kept weights outside.
    """

    model: onnx.ModelProto
    folder: Path | None = None
    tensors: Mapping[str, str] = field(default_factory=dict[str, str])
    constants: Mapping[str, int] = field(default_factory=dict[str, int])
    external: bool = False

    @property
    def opsets(self) -> dict[str, int]:
        """Domain → version; the default domain is the empty string."""
        return {plain_domain(entry.domain): entry.version for entry in self.model.opset_import}


def plain_domain(domain: str) -> str:
    """The default domain has two spellings."""
    return "" if domain == "ai.onnx" else domain
