"""What a map in the place of a span, or an affine in the place of an activation, does to the outputs.

The map is applied to the value that enters the span, as it was fitted, so the span's end changes by
δ = map(entry) − end: one product of the map's size prices it, and no more of the network is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from otgraph.calibrate.probing import Probing
from otgraph.calibrate.pullback import Edge
from otgraph.calibrate.span_fit import SpanFit
from otgraph.graph.span import Span

Samples = npt.NDArray[np.float64]


class CollapsePricer:
    """An ``Observer`` of the ends of the spans of ``fits``: accumulates t of every collapse."""

    def __init__(self, fits: Sequence[SpanFit], probing: Probing) -> None:
        self._fits = fits
        self._probing = probing
        self._parts = 1
        self._changes: dict[str, torch.Tensor] = {}
        self._found: dict[str, list[Samples]] = {fit.collapse.name: [] for fit in fits}
        self.failures: dict[str, str] = {}
        """Why a map could not be applied, by the collapse's name."""

    @property
    def edges(self) -> dict[str, Edge]:
        """The edge that each collapse changes: all that read the span's end."""
        return {fit.collapse.name: end_of(fit.collapse.span) for fit in self._fits}

    @property
    def observed(self) -> frozenset[Edge]:
        """All that has to be seen: the ends, and what enters."""
        return frozenset(self.edges.values()) | {Edge(fit.collapse.span.entry) for fit in self._fits}

    def begin(self, values: Mapping[Edge, torch.Tensor], samples: int) -> None:
        self._parts = self._probing.parts(samples)
        self._changes = {}
        with torch.no_grad():
            for fit in self._fits:
                name, span = fit.collapse.name, fit.collapse.span
                entry, end = values.get(Edge(span.entry)), values.get(end_of(span))
                if entry is None or end is None or name in self.failures:
                    continue
                made = _applied(fit, entry)
                if made.shape != end.shape:
                    self.failures[name] = f"gives {list(made.shape)}, {list(end.shape)} is wanted"
                    continue
                self._changes[name] = made - end

    def probe(self, gradients: Mapping[Edge, torch.Tensor]) -> None:
        for fit in self._fits:
            name = fit.collapse.name
            gradient, change = gradients.get(end_of(fit.collapse.span)), self._changes.get(name)
            if gradient is None or change is None:
                self._found[name].append(np.zeros(self._parts))
                continue
            self._found[name].append((gradient * change).reshape(self._parts, -1).sum(1).double().numpy())

    def effects(self, name: str) -> Samples:
        """t of a collapse, one number per probe and unit."""
        found = self._found[name]
        return np.concatenate(found) if found else np.zeros(0)


def end_of(span: Span) -> Edge:
    """The value that a map takes the place of."""
    return Edge(span.branch or span.exit)


def _applied(fit: SpanFit, entry: torch.Tensor) -> torch.Tensor:
    """What stands at the span's end once the map has taken its place."""
    if fit.collapse.map == "identity":
        return torch.zeros_like(entry) if fit.collapse.span.branch else entry
    assert fit.weight is not None and fit.bias is not None
    weight, bias = fit.weight.to(entry.dtype), fit.bias.to(entry.dtype)
    if weight.dim() == 1:
        return entry * weight + bias
    if weight.dim() == 2:
        return functional.linear(entry, weight, bias)
    window = fit.window
    amounts = [amount for pair in reversed(window.padding) for amount in pair]
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(window.kernel)]
    return convolve(functional.pad(entry, amounts), weight, bias, stride=window.stride, groups=window.groups)
