"""The ground metric of the width transport, pulled back from the outputs.

A reader multiplies its input by W; what counts is not the error of its output but what that does to the
outputs of the network. With ``G = Σ_positions E[g gᵀ]`` at the reader's output, g being what a probe of the
outputs has become there, the gain is ``H = Σ_taps Wᵀ G W``: costs are then damages at the outputs, and the
readers of one dim are weighed against each other in one unit. Errors at different positions are taken as
uncorrelated, as taps are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from otgraph.calibrate.probing import Probing
from otgraph.calibrate.pullback import Edge, pull_back
from otgraph.calibrate.readers import Reader
from otgraph.graph.affine import read_weight
from otgraph.graph.graph import Graph

Gain = npt.NDArray[np.float64]

SHRINK = 8
"""G is an average over as many draws as there are inputs × probes × positions, of which neighbors say the
same: each input and probe counts as at most this many draws, and G is drawn toward a multiple of the
identity by the share of its rows among rows and draws (in the manner of Ledoit and Wolf, 2004)."""


def output_gains(
    graph: Graph,
    readers: Mapping[str, tuple[Reader, ...]],
    probing: Probing,
    *,
    probes: int = 2,
    seed: int = 0,
) -> dict[str, tuple[Gain | None, ...]]:
    """H of every reader of every dim, shape (n, n), in units of damage at the outputs per squared input;
    None where no gradient arrives."""
    edges = {edge_of(reader) for group in readers.values() for reader in group}
    sums = _Sums(readers)
    reach = pull_back(graph, probing.batches, probing.metric, edges, sums, probes=probes, seed=seed)
    draws = probing.samples * probes
    found: dict[str, tuple[Gain | None, ...]] = {}
    for name, group in readers.items():
        found[name] = tuple(
            _gain(graph, reader, sums.of(reader), draws) if edge_of(reader) in reach.edges else None
            for reader in group
        )
    return found


def plain(reader: Reader) -> bool:
    """Whether the reader's output can be priced by its weight: an ordinary product or convolution."""
    affine = reader.affine
    return affine is not None and affine.window.groups == 1


def edge_of(reader: Reader) -> Edge:
    """Where a reader's gradient is taken: at its output, or at its input where it has no plain weight."""
    assert reader.affine is not None or not plain(reader)
    if reader.affine is not None and plain(reader):
        return Edge(reader.affine.output.name)
    return input_edge(reader)


def input_edge(reader: Reader) -> Edge:
    """The value of the dim as this reader takes it."""
    return Edge(reader.slot.node, "" if reader.affine is None else reader.affine.node.name)


class _Sums:
    """Σ g gᵀ over inputs, probes and positions: by output node (o, o), or by slot (n, n)."""

    def __init__(self, readers: Mapping[str, tuple[Reader, ...]]) -> None:
        self._outputs: dict[Edge, tuple[int, torch.Tensor | None]] = {}
        self._slots: dict[Edge, dict[tuple[str, int, bytes, int], Reader]] = {}
        self._totals: dict[tuple[Edge, object], torch.Tensor] = {}
        for group in readers.values():
            for reader in group:
                edge = edge_of(reader)
                if reader.affine is not None and plain(reader):
                    self._outputs[edge] = reader.affine.axis, None
                else:
                    self._slots.setdefault(edge, {})[reader.slot.key] = reader

    def begin(self, values: Mapping[Edge, torch.Tensor], samples: int) -> None:
        """Values are not looked at."""

    def probe(self, gradients: Mapping[Edge, torch.Tensor]) -> None:
        for edge, gradient in gradients.items():
            if edge in self._outputs:
                rows = gradient.movedim(self._outputs[edge][0], 0)
                self._add((edge, None), rows.reshape(rows.shape[0], -1))
            for key, reader in self._slots.get(edge, {}).items():
                self._add((edge, key), reader.slot.view(gradient))

    def _add(self, key: tuple[Edge, object], rows: torch.Tensor) -> None:
        product = (rows @ rows.T).double()
        self._totals[key] = self._totals[key] + product if key in self._totals else product

    def of(self, reader: Reader) -> torch.Tensor | None:
        """The sum that prices ``reader``."""
        return self._totals.get((edge_of(reader), None if plain(reader) else reader.slot.key))


def _gain(graph: Graph, reader: Reader, total: torch.Tensor | None, draws: int) -> Gain | None:
    if total is None:
        return None
    shrunk = _shrunk(total / draws, draws)
    if reader.affine is None or not plain(reader):
        return shrunk.numpy()
    weight = read_weight(graph, reader.affine).double()
    if weight.shape[0] != len(shrunk):
        return None
    flat = weight.reshape(weight.shape[0], weight.shape[1], -1)
    gain = torch.zeros(reader.slot.size, reader.slot.size, dtype=torch.float64)
    for positions in reader.columns:
        part = flat[:, torch.from_numpy(positions)]
        for tap in part.unbind(2):
            gain += tap.T @ (shrunk @ tap)
    return ((gain + gain.T) / 2).numpy()


def _shrunk(found: torch.Tensor, draws: int) -> torch.Tensor:
    n = len(found)
    share = n / (n + SHRINK * draws)
    return (1 - share) * found + share * found.diagonal().mean() * torch.eye(n, dtype=torch.float64)
