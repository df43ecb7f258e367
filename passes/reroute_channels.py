"""``reroute-channels``: what the removed channels carried goes through the kept ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
import torch

from otgraph.calibrate.batches import split_batches
from otgraph.calibrate.means import collect_means
from otgraph.calibrate.readers import Reader, find_readers
from otgraph.graph.affine import read_weight
from otgraph.rewrite.affine_edit import write_weight
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.planned import planned_couplings
from otgraph.rewrite.reexpress import able, add_constant, constant
from otgraph.rewrite.rewriter import Rewriter
from otgraph.transport.coupling import Coupling

Floats = npt.NDArray[np.float64]


@final
@dataclass(frozen=True)
class RerouteChannels(TransformPass):
    """Let every reader take a removed channel's part from the kept channel that resembles it most.

    What it does
        Carries out the plan's transport: for each removed channel j that is re-routed through i, each
        reader's column of i gains the factor of j times its column of j (columns are summed, never averaged).
        What a removed channel gives on average beyond that, ``W_j (mean_j - factor mean_i)``, or all of
        ``W_j mean_j`` where it is dropped, goes into the reader's bias, or into the running mean of the batch
        norm that follows. Nothing is removed yet.

    When it applies
        Before ``prune-channels``, to dims of the plan that are read by stored weights. Weights that several
        nodes share are left alone. Means need calibration inputs; without them only factors move.

    Exactness
        Approximate: exact where the removed channel is a multiple of the kept one. A constant that went
        through zero padding is right in the interior only: at the border fewer taps had read it.

    Before and after
        >>> graph = capture(nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3)), example(3, 4))
        >>> twins = Coupling(np.array([0]), np.array([0, 0]), scales={"2.weight": np.array([1.0, 1.0])})
        >>> after = rewrite("reroute-channels", graph, couplings={"0": twins})
        >>> torch.equal(after.tensor("2.weight")[:, 0], graph.tensor("2.weight").sum(1))
        True

    Remarks
        *applied* per dim: how many channels were re-routed, how many dropped, how many readers took part and
        how many of them took a constant. *missed* per reader that cannot take part, per dim without any, and
        once where there is no plan or are no inputs.

    Options
        ``inputs``: how many calibration inputs the means are taken of at most.
    """

    name: ClassVar[str] = "reroute-channels"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    inputs: int = 64

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Move the columns that ``context.couplings`` route, and the means of ``context.data``."""
        graph = rewriter.graph
        if not context.couplings:
            rewriter.remark("missed", graph.name, "no plan that removes channels was given; see otgraph plan")
            return
        axes = context.axes_of(graph)
        found = find_readers(graph, axes)
        planned = planned_couplings(rewriter, context, axes)
        cut = {dim: coupling for dim, coupling in planned.items() if coupling.size > len(coupling.kept)}
        taking = {dim: able(rewriter, found.get(dim, ()), coupling.scales) for dim, coupling in cut.items()}
        means = self._means(rewriter, context, [reader for group in taking.values() for reader in group])
        for dim, coupling in cut.items():
            shifted = sum(_reroute(rewriter, reader, coupling, means) for reader in taking[dim])
            routed = int((coupling.target >= 0).sum() - len(coupling.kept))
            dropped = coupling.size - len(coupling.kept) - routed
            if taking[dim] and (routed or shifted):
                figures = {"readers": len(taking[dim]), "constants": shifted}
                rewriter.remark("applied", dim, "re-routed", channels=routed, dropped=dropped, **figures)
            else:
                why = "no reader can take part" if not taking[dim] else "the plan routes none of them"
                rewriter.remark(
                    "missed", dim, f"{why}: the removed channels are dropped", dropped=routed + dropped
                )

    def _means(
        self, rewriter: Rewriter, context: Context, readers: Sequence[Reader]
    ) -> Mapping[Reader, Floats]:
        """What each reader that can take a constant reads on average, (n,)."""
        graph = rewriter.graph
        taking = [reader for reader in readers if reader.absorbs]
        if not taking:
            return {}
        if context.data is None:
            rewriter.remark("missed", graph.name, "no calibration inputs: means are lost; give --calib")
            return {}
        batches = split_batches(graph, context.data, 1, limit=self.inputs, seed=context.seed)
        found = collect_means(graph, [batch.inputs for batch in batches], [reader.slot for reader in taking])
        return dict(zip(taking, found, strict=True))


def _reroute(rewriter: Rewriter, reader: Reader, coupling: Coupling, means: Mapping[Reader, Floats]) -> bool:
    """Add the routed columns to their targets; whether a constant was moved too."""
    affine = reader.affine
    assert affine is not None
    weight = read_weight(rewriter.graph, affine).double().clone()
    lost = _lost(weight, reader, coupling, means[reader]) if reader in means else None
    removed = np.flatnonzero((coupling.target >= 0) & (coupling.target != np.arange(coupling.size)))
    factor = torch.from_numpy(coupling.scales[reader.name][removed]).reshape(1, -1, *[1] * (weight.dim() - 2))
    for positions in reader.columns:
        into = torch.from_numpy(positions[coupling.target[removed]])
        weight.index_add_(1, into, weight[:, torch.from_numpy(positions[removed])] * factor)
    if len(removed):
        write_weight(rewriter, affine, weight)
    return lost is not None and add_constant(rewriter, affine, lost)


def _lost(weight: torch.Tensor, reader: Reader, coupling: Coupling, mean: Floats) -> torch.Tensor:
    """What the removed channels give on average beyond what goes through their targets, (out,)."""
    removed = np.setdiff1d(np.arange(coupling.size), coupling.kept)
    target = coupling.target[removed]
    through = np.where(target >= 0, coupling.scales[reader.name][removed] * mean[target], 0.0)
    return constant(weight, reader, removed, mean[removed] - through)
