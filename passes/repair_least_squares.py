"""``repair-least-squares``: what is left of each layer is refitted to the original's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from otgraph.calibrate.normal import SINGLE
from otgraph.repair.least_squares import REPAIR_RIDGES, LeastSquaresOptions, repair_least_squares
from otgraph.repair.target import TargetMode
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.rewriter import Rewriter
from otgraph.task import Task


@final
@dataclass(frozen=True)
class RepairLeastSquares(TransformPass):
    """Refit the weights of every layer whose input was cut, so that it gives what the original's gave.

    What it does
        In program order, each convolution and linear layer gets new weights by ridge regression: inputs from
        the network as repaired so far, targets from the original, the ridge pulling toward the old weights,
        in float64 (products in float32 where a given ``ridge`` is large enough). Where the layer's output is
        added to a residual stream the target is the original's sum minus the stream as it is now, so that the
        drift of the stream is mended too. The constant goes into the bias or into the running mean of the
        batch norm that follows. Each layer's ridge, and the strength of the whole judged at the outputs, are
        chosen on inputs that no layer was fitted on; nothing is one of the choices.

    When it applies
        After a cut, given calibration data and the original. Layers whose input is unchanged are left alone.
        Transposed convolutions, shared weights and systems wider than ``max-width`` are skipped.

    Exactness
        Approximate: another function, nearer to the original's than before on held-out inputs.

    Before and after
        >>> graph = capture(nn.Linear(4, 2), example(3, 4))
        >>> print(program_text(rewrite("repair-least-squares", graph)))
        input input_1
        linear = aten.linear(input_1, weight[2, 4], bias[2])
        return linear

    Remarks
        *applied* per layer with its ridge and its relative squared error on held-out inputs before and after,
        and once for the whole with the damage at each strength; with ``ridge`` and ``strength`` given nothing
        is held out, and only that is said. *missed* with the reason.

    Options
        ``inputs``: how many calibration inputs to use at most. ``folds``: one part in so many of them is held
        out. ``target``: ``stream``, or ``output`` to aim at each layer's own output everywhere. ``ridges``:
        the candidates, relative to the inputs' second moments. ``ridge``: the one of all layers, where it
        is known already (0: choose it); ``strength``: how much of the correction to take, where that is known
        too (0: judge it; it needs ``ridge``).
        ``depthwise``: refit depthwise convolutions too. ``max-width``: the
        most im2col columns to solve for. ``task``: how the outputs are read when the strength is judged: as
        class scores, as values, or by their look.
    """

    name: ClassVar[str] = "repair-least-squares"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    inputs: int = 512
    folds: int = 4
    target: Literal["stream", "output"] = "stream"
    ridges: tuple[float, ...] = REPAIR_RIDGES
    ridge: float = 0.0
    strength: float = 0.0
    depthwise: bool = False
    max_width: int = 6000
    task: Task = "auto"

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Fit against ``context.original`` on ``context.data`` and store the new tensors."""
        graph = rewriter.graph
        if context.data is None or context.original is None:
            lacking = "calibration data" if context.data is None else "the original network"
            rewriter.remark("missed", graph.name, f"nothing to fit to: {lacking} was not given")
            return
        options = LeastSquaresOptions(
            ridges=self.ridges,
            ridge=self.ridge or None,
            strength=self.strength or None,
            folds=self.folds,
            inputs=self.inputs,
            target=TargetMode(self.target),
            depthwise=self.depthwise,
            max_width=self.max_width,
            precision=torch.float32 if self.ridge >= SINGLE else torch.float64,
            seed=context.seed,
            task=self.task,
        )
        repair = repair_least_squares(graph, context.original, context.data, options, context.scratch)
        for name, value in repair.updates.items():
            rewriter.set_tensor(name, value)
        for remark in repair.remarks:
            rewriter.remark(remark.kind, remark.where, remark.message, **remark.metrics)
