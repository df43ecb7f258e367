"""Sequential, asymmetric least squares: what a linear layer can undo of a cut, without labels or gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import fx

from otgraph.calibrate.divergence import Divergence, output_divergence
from otgraph.data import Data
from otgraph.graph.affine import Affine, affine_nodes, is_shared, lay_weight, read_weight
from otgraph.graph.graph import Graph, label
from otgraph.remark import Remark
from otgraph.repair.batches import Batch, split_batches
from otgraph.repair.frontier import Memory
from otgraph.repair.lockstep import Lockstep
from otgraph.repair.normal import Choice, Normal, choose
from otgraph.repair.rows import Geometry
from otgraph.repair.target import Target, TargetMode, find_target, following_addition, following_norm

SOURCE = "repair-least-squares"


@dataclass(frozen=True)
class LeastSquaresOptions:
    """``ridges``: candidates for λ (the old weights are always one more). ``folds``: the inputs are dealt into so
    many parts, and each is held out in turn. ``inputs``: at most so many are used. ``max_width``: im2col widths
    above it are not fitted. ``memory``: bytes of intermediate values before they go to files."""

    ridges: tuple[float, ...] = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, float("inf"))
    folds: int = 4
    inputs: int = 512
    target: TargetMode = TargetMode.STREAM
    max_width: int = 6000
    memory: int = 1536 << 20
    seed: int = 0


@dataclass(frozen=True)
class Repair:
    """``updates``: tensor name → new value. ``divergence``: of the repaired network's outputs from the original's
    on the repair inputs. ``peak`` and ``spilled``: bytes of intermediate values in memory and in files."""

    updates: Mapping[str, torch.Tensor]
    remarks: tuple[Remark, ...]
    divergence: Divergence
    peak: int = 0
    spilled: int = 0


@dataclass
class _Fitter:
    """The state of one walk through both networks."""

    pair: Lockstep
    options: LeastSquaresOptions
    batches: list[Batch]
    views: dict[str, Affine]
    remarks: list[Remark] = field(default_factory=list)

    def before(self, node: fx.Node) -> None:
        affine = self.views.get(node.name)
        if affine is None or affine.data.name in self.pair.same:
            return
        refusal = self._refusal(affine)
        if refusal is None:
            refusal = self._repair(affine)
        if refusal is not None:
            self.remarks.append(Remark("missed", SOURCE, label(node), refusal))

    def needs(self) -> dict[str, list[str]]:
        """For each node that is refitted, the original's values its target may be made of."""
        found: dict[str, list[str]] = {}
        for name, affine in self.views.items():
            added = following_addition(self.pair.new, affine.output)
            found[name] = [affine.output.name, *([] if added is None else [added.node.name])]
        return found

    def _refusal(self, affine: Affine) -> str | None:
        graph = self.pair.new.graph
        if affine.transposed:
            return "transposed convolutions are not refitted"
        if is_shared(graph, affine.weight):
            return f"the weight {affine.weight} is shared with another node; refitting one reader would break the other"
        weight = read_weight(graph, affine)
        if not weight.is_floating_point():
            return f"the weight is {weight.dtype}; only floating point is refitted"
        width = Geometry.of(affine, weight).width
        if width > self.options.max_width:
            return f"{width} columns would need too large a system (limit {self.options.max_width})"
        return None

    def _repair(self, affine: Affine) -> str | None:
        target = find_target(self.pair, affine, self.options.target)
        if target is None:
            return "the original has no node of this name, so there is no target"
        intercept = self._intercept(affine)
        choice = self._fit(affine, target, intercept is not None)
        if isinstance(choice, str):
            return choice
        self._report(affine, target, choice)
        if choice.correction is not None:
            self._write(affine, choice, intercept)
        return None

    def _intercept(self, affine: Affine) -> str | None:
        """The tensor that can take a constant per output: the bias, or the running mean of the norm that follows."""
        graph = self.pair.new.graph
        if affine.bias is not None:
            return None if is_shared(graph, affine.bias) else affine.bias
        norm = following_norm(self.pair.new, affine.output)
        return None if norm is None or is_shared(graph, norm.mean) else norm.mean

    def _fit(self, affine: Affine, target: Target, intercept: bool) -> Choice | str:  # noqa: FBT001
        program = self.pair.new
        weight = read_weight(program.graph, affine)
        geometry = Geometry.of(affine, weight)
        old = geometry.columns(weight)
        constant = torch.zeros(geometry.groups, 1, geometry.out, dtype=torch.float64)
        if affine.bias is not None:
            constant = program.tensor(affine.bias).double().reshape(geometry.groups, 1, geometry.out)
        parts = max(2, self.options.folds) if geometry.width <= _SINGLE_SPLIT_ABOVE else 2
        folds = [Normal.zero(geometry.groups, geometry.width, geometry.out) for _ in range(parts)]
        importance = target.importance.reshape(geometry.groups, geometry.out)
        power = 0.0
        values = program.values[affine.data.name]
        for index, (batch, data) in enumerate(zip(self.batches, values, strict=True)):
            fold, wanted = min(batch.fold, parts - 1), target.at(index)
            for rows, aim in geometry.blocks(data, wanted):
                if rows.shape[:2] != aim.shape[:2]:
                    return (
                        f"the original's output has shape {tuple(wanted.shape)}, which does not fit this node"
                    )
                power += float((aim.square().sum(1) * importance).sum())
                folds[fold] = folds[fold].add(rows, aim - rows @ old - constant)
        held_out = parts if geometry.width <= _SINGLE_SPLIT_ABOVE else 1
        return choose(
            folds,
            self.options.ridges,
            intercept=intercept,
            importance=importance,
            power=power,
            held_out=held_out,
        )

    def _write(self, affine: Affine, choice: Choice, intercept: str | None) -> None:
        program, correction = self.pair.new, choice.correction
        assert correction is not None
        weight = read_weight(program.graph, affine)
        geometry = Geometry.of(affine, weight)
        new = geometry.weight(geometry.columns(weight) + correction.weight, weight)
        program.overrides[affine.weight] = lay_weight(affine, new).contiguous()
        if intercept is None:
            return
        stored = program.tensor(intercept)
        sign = 1 if intercept == affine.bias else -1  # BN(y + δ) is BN with mean − δ
        program.overrides[intercept] = (stored.double() + sign * correction.bias.reshape(-1)).to(stored.dtype)

    def _report(self, affine: Affine, target: Target, choice: Choice) -> None:
        metrics: dict[str, float | int | str] = {
            "ridge": "kept" if choice.ridge is None else choice.ridge,
            "target": target.mode.value,
            "held_out_error_before": round(choice.before, 8),
            "held_out_error_after": round(choice.after, 8),
        }
        text = (
            "old weights kept: no ridge does better on held-out inputs"
            if choice.ridge is None
            else "refitted"
        )
        kind = "missed" if choice.ridge is None else "applied"
        self.remarks.append(Remark(kind, SOURCE, label(affine.node), text, metrics))


