"""``reroute-channels``: what the removed channels carried goes through the kept ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
import torch

from otgraph.calibrate.readers import Reader, find_readers
from otgraph.graph.affine import is_shared, read_weight
from otgraph.graph.axes.analysis import analyse
from otgraph.rewrite.contract import Context, Exactness, Pass
from otgraph.rewrite.rewriter import Rewriter
from otgraph.transport.coupling import Coupling


@final
@dataclass(frozen=True)
class RerouteChannels(Pass):
    """Let every reader take a removed channel's part from the kept channel that resembles it most.

    What it does
        Carries out the plan's transport: for each removed channel j that is re-routed through i, each
        reader's column of i gains the factor of j times its column of j (columns are summed, never averaged).
        Nothing is removed yet.

    When it applies
        Before ``prune-channels``, to dims of the plan that are read by stored weights. Weights that several
        nodes share are left alone.

    Exactness
        Approximate: exact where the removed channel is a multiple of the kept one.

    Before and after
        >>> graph = capture(nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3)), example(3, 4))
        >>> twins = Coupling(np.array([0]), np.array([0, 0]), scales={"2.weight": np.array([1.0, 1.0])})
        >>> after = rewrite("reroute-channels", graph, couplings={"0": twins})
        >>> torch.equal(after.tensor("2.weight")[:, 0], graph.tensor("2.weight").sum(1))
        True

    Remarks
        *applied* per dim: how many channels were re-routed, how many dropped. *missed* per reader that cannot
        take part.

    Options
        none
    """

    name: ClassVar[str] = "reroute-channels"
    kind: ClassVar[Literal["analysis", "transform"]] = "transform"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    def run(self, rewriter: Rewriter, context: Context) -> None:
        readers = find_readers(rewriter.graph, analyse(rewriter.graph))
        for dim, coupling in context.couplings.items():
            routed = int((coupling.target >= 0).sum() - len(coupling.kept))
            if not routed or not coupling.scales:
                continue
            for reader in readers.get(dim, ()):
                _reroute(rewriter, reader, coupling)
            dropped = coupling.size - len(coupling.kept) - routed
            rewriter.remark("applied", dim, "re-routed", channels=routed, dropped=dropped)


def _reroute(rewriter: Rewriter, reader: Reader, coupling: Coupling) -> None:
    scales = coupling.scales.get(reader.name)
    if reader.affine is None or scales is None:
        rewriter.remark("missed", reader.name, "reads without a weight of its own: what it loses is dropped")
        return
    graph, affine = rewriter.graph, reader.affine
    if is_shared(graph, affine.weight):
        rewriter.remark("missed", affine.weight, "shared with another node: what it loses is dropped")
        return
    weight = read_weight(graph, affine).double()
    removed = np.flatnonzero((coupling.target >= 0) & (coupling.target != np.arange(coupling.size)))
    factor = torch.from_numpy(scales[removed]).reshape(1, -1, *[1] * (weight.dim() - 2))
    for positions in reader.columns:
        into = torch.from_numpy(positions[coupling.target[removed]])
        weight.index_add_(1, into, weight[:, torch.from_numpy(positions[removed])] * factor)
    stored = weight if affine.layout == "oi" else weight.transpose(0, 1)
    rewriter.set_tensor(affine.weight, stored)
