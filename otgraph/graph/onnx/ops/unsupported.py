"""What a torch function raises for a case it does not cover; ONNX Runtime then runs the node."""

from __future__ import annotations

from otgraph.errors import ModelError


class Unsupported(ModelError):
    """A combination of attributes or inputs that has no torch form here; the text says which."""