def repair_least_squares(
    new: Graph,
    original: Graph,
    data: Data,
    options: LeastSquaresOptions | None = None,
    scratch: Path | None = None,
) -> Repair:
    """Refit every affine node of ``new`` whose input changed, in program order.

    Each node's inputs come from the new network *as repaired so far*, its target from the original (which
    positions are left is read from ``node.meta["otgraph"]["kept"]``). The normal equations are streamed over
    batches, the ridge pulls toward the old weights and is chosen on held-out inputs, the old weights included.
    Both networks are walked once, in lock-step. Neither graph is edited.

    Source: ThiNet and He et al.'s channel pruning (least-squares reconstruction, asymmetric), with the ridge of
    OBC-style methods moved to the old weights.

    Raises:
        DataError: the data do not fit the model, or hold no complete batch.
    """
    options = options or LeastSquaresOptions()
    batches = split_batches(new, data, max(2, options.folds), limit=options.inputs, seed=options.seed)
    memory = Memory(options.memory, scratch)
    pair = Lockstep(new, original, [batch.inputs for batch in batches], memory)
    fitter = _Fitter(pair, options, batches, {view.node.name: view for view in affine_nodes(new)})
    walked = pair.walk(fitter.before, lambda _: None, fitter.needs())
    divergence = output_divergence(walked.reference, walked.outputs)
    if memory.spilled:
        text = f"{memory.spilled >> 20} MB of intermediate values went to files"
        fitter.remarks.append(Remark("analysis", SOURCE, new.name, text))
    return Repair(dict(pair.new.overrides), tuple(fitter.remarks), divergence, memory.peak, memory.spilled)


_SINGLE_SPLIT_ABOVE = 2048
"""Widths above this are tested on one held-out fold only: each further fold costs a factorisation per ridge."""
