"""One walk of the least-squares repair through both networks: fit each affine node before it is executed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx

from otgraph.calibrate.normal import SINGLE, Correction, Normal, RidgeChoice, choose, solve, solve_rows
from otgraph.calibrate.rows import Geometry
from otgraph.graph.affine import Affine, is_shared, lay_weight, norm_of, read_weight
from otgraph.graph.graph import label
from otgraph.graph.notes import is_stand_in, original_name
from otgraph.remark import Remark
from otgraph.repair.target import (
    Pair,
    Target,
    TargetMode,
    find_target,
)

SOURCE = "repair-least-squares"


@dataclass
class Fitter:
    """The state of one walk.

    ``settled``: nodes that read what their weights were made for, and are left alone. ``held_out`` says which
    batches are kept from the fit. With ``fixed`` None, the ridge of each node is chosen on them; otherwise
    ``fixed`` gives it (None: keep the old weights). ``choices`` and ``remarks`` are what was found, by node
    name.
    """

    pair: Pair
    settled: Collection[str]
    views: Mapping[str, Affine]
    held_out: Sequence[bool]
    ridges: tuple[float, ...]
    mode: TargetMode
    max_width: int
    fixed: Mapping[str, float | None] | None = None
    precision: torch.dtype = torch.float64
    depthwise: bool = True
    choices: dict[str, RidgeChoice] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def before(self, node: fx.Node) -> None:
        """Repair ``node`` if it is an affine node whose input differs from the original's."""
        affine = self.views.get(node.name)
        if affine is None or node.name in self.settled:
            return
        if self._skips(affine):
            return
        refusal = self._refusal(affine)
        if refusal is None and (self.fixed is None or self.fixed.get(node.name) is not None):
            refusal = self._repair(affine)
        if refusal is not None:
            self.remarks.append(Remark("missed", SOURCE, label(node), refusal))

    def _skips(self, affine: Affine) -> bool:
        """A depthwise layer has a handful of weights per channel, of which a refit makes little; one that
        stands for an activation or a span has nothing else to it."""
        if self.depthwise or affine.window.groups == 1 or is_stand_in(affine.output):
            return False
        return read_weight(self.pair.new.graph, affine).shape[1] == 1

    def _refusal(self, affine: Affine) -> str | None:
        graph = self.pair.new.graph
        if is_shared(graph, affine.weight):
            return f"the weight {affine.weight} has another user; refitting for one would break the other"
        weight = read_weight(graph, affine)
        if not weight.is_floating_point():
            return f"the weight is {weight.dtype}; only floating point is refitted"
        width = Geometry(affine.window).width
        if width > self.max_width:
            return f"{width} columns would need too large a system (limit {self.max_width})"
        return None

    def _repair(self, affine: Affine) -> str | None:
        target = find_target(self.pair, affine, self.mode)
        if target is None:
            return "the original has no node of this name, so there is no target"
        geometry = Geometry(affine.window, self.precision)
        if geometry.shape(self.pair.new.values[affine.data.name][0]) != target.shape:
            return f"the original's output has shape {target.shape}, which does not fit this node"
        intercept = self._intercept(affine)
        choice = self._choose(affine, geometry, target, constant="fitted" if intercept else "old")
        if self.fixed is None:
            self.choices[affine.node.name] = choice
            self._report(affine, target, choice)
        if choice.correction is not None:
            self._write(affine, choice.correction, intercept)
        return None

    def _intercept(self, affine: Affine) -> str | None:
        """The tensor that takes a constant per output: the bias, or the running mean of the norm that
        follows."""
        graph = self.pair.new.graph
        if affine.bias is not None:
            return None if is_shared(graph, affine.bias) else affine.bias
        norm = norm_of(graph, affine.output)
        return None if norm is None or is_shared(graph, norm.mean) else norm.mean

    def _choose(
        self, affine: Affine, geometry: Geometry, target: Target, constant: Literal["fitted", "old"]
    ) -> RidgeChoice:
        importance = target.importance.reshape(geometry.groups, geometry.out)
        intercept = constant == "fitted"
        if self.fixed is None:
            fit, held, power = self._equations(affine, geometry, target, importance)
            return choose(fit, held, self.ridges, importance, power, intercept=intercept, shrunk=True)
        ridge = self.fixed[affine.node.name]
        assert ridge is not None
        if self.precision == torch.float32 and ridge >= SINGLE and self._rows(affine) < geometry.width:
            rows, residuals = self._side_by_side(affine, geometry, target)
            return RidgeChoice(
                solve_rows(rows, residuals, ridge, intercept=intercept, shrunk=True), ridge, 0.0, 0.0
            )
        fit, _, _ = self._equations(affine, geometry, target, importance)
        precision = self.precision if ridge >= SINGLE else torch.float64
        found = solve(fit, (ridge,), intercept=intercept, shrunk=True, precision=precision)
        return RidgeChoice(found[0], ridge, 0.0, 0.0)

    def _equations(
        self, affine: Affine, geometry: Geometry, target: Target, importance: torch.Tensor
    ) -> tuple[Normal, Normal, float]:
        """The normal equations of the fitted and of the held-out batches, and the power of the latter's
        target."""
        sizes = (geometry.groups, geometry.width, geometry.out)
        parts = {False: Normal.zero(*sizes), True: Normal.zero(*sizes if self.fixed is None else (0, 0, 0))}
        power = 0.0
        for held, rows, wanted, residuals in self._blocks(affine, geometry, target):
            parts[held] = parts[held].add(rows, residuals)
            power += float((wanted.square().sum(1) * importance).sum()) if held else 0.0
        return parts[False], parts[True], power

    def _side_by_side(
        self, affine: Affine, geometry: Geometry, target: Target
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows and residuals of the fitted batches at once."""
        found = [(rows, residuals) for _, rows, _, residuals in self._blocks(affine, geometry, target)]
        return torch.cat([rows for rows, _ in found], 1), torch.cat([left for _, left in found], 1)

    def _rows(self, affine: Affine) -> int:
        """How many rows the fitted batches have."""
        values = self.pair.new.values[affine.data.name]
        fitted = [index for index in range(len(values)) if not self.held_out[index]]
        if not fitted:
            return 0
        geometry = Geometry(affine.window)
        space = math.prod(geometry.space(values[fitted[0]]))
        name = original_name(affine.output)
        at = self.pair.pick(name, space, geometry.width, fitted[0])
        return len(at) * sum(len(self.pair.new.batches[index][0]) for index in fitted)

    def _blocks(
        self, affine: Affine, geometry: Geometry, target: Target
    ) -> Iterator[tuple[bool, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Whether they are held out, rows, targets and what the old weights leave of these, block by block;
        of the held-out batches only where a ridge is chosen on them."""
        execution = self.pair.new
        old = geometry.columns(read_weight(execution.graph, affine)).to(self.precision)
        bias = torch.zeros(geometry.groups, 1, geometry.out, dtype=torch.float64)
        if affine.bias is not None:
            bias = execution.tensor(affine.bias).double().reshape(bias.shape)
        bias = bias.to(self.precision)
        values = execution.values[affine.data.name]
        space = math.prod(geometry.space(values[0]))
        for index, data in enumerate(values):
            held = self.held_out[index]
            if held and self.fixed is not None:
                continue
            at = self.pair.pick(original_name(affine.output), space, geometry.width, index)
            for rows, wanted in geometry.blocks(data, target.at(index, at), at):
                yield held, rows, wanted, wanted - rows @ old - bias

    def _write(self, affine: Affine, correction: Correction, intercept: str | None) -> None:
        execution = self.pair.new
        weight = read_weight(execution.graph, affine)
        geometry = Geometry(affine.window)
        new = geometry.weight(geometry.columns(weight) + correction.weight, weight)
        execution.overrides[affine.weight] = lay_weight(affine, new).contiguous()
        if intercept is None:
            return
        stored = execution.tensor(intercept)
        sign = 1 if intercept == affine.bias else -1  # BN(y + δ) is BN with mean − δ
        execution.overrides[intercept] = (stored.double() + sign * correction.bias.reshape(-1)).to(
            stored.dtype
        )

    def _report(self, affine: Affine, target: Target, choice: RidgeChoice) -> None:
        metrics: dict[str, float | int | str] = {
            "ridge": "kept" if choice.ridge is None else choice.ridge,
            "target": target.mode.value,
            "held_out_error_before": round(choice.before, 8),
            "held_out_error_after": round(choice.after, 8),
        }
        text = (
            "refitted"
            if choice.ridge is not None
            else "old weights kept: no ridge beats them on held-out inputs"
        )
        kind = "missed" if choice.ridge is None else "applied"
        self.remarks.append(Remark(kind, SOURCE, label(affine.node), text, metrics))
