"""What a node of the ``onnx`` dialect remembers of the ONNX node it came from (``node.meta["onnx"]``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OnnxOrigin:
    """Identity of an ONNX node: everything that its fx node's arguments do not say.

    ``index`` is the node's place in the file (None for a node that a rewrite made); ``captured`` names the
    values that its subgraphs take from around it, which follow the inputs among the fx arguments.
    """

    op_type: str
    domain: str = ""
    name: str = ""
    overload: str = ""
    outputs: tuple[str, ...] = ()
    doc_string: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    index: int | None = None
    captured: tuple[str, ...] = ()
