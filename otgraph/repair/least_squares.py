"""Sequential, asymmetric least squares: what linear layers can undo of a cut, without labels or gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from otgraph.calibrate.batches import split_batches
from otgraph.calibrate.divergence import Divergence, Outputs, output_divergence
from otgraph.calibrate.feeds import Feed
from otgraph.calibrate.rows import Sampling
from otgraph.data import Data
from otgraph.graph.affine import affine_nodes
from otgraph.graph.graph import Graph
from otgraph.graph.notes import stood_for
from otgraph.heap import give_back
from otgraph.remark import Remark
from otgraph.repair.fitter import SOURCE, Fitter
from otgraph.repair.frontier import Execution
from otgraph.repair.lockstep import outputs_of, run_with, same_nodes
from otgraph.repair.memory import Memory
from otgraph.repair.system import largest_system
from otgraph.repair.target import TargetMode, fitted_input
from otgraph.repair.teacher import Taught, Teacher
from otgraph.task import Task

Ridges = Mapping[str, float | None] | float | None
"""The ridge of each node, or of all; None where each is yet to be chosen."""

REPAIR_RIDGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 3.0, float("inf"))
"""Relative ridges; inf corrects the constant alone. The unchanged layer is always one more candidate."""


@dataclass(frozen=True)
class LeastSquaresOptions:
    """What can be chosen of a repair."""

    ridges: tuple[float, ...] = REPAIR_RIDGES
    """Candidates for λ, relative to the mean square of the inputs, chosen layer by layer."""
    common: tuple[float, ...] = (0.2, 5.0)
    """Candidates for all layers alike, which win where the outputs on held-out inputs say so."""
    ridge: float | None = None
    """The λ of all layers, where it is known already, which saves the walks that choose one."""
    strength: float | None = None
    """How much of the correction to take, where that is known too, which saves all walks but the last."""
    strengths: tuple[float, ...] = (0.5, 0.75, 1.0)
    """How much of the whole correction to try; 0 always is."""
    folds: int = 4
    """One part in so many of the inputs is held out to choose λ and strength."""
    inputs: int = 512
    """How many inputs are used at most."""
    target: TargetMode = TargetMode.STREAM
    """What the least squares aim at."""
    max_width: int = 6000
    """Nodes with more im2col columns are not fitted."""
    sampling: Sampling = field(default_factory=Sampling)
    """Which output positions of a convolution are used."""
    memory: int = 1024 << 20
    """Bytes of intermediate values, samples and normal equations before values go to files."""
    depthwise: bool = False
    """Refit those too; on EfficientNet-Lite0 they gained nothing for half of the cost."""
    seed: int = 0
    """Of the sampling."""
    precision: torch.dtype = torch.float64
    """Of the normal equations."""
    task: Task = "auto"
    """How the outputs are read when strengths are judged."""

    @staticmethod
    def quick(ridge: float = 3e-2, inputs: int = 48) -> LeastSquaresOptions:
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
    """Refit every affine node of ``new`` whose input changed, in execution order.

    Each node's inputs come from the new network *as repaired so far*, its target from the original (which
    positions are left is what the nodes note, ``graph.notes.KEPT``). The normal equations are streamed, and
    the ridge pulls toward the old weights. The original runs once; walks through the new network
    follow. The first fits on one part of the inputs and chooses each node's ridge, and at the end the
    strength of the whole, on the part that *no* node was fitted on; what is locally best may not be so at the
    outputs, so common ridges are rivals, one walk each; the last walk fits on all inputs with what
    was chosen. (Held-out inputs that earlier nodes were fitted on make later ridges too small: measured on a
    digit ResNet, about 5 % of the KL.) Neither graph is edited.

    Source: least-squares reconstruction as in ThiNet (Luo 2017) and He et al. (2017), asymmetric.

    Raises:
        DataError: the data do not fit the model, or hold no complete batch.
    """
    options = options or LeastSquaresOptions()
    give_back()
    batches = split_batches(new, data, max(2, options.folds), limit=options.inputs, seed=options.seed)
    held_out = [batch.fold == 0 for batch in batches]
    if options.ridge is not None and options.strength is not None:
        return _as_told(new, original, [batch.inputs for batch in batches], options, scratch)
    if len(set(held_out)) < 2:
        text = "one batch of inputs cannot be split into a fitted and a held-out part; give more inputs"
        return Repair({}, (Remark("missed", SOURCE, new.name, text),))
    inputs = [batch.inputs for batch in batches]
    held = [index for index, out in enumerate(held_out) if out]
    extra = stood_for(new)
    hold = options.memory // 2  # of the original's values, or its unchanged part runs again for every walk
    teacher = Teacher(original, inputs, len(batches), options.sampling, hold, extra=extra, judged=held)
    judged_on = [inputs[i] for i in held]
    reference = [teacher.outputs[i] for i in held]
    before = output_divergence(reference, run_with(new, {}, judged_on), options.task)
    tried = [_judged(new, teacher, held_out, options, scratch, options.ridge)]
    if options.ridge is None:
        commons = options.common if tried[0].fitter.choices else ()
        tried += [_judged(new, teacher, held_out, options, scratch, common) for common in commons]
    best = min(tried, key=lambda each: each.damage)
    updates, ridges = best.fitter.pair.new.overrides, best.ridges()
    strength, damage = _strength(new, updates, judged_on, reference, before, best.outputs, options)
    figures = {_figure(each.fixed): each.damage for each in tried}
    remarks = list(next((each for each in tried if each.fixed is None), tried[0]).fitter.remarks)
    remarks.append(_verdict(new, strength, damage, figures))
    memory = Memory(options.memory, scratch)
    if strength > 0:
        second = walk(new, teacher, [False] * len(batches), options, memory, fixed=ridges, whole=False)
        updates = blend(new, second.pair.new.overrides, strength)
    if memory.spilled:
        remarks.append(
            Remark("analysis", SOURCE, new.name, f"{memory.spilled >> 20} MB of values went to files")
        )
    found = updates if strength > 0 else {}
    return Repair(found, tuple(remarks), strength, damage[0.0], damage[strength], memory.peak, memory.spilled)


def _as_told(
    new: Graph, original: Graph, inputs: Sequence[Feed], options: LeastSquaresOptions, scratch: Path | None
) -> Repair:
    """One walk, with the ridge and the strength of ``options``; nothing is judged."""
    assert options.ridge is not None
    assert options.strength is not None
    hold = options.memory // 2
    sampling, extra = options.sampling, stood_for(new)
    teacher = Teacher(original, inputs, len(inputs), sampling, hold, extra=extra, judged=())
    memory = Memory(options.memory, scratch)
    used = [False] * len(inputs)
    fitter = walk(new, teacher, used, options, memory, fixed=options.ridge, whole=False)
    updates = blend(new, fitter.pair.new.overrides, options.strength)
    text = (
        f"refitted at strength {options.strength:g} with a ridge of {options.ridge:g}, as was settled before"
    )
    done = Remark("applied" if updates else "missed", SOURCE, new.name, text, {"tensors": len(updates)})
    return Repair(
        updates, (*fitter.remarks, done), options.strength, peak=memory.peak, spilled=memory.spilled
    )


def _figure(ridge: float | None) -> str:
    return "damage_per_layer" if ridge is None else f"damage_common_{ridge:g}"


def blend(graph: Graph, updates: Mapping[str, torch.Tensor], strength: float) -> dict[str, torch.Tensor]:
    """``strength`` of the way from the stored tensors to ``updates``."""
    if strength == 1.0:
        return dict(updates)
    return {name: torch.lerp(graph.tensor(name).detach(), value, strength) for name, value in updates.items()}


def walk(
    new: Graph,
    teacher: Teacher,
    held_out: Sequence[bool],
    options: LeastSquaresOptions,
    memory: Memory,
    *,
    fixed: Ridges = None,
    whole: bool = True,
) -> Fitter:
    """Fit ``new`` node by node on the first batches of ``teacher``, those that are not ``held_out``.

    ``fixed``: the ridge of each node or of all; None to choose each on the held-out batches. With ``whole``
    the outputs are computed too, else the walk ends at the last layer.
    """
    execution = Execution(new, teacher.batches[: len(held_out)], memory)
    same = same_nodes(new, teacher.original)
    views = {view.node.name: view for view in affine_nodes(new)}
    memory.watch(teacher)
    memory.reserve(largest_system(new, views.values(), options.max_width))
    teacher.enter(execution, same)
    fitter = Fitter(
        pair=Taught(execution, teacher),
        settled=_settled(new, teacher.original, same),
        views=views,
        held_out=held_out,
        ridges=options.ridges,
        mode=options.target,
        max_width=options.max_width,
        fixed=dict.fromkeys(views, fixed) if isinstance(fixed, float | int) else fixed,
        precision=options.precision,
        depthwise=options.depthwise,
    )
    nodes = [n for n in new.module.graph.nodes if n.op != "get_attr" and n.name not in same]
    left = sum(node.name in views for node in nodes)
    with torch.no_grad():
        for node in nodes:
            if left == 0 and not whole:
                break
            fitter.before(node)
            left -= node.name in views
            if left or whole:
                execution.step(node)
    return fitter


@dataclass(frozen=True)
class _Judged:
    """A walk with the whole of its correction: ``outputs`` and ``damage`` on the held-out batches. ``fixed``:
    the ridge of all nodes, None where each chose its own."""

    fixed: float | None
    fitter: Fitter
    outputs: list[tuple[torch.Tensor, ...]]
    damage: float

    def ridges(self) -> Ridges:
        """That of each node, or of all."""
        if self.fixed is not None:
            return self.fixed
        return {name: choice.ridge for name, choice in self.fitter.choices.items()}


def _judged(
    new: Graph,
    teacher: Teacher,
    held_out: Sequence[bool],
    options: LeastSquaresOptions,
    scratch: Path | None,
    fixed: float | None = None,
) -> _Judged:
    fitter = walk(new, teacher, held_out, options, Memory(options.memory, scratch), fixed=fixed)
    held = [index for index, out in enumerate(held_out) if out]
    outputs = outputs_of(fitter.pair.new, held)
    found = output_divergence([teacher.outputs[i] for i in held], outputs, options.task)
    return _Judged(fixed, fitter, outputs, found.damage)


def _settled(new: Graph, original: Graph, same: Collection[str]) -> frozenset[str]:
    """The affine nodes that read the value that their weights were made for; being a value of the original is
    not enough: where a span was deleted its readers read what came before it."""
    return frozenset(
        view.node.name
        for view in affine_nodes(new)
        if view.data.name in same and view.data.name == fitted_input(original, view)
    )


def _strength(
    new: Graph,
    updates: Mapping[str, torch.Tensor],
    inputs: Sequence[Feed],
    reference: Sequence[Outputs],
    before: Divergence,
    full: Sequence[Outputs],
    options: LeastSquaresOptions,
) -> tuple[float, dict[float, Divergence]]:
    """The share of the correction with the smallest divergence of the outputs on the held-out inputs.

    ``before``: without any of it; ``full``: the outputs with all of it.
    """
    damage = {0.0: before}
    for strength in options.strengths:
        outputs = full if strength == 1.0 else run_with(new, blend(new, updates, strength), inputs)
        damage[strength] = output_divergence(reference, outputs, options.task)
    return min(damage, key=lambda s: (damage[s].damage, s)), damage


def _verdict(
    new: Graph, strength: float, damage: Mapping[float, Divergence], rivals: Mapping[str, float]
) -> Remark:
    figures: dict[str, float | int | str] = {name: round(value, 8) for name, value in rivals.items()}
    figures |= {f"damage_at_{s:g}": round(d.damage, 8) for s, d in damage.items()}
    if strength > 0:
        return Remark("applied", SOURCE, new.name, f"repair applied at strength {strength:g}", figures)
    if damage[0.0].damage == 0.0:
        return Remark(
            "missed", SOURCE, new.name, "nothing to repair: the outputs are the original's", figures
        )
    return Remark("missed", SOURCE, new.name, "no strength helps the outputs on held-out inputs", figures)
