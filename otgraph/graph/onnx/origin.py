"""What a node of the ``onnx`` dialect remembers of the ONNX node it came from (``node.meta["onnx"]``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OnnxOrigin:
    """Identity of an ONNX node: everything that its fx node's arguments do not say."""

    op_type: str
    domain: str = ""
    name: str = ""
    overload: str = ""
    outputs: tuple[str, ...] = ()
    doc_string: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
