"""What cutting one dim does to the network's output: local curves scaled by measured output divergence.

The readers of a dim are given weights that re-express the removed channels by all kept ones as well as a
linear map can (a closed form of the calibration moments, the local part of what the repair will do); then the
removed channels are zeroed and the network runs on held-out inputs. Few widths are measured; the
reconstruction cost of the others says how the damage goes on between and beyond them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from otgraph.calibrate.divergence import Outputs, output_divergence
from otgraph.calibrate.feeds import Feed, feeds
from otgraph.calibrate.readers import Reader
from otgraph.calibrate.width import Width
from otgraph.data import Data
from otgraph.graph.affine import is_shared, read_weight
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph, op_name
from otgraph.transport.cost import FloatArray, IntArray, Reading, reconstruction
from otgraph.transport.elimination import reconstruction_along

PROBES = (0.75, 0.5)
"""Fractions of a dim whose removal is tried on the network."""


@dataclass(frozen=True)
class Sensitivity:
    """The predicted damage of keeping k channels of a dim, for every k: ``damage[k]``, never increasing in k.

    Damage is additive: KL for classifiers, squared relative L2 otherwise. ``measured``: (k, damage) as run.
    """

    dim: str
    damage: FloatArray
    measured: tuple[tuple[int, float], ...]


def measure_sensitivities(
    graph: Graph,
    axes: AxisMap,
    widths: Mapping[str, Width],
    data: Data,
    batch_size: int = 32,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Sensitivity]:
    """The sensitivity of every dim in ``widths``, measured one dim at a time on ``data`` (not fitted on)."""
    trial = _Trial(graph, axes, list(feeds(graph, data, batch_size)))
    found: dict[str, Sensitivity] = {}
    for number, (name, width) in enumerate(widths.items(), 1):
        progress(f"sensitivity of {name} ({number}/{len(widths)})")
        found[name] = _sensitivity(trial, width)
    return found


def additive(damage: float, *, classifier: bool) -> float:
    """A divergence in the unit in which damages add up."""
    return damage if classifier else damage * damage


def _sensitivity(trial: _Trial, width: Width) -> Sensitivity:
    n = width.size
    local = reconstruction_along(width.readings, width.curve.order).distortion
    measured: list[tuple[int, float]] = []
    for k in sorted({min(max(1, round(n * share)), n - 1) for share in PROBES}, reverse=True):
        measured.append((k, trial.damage(width, width.curve.kept(k))))
    return Sensitivity(width.dim, _scaled(local, measured), tuple(measured))


def _scaled(local: FloatArray, measured: Sequence[tuple[int, float]]) -> FloatArray:
    """Local costs times measured / local, interpolated geometrically between the measured widths."""
    n = len(local) - 1
    floor = 1e-12 * max(float(local[0]), 1e-30)
    at = np.array([k for k, _ in reversed(measured)], dtype=np.float64)
    ratio = np.log([max(d, 1e-12) / max(float(local[k]), floor) for k, d in reversed(measured)])
    scale = np.exp(np.interp(np.arange(n + 1), at, ratio))
    damage = np.maximum(local, 0.0) * scale
    damage[n] = 0.0
    return np.maximum.accumulate(damage[::-1])[::-1].copy()


class _Trial:
    """Runs a graph with one dim cut: a working copy whose weights are changed and put back."""

    def __init__(self, graph: Graph, axes: AxisMap, inputs: list[Feed]) -> None:
        self.graph = graph.copy()
        self.axes = axes
        self.inputs = inputs
        self.reference: list[Outputs] = [graph(*feed) for feed in inputs]
        self.variances = _running_variances(self.graph)
        self.classifier = output_divergence(self.reference, self.reference).kl is not None

    def damage(self, width: Width, kept: IntArray) -> float:
        """The additive damage of keeping ``kept``, the readers re-expressing the rest."""
        saved: dict[str, torch.Tensor] = {}
        try:
            for reader, reading in zip(width.readers, width.readings, strict=True):
                self._reexpress(reader, reading, kept, saved)
            self._mask(width, kept, saved)
            outputs = [self.graph(*feed) for feed in self.inputs]
        finally:
            for name, value in saved.items():
                self.graph.tensor(name).data = value
        return additive(output_divergence(self.reference, outputs).damage, classifier=self.classifier)

    def _set(self, name: str, value: torch.Tensor, saved: dict[str, torch.Tensor]) -> None:
        stored = self.graph.tensor(name)
        saved.setdefault(name, stored.data)
        stored.data = value.to(stored.dtype)

    def _reexpress(
        self, reader: Reader, reading: Reading, kept: IntArray, saved: dict[str, torch.Tensor]
    ) -> None:
        affine = reader.affine
        if affine is None or is_shared(self.graph, affine.weight):
            return
        moment = reading.second_moment()
        mix = torch.from_numpy(reconstruction(moment, kept))
        weight = read_weight(self.graph, affine).double().clone()
        constant = torch.zeros(weight.shape[0], dtype=torch.float64)
        mean = torch.from_numpy(np.zeros(reading.size) if reading.mean is None else reading.mean)
        rest = mean - mix @ mean[torch.from_numpy(kept)]
        for positions in reader.columns:
            columns = weight[:, torch.from_numpy(positions)]
            into = torch.from_numpy(positions[kept])
            constant += _per_output(columns, rest) if affine.groups == 1 else 0.0
            weight[:, into] = torch.einsum("oj...,jk->ok...", columns, mix)
        self._set(affine.weight, weight if affine.layout == "oi" else weight.transpose(0, 1), saved)
        if affine.bias is not None and reading.centred and not is_shared(self.graph, affine.bias):
            self._set(affine.bias, self.graph.tensor(affine.bias).double() + constant, saved)

    def _mask(self, width: Width, kept: IntArray, saved: dict[str, torch.Tensor]) -> None:
        mask: npt.NDArray[np.bool_] = np.zeros(width.size, bool)
        mask[kept] = True
        for port in self.axes.dims[width.dim].ports:
            gone = ~self.axes.tensors[port.tensor][port.axis].mask({width.dim: mask})
            value = self.graph.tensor(port.tensor).detach().clone()
            fill = 1.0 if port.tensor in self.variances else 0.0
            value.index_fill_(port.axis, torch.from_numpy(np.flatnonzero(gone)), fill)
            self._set(port.tensor, value, saved)


def _per_output(columns: torch.Tensor, constant: torch.Tensor) -> torch.Tensor:
    """Σ over taps and channels of W · constant, per output: what a constant input adds inside the borders."""
    taps = columns.reshape(*columns.shape[:2], -1).sum(-1)
    return taps @ constant


def _running_variances(graph: Graph) -> set[str]:
    norms = ("aten.batch_norm", "onnx.BatchNormalization")
    nodes = [node for node in graph.module.graph.nodes if op_name(node) in norms]
    return {str(node.args[4].target) for node in nodes}
