"""Spans of a network, and what may stand in their place: the vocabulary of depth reduction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MapKind = Literal["identity", "affine", "linear", "conv"]
"""What a span becomes: nothing, a scale and a shift per channel, a product per position (a 1×1 convolution
where there are spatial axes), or a k×k convolution."""

Estimator = Literal["least-squares", "moments", "gaussian"]
"""How the map is found: least squares; least squares, then each channel's mean and variance restored; or the
Gaussian optimal-transport (Bures) map."""


@dataclass(frozen=True)
class Span:
    """A region of the program with one value that enters and one that leaves.

    ``entry`` and ``exit`` name nodes; ``nodes`` are the call nodes of the region in program order, ``exit``
    last and ``entry`` not among them. ``branch``: where the exit adds the entry to another value, the name of
    that value's node, else None; then a map stands for the branch, and the addition stays.
    """

    entry: str
    exit: str
    nodes: tuple[str, ...]
    branch: str | None = None

    @property
    def name(self) -> str:
        """How plans and remarks call the span."""
        return f"{self.entry}..{self.exit}"


@dataclass(frozen=True)
class Collapse:
    """A span and the map that takes its place. ``kernel`` is the spatial extent of a ``conv``."""

    span: Span
    map: MapKind
    kernel: tuple[int, ...] = ()
    estimator: Estimator = "least-squares"

    @property
    def name(self) -> str:
        """Unique among the collapses of a network."""
        size = "x".join(map(str, self.kernel))
        how = "" if self.map == "identity" else f":{self.estimator}"
        return f"{self.span.name}:{self.map}{size}{how}"
