"""Sequential, asymmetric least squares: what linear layers can undo of a cut, without labels or gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from otgraph.calibrate.divergence import Divergence, output_divergence
from otgraph.data import Data
from otgraph.graph.affine import affine_nodes
from otgraph.graph.graph import Graph
from otgraph.remark import Remark
from otgraph.repair.batches import Batch, split_batches
from otgraph.repair.fitter import SOURCE, Fitter
from otgraph.repair.frontier import Memory
from otgraph.repair.lockstep import Lockstep, Walked, run_with
from otgraph.repair.rows import Sampling
from otgraph.repair.target import TargetMode

RIDGES = (1e-8, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, float("inf"))
"""Relative ridges; inf corrects the constant alone. The unchanged layer is always one more candidate."""


@dataclass(frozen=True)
class LeastSquaresOptions:
    """What can be chosen.

    ``ridges``: candidates for λ. ``strengths``: how much of the whole correction to try (0 always is). One
    part in ``folds`` of the inputs, of which at most ``inputs`` are used, is held out to choose both. Nodes
    with more than ``max_width`` im2col columns are not fitted. ``sampling``: which output positions of
    a convolution are used. ``memory``: bytes of intermediate values before they go to files.
    """

    ridges: tuple[float, ...] = RIDGES
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    folds: int = 4
    inputs: int = 512
    target: TargetMode = TargetMode.STREAM
    max_width: int = 6000
    sampling: Sampling = field(default_factory=Sampling)
    memory: int = 1536 << 20
    seed: int = 0
    precision: torch.dtype = torch.float64

    @staticmethod
    def quick(ridge: float = 1e-2, inputs: int = 48) -> LeastSquaresOptions:
        """For ``TrialRepair``: one ridge for every node, few inputs and positions, products in float32."""
        return LeastSquaresOptions(
            ridges=(ridge,),
            inputs=inputs,
            sampling=Sampling(positions=8, per_column=8, least=512, most=48),
            precision=torch.float32,
        )


@dataclass(frozen=True)
class Repair:
    """``updates``: tensor name → new value, empty where no strength helped. ``before`` and ``after``:
    divergence of the outputs from the original's on inputs that were held out of everything. ``peak`` and
    ``spilled``: bytes of intermediate values in memory and in files."""

    updates: Mapping[str, torch.Tensor]
    remarks: tuple[Remark, ...]
    strength: float = 0.0
    before: Divergence | None = None
    after: Divergence | None = None
    peak: int = 0
    spilled: int = 0


def repair_least_squares(
    new: Graph,
    original: Graph,
    data: Data,
    options: LeastSquaresOptions | None = None,
    scratch: Path | None = None,
) -> Repair:
    """Refit every affine node of ``new`` whose input changed, in program order.

    Each node's inputs come from the new network *as repaired so far*, its target from the original (which
    positions are left is read from ``node.meta["otgraph"]["kept"]``). The normal equations are streamed, and
    the ridge pulls toward the old weights. Two walks through both networks in lock-step: the first fits on
    one part of the inputs and chooses each node's ridge, and at the end the strength of the whole, on the
    part that *no* node was fitted on; the second fits on all inputs with what was chosen. (Held-out inputs
    that earlier nodes were fitted on make later ridges too small: measured on a digit ResNet, about 5 % of
    the KL.) Neither graph is edited.

    Source: least-squares reconstruction as in ThiNet (Luo 2017) and He et al. (2017), asymmetric.

    Raises:
        DataError: the data do not fit the model, or hold no complete batch.
    """
    options = options or LeastSquaresOptions()
    batches = split_batches(new, data, max(2, options.folds), limit=options.inputs, seed=options.seed)
    held_out = [batch.fold == 0 for batch in batches]
    if len(set(held_out)) < 2:
        text = "one batch of inputs cannot be split into a fitted and a held-out part; give more inputs"
        return Repair({}, (Remark("missed", SOURCE, new.name, text),))
    memory = Memory(options.memory, scratch)
    first, walked = _walk(new, original, batches, options, memory, None)
    updates = first.pair.new.overrides
    strength, damage = _strength(new, updates, batches, walked, options.strengths)
    remarks = [*first.remarks, _verdict(new, strength, damage)]
    if strength > 0:
        ridges = {name: choice.ridge for name, choice in first.choices.items()}
        memory = Memory(options.memory, scratch)  # the first walk's values may go
        second, _ = _walk(new, original, batches, options, memory, ridges)
        updates = blend(new, second.pair.new.overrides, strength)
    if memory.spilled:
        remarks.append(
            Remark("analysis", SOURCE, new.name, f"{memory.spilled >> 20} MB of values went to files")
        )
    found = updates if strength > 0 else {}
    return Repair(found, tuple(remarks), strength, damage[0.0], damage[strength], memory.peak, memory.spilled)


def blend(graph: Graph, updates: Mapping[str, torch.Tensor], strength: float) -> dict[str, torch.Tensor]:
    """``strength`` of the way from the stored tensors to ``updates``."""
    if strength == 1.0:
        return dict(updates)
    return {name: torch.lerp(graph.tensor(name).detach(), value, strength) for name, value in updates.items()}


def _walk(
    new: Graph,
    original: Graph,
    batches: Sequence[Batch],
    options: LeastSquaresOptions,
    memory: Memory,
    fixed: Mapping[str, float | None] | None,
) -> tuple[Fitter, Walked]:
    pair = Lockstep(new, original, [batch.inputs for batch in batches], memory, options.sampling)
    fitter = Fitter(
        pair=pair,
        same=pair.same,
        views={view.node.name: view for view in affine_nodes(new)},
        held_out=[fixed is None and batch.fold == 0 for batch in batches],
        ridges=options.ridges,
        mode=options.target,
        max_width=options.max_width,
        fixed=fixed,
        precision=options.precision,
    )
    return fitter, pair.walk(fitter.before, lambda _: None, fitter.needs())


def _strength(
    new: Graph,
    updates: Mapping[str, torch.Tensor],
    batches: Sequence[Batch],
    walked: Walked,
    strengths: Sequence[float],
) -> tuple[float, dict[float, Divergence]]:
    """The share of the correction with the smallest divergence of the outputs on the held-out inputs."""
    held = [index for index, batch in enumerate(batches) if batch.fold == 0]
    inputs, reference = [batches[i].inputs for i in held], [walked.reference[i] for i in held]
    damage: dict[float, Divergence] = {}
    for strength in dict.fromkeys((0.0, *strengths)):
        overrides = blend(new, updates, strength) if strength > 0 else {}
        damage[strength] = output_divergence(reference, run_with(new, overrides, inputs))
    return min(damage, key=lambda s: (damage[s].damage, s)), damage


def _verdict(new: Graph, strength: float, damage: Mapping[float, Divergence]) -> Remark:
    figures: dict[str, float | int | str] = {
        f"damage_at_{s:g}": round(d.damage, 8) for s, d in damage.items()
    }
    if strength > 0:
        return Remark("applied", SOURCE, new.name, f"repair applied at strength {strength:g}", figures)
    return Remark("missed", SOURCE, new.name, "no strength helps the outputs on held-out inputs", figures)
