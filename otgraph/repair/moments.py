"""Moment transport: each channel gets back the mean and variance it had in the original network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from otgraph.calibrate.batches import Batch, split_batches
from otgraph.calibrate.divergence import Divergence, output_divergence
from otgraph.calibrate.moments import MeanVariance, mean_variance
from otgraph.calibrate.transport_map import AffineMap, gaussian_map
from otgraph.data import Data
from otgraph.graph.affine import (
    Affine,
    BatchNorm,
    affine_nodes,
    is_shared,
    lay_weight,
    norm_of,
    read_batch_norm,
)
from otgraph.graph.graph import Graph, label
from otgraph.graph.notes import kept_of, original_name
from otgraph.heap import give_back
from otgraph.remark import Remark
from otgraph.repair.lockstep import Lockstep, Walked
from otgraph.repair.memory import Memory
from otgraph.repair.target import restrict
from otgraph.task import Task

SOURCE = "repair-moments"


@dataclass(frozen=True)
class MomentOptions:
    """``strengths``: how far along the geodesic to try going (0, nothing, is always tried). ``folds``: one
    part in so many of the inputs is held out to choose. ``inputs``: at most so many are used. ``memory``:
    bytes of values of both networks before they go to files. ``task``: how the outputs are read when
    strengths are judged."""

    strengths: tuple[float, ...] = (0.5, 1.0)
    folds: int = 4
    inputs: int = 512
    memory: int = 768 << 20
    seed: int = 0
    task: Task = "auto"


@dataclass(frozen=True)
class MomentRepair:
    """``updates``: tensor name → new value, empty when nothing did better. ``before`` and ``after``:
    divergence of the outputs from the original's on held-out inputs."""

    updates: Mapping[str, torch.Tensor]
    remarks: tuple[Remark, ...]
    strength: float
    before: Divergence
    after: Divergence


def repair_moments(
    new: Graph,
    original: Graph,
    data: Data,
    options: MomentOptions | None = None,
    scratch: Path | None = None,
) -> MomentRepair:
    """Match mean and variance of every batch norm's output, and of every other affine node's, to the
    original's.

    Sequential: later nodes see the earlier ones repaired. Batch norms take the map in their running
    statistics (so it is a re-estimation, against the original on the same inputs instead of against
    training's statistics); affine nodes that no batch norm follows in their weight rows and bias, where they
    have a bias. Each strength is estimated on the fitting inputs and judged by the divergence of the outputs
    on held-out ones; the best is estimated again on all inputs. Neither graph is edited.

    Source: REPAIR (Jordan et al. 2023), as the Gaussian optimal-transport map per channel.

    Raises:
        DataError: the data do not fit the model, or hold no complete batch.
    """
    options = options or MomentOptions()
    give_back()
    batches = split_batches(new, data, max(2, options.folds), limit=options.inputs, seed=options.seed)
    runs = {
        t: _run(new, original, batches, t, options, scratch, held_out=True) for t in (0.0, *options.strengths)
    }
    held = [index for index, batch in enumerate(batches) if batch.fold == 0]
    if len(held) in (0, len(batches)):
        text = f"{len(batches)} batch of inputs cannot be split into a fitted and a held-out part; give more"
        nothing = Divergence(0.0)
        return MomentRepair({}, (Remark("missed", SOURCE, new.name, text),), 0.0, nothing, nothing)
    damage = {t: _divergence(run.walked, held, options.task) for t, run in runs.items()}
    best = min(damage, key=lambda t: (damage[t].damage, t))
    figures: dict[str, float | int | str] = {
        f"damage_at_{t:g}": round(d.damage, 8) for t, d in damage.items()
    }
    if best == 0.0:
        whole = damage[0.0].damage == 0.0
        text = "no strength does better on held-out inputs"
        text = "nothing to repair: the outputs are the original's" if whole else text
        remark = Remark("missed", SOURCE, new.name, text, figures)
        return MomentRepair({}, (remark,), 0.0, damage[0.0], damage[0.0])
    final = _run(new, original, batches, best, options, scratch, held_out=False)
    remark = Remark("applied", SOURCE, new.name, f"moments matched at strength {best:g}", figures)
    return MomentRepair(final.pair.new.overrides, (*final.remarks, remark), best, damage[0.0], damage[best])


