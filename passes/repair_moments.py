"""``repair-moments``: each channel gets back the mean and variance it had in the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from otgraph.repair.moments import MomentOptions, repair_moments
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.rewriter import Rewriter
from otgraph.task import Task


@final
@dataclass(frozen=True)
class RepairMoments(TransformPass):
    """Match each channel's mean and variance to the original's, as batch-norm re-estimation does.

    What it does
        In program order, each batch norm's running statistics are set so that its output has the mean and the
        variance that the original's has on the same inputs; the layers that no batch norm follows take the
        same affine map per channel (the optimal-transport map between Gaussians) in their rows and bias.
        Several strengths along the way there are tried, and the one with the least divergence of the outputs
        on held-out inputs is taken; none at all is one of them.

    When it applies
        After a cut, given calibration data and the original. After least squares it seldom helps, and is then
        not applied; it helps where least squares could not be used.

    Exactness
        Approximate: another function, nearer to the original's than before on held-out inputs.

    Before and after
        >>> graph = capture(nn.Linear(4, 2), example(3, 4))
        >>> print(program_text(rewrite("repair-moments", graph)))
        input input_1
        linear = aten.linear(input_1, weight[2, 4], bias[2])
        return linear

    Remarks
        *applied* or *missed* once, with the damage at each strength; *missed* per layer that has no bias of
        its own.

    Options
        ``inputs``: how many calibration inputs to use at most. ``folds``: one part in so many of them is held
        out. ``strengths``: what to try; 1 matches the moments, 0 (always tried) changes nothing. ``task``:
        how the outputs are read when the strength is judged: as class scores, as values, or by their look.
    """

    name: ClassVar[str] = "repair-moments"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    inputs: int = 512
    folds: int = 4
    strengths: tuple[float, ...] = (0.5, 1.0)
    task: Task = "auto"

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Match moments to ``context.original`` on ``context.data`` and store the new tensors."""
        graph = rewriter.graph
        if context.data is None or context.original is None:
            lacking = "calibration data" if context.data is None else "the original network"
            rewriter.remark("missed", graph.name, f"nothing to match: {lacking} was not given")
            return
        options = MomentOptions(self.strengths, self.folds, self.inputs, seed=context.seed, task=self.task)
        repair = repair_moments(graph, context.original, context.data, options, context.scratch)
        for name, value in repair.updates.items():
            rewriter.set_tensor(name, value)
        for remark in repair.remarks:
            rewriter.remark(remark.kind, remark.where, remark.message, **remark.metrics)