@dataclass
class _Run:
    """One walk at one strength."""

    pair: Lockstep
    fitted: Sequence[int]
    strength: float
    affine: dict[str, Affine]
    remarks: list[Remark] = field(default_factory=list)
    walked: Walked = field(default_factory=lambda: Walked([], []))

    def before(self, node: fx.Node) -> None:
        """Batch norms: change the statistics before the node is executed."""
        norm = read_batch_norm(self.pair.new.graph, node)
        if norm is None or not self._concerned(node):
            return
        values = self.pair.new.values[norm.data.name]
        wanted = self._target(node)
        if is_shared(self.pair.new.graph, norm.mean) or is_shared(self.pair.new.graph, norm.var):
            self._miss(node, "its statistics are shared with another batch norm")
        elif wanted is not None:
            self._norm(norm, self._moments((values[index] for index in self.fitted), 1), wanted)

    def after(self, node: fx.Node) -> None:
        """Affine nodes without one: map weights, bias and the values just computed."""
        affine = self.affine.get(node.name)
        if affine is None or not self._concerned(node) or norm_of(self.pair.new.graph, node) is not None:
            return
        graph = self.pair.new.graph
        if is_shared(graph, affine.weight):
            self._miss(node, "its weight is shared")
        elif affine.bias is None or is_shared(graph, affine.bias):
            self._miss(node, "has no bias of its own to take the shift")
        elif (wanted := self._target(node, affine.axis)) is not None:
            values = self.pair.new.values[node.name]
            found = self._moments((values[index] for index in self.fitted), affine.axis)
            self._map(affine, gaussian_map(found, wanted, self.strength))

    def _concerned(self, node: fx.Node) -> bool:
        known = original_name(node) in self.pair.original.nodes
        return self.strength > 0 and node.name not in self.pair.same and known

    def _target(self, node: fx.Node, axis: int = 1) -> MeanVariance | None:
        reference = self.pair.reference(original_name(node))
        if reference is None:
            return None
        kept = kept_of(node)
        return self._moments((restrict(reference[index], kept) for index in self.fitted), axis)

    def _moments(self, values: Iterable[Any], axis: int) -> MeanVariance:
        """Of all ``values`` together; one at a time is in memory."""
        return reduce(lambda a, b: a.merge(b), (mean_variance(value, axis) for value in values))

    def _norm(self, norm: BatchNorm, found: MeanVariance, wanted: MeanVariance) -> None:
        """BN(x) = g (x − μ)/σ + β has mean g (m − μ)/σ + β and deviation |g| s/σ; solve for μ and σ."""
        execution = self.pair.new
        mean, var = (execution.tensor(name).double().numpy() for name in (norm.mean, norm.var))
        sigma = np.sqrt(var + norm.eps)
        gain = np.ones_like(mean) if norm.weight is None else execution.tensor(norm.weight).double().numpy()
        bias = np.zeros_like(mean) if norm.bias is None else execution.tensor(norm.bias).double().numpy()
        if found.mean.shape != wanted.mean.shape:
            self._miss(norm.node, "the original's batch norm has other channels")
            return
        out = MeanVariance(
            found.count, gain * (found.mean - mean) / sigma + bias, (gain / sigma) ** 2 * found.variance
        )
        move = gaussian_map(out, wanted, self.strength)
        live = np.abs(gain) > 1e-6 * max(np.abs(gain).max(), 1e-300)
        new_sigma = np.where(live, sigma / np.maximum(move.scale, 1e-6), sigma)
        new_var = np.maximum(new_sigma**2 - norm.eps, 0.0)
        new_sigma = np.sqrt(new_var + norm.eps)
        goal = move.scale * out.mean + move.shift
        new_mean = np.where(live, found.mean - (goal - bias) * new_sigma / np.where(live, gain, 1.0), mean)
        for name, value in ((norm.mean, new_mean), (norm.var, new_var)):
            execution.overrides[name] = torch.from_numpy(value).to(execution.tensor(name).dtype)

    def _map(self, affine: Affine, move: AffineMap) -> None:
        execution = self.pair.new
        scale, shift = torch.from_numpy(move.scale), torch.from_numpy(move.shift)
        stored = execution.tensor(affine.weight)
        weight = stored.double() if affine.layout == "oi" else stored.double().transpose(0, 1)
        scaled = weight * scale.view(-1, *([1] * (weight.dim() - 1)))
        execution.overrides[affine.weight] = lay_weight(affine, scaled).to(stored.dtype).contiguous()
        assert affine.bias is not None
        bias = execution.tensor(affine.bias)
        execution.overrides[affine.bias] = (bias.double() * scale + shift).to(bias.dtype)
        values = execution.values.get(affine.output.name)
        if values is None:
            return
        shape = [1] * values[0].dim()
        shape[affine.axis] = -1
        a, b = (part.to(values[0].dtype).view(shape) for part in (scale, shift))
        execution.replace(affine.output.name, (value * a + b for value in values))

    def _miss(self, node: fx.Node, text: str) -> None:
        self.remarks.append(Remark("missed", SOURCE, label(node), text))


def _run(
    new: Graph,
    original: Graph,
    batches: Sequence[Batch],
    strength: float,
    options: MomentOptions,
    scratch: Path | None,
    *,
    held_out: bool,
) -> _Run:
    """Walk once; moments are taken of all inputs, or of all but the held-out fold."""
    pair = Lockstep(new, original, [batch.inputs for batch in batches], Memory(options.memory, scratch))
    fitted = [index for index, batch in enumerate(batches) if not held_out or batch.fold != 0]
    run = _Run(
        pair, fitted or range(len(batches)), strength, {view.output.name: view for view in affine_nodes(new)}
    )
    needs = {
        n.name: [original_name(n)]
        for n in new.module.graph.nodes
        if n.name in run.affine or read_batch_norm(new, n) is not None
    }
    run.walked = pair.walk(run.before, run.after, needs)
    return run


def _divergence(walked: Walked, chosen: Sequence[int], task: Task) -> Divergence:
    reference, outputs = ([values[i] for i in chosen] for values in (walked.reference, walked.outputs))
    return output_divergence(reference, outputs, task)
