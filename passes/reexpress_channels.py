"""``reexpress-channels``: readers take what goes from all that stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from otgraph.calibrate.collect import collect
from otgraph.calibrate.readers import find_readers, read_channels
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.planned import planned_couplings
from otgraph.rewrite.reexpress import able, reexpress
from otgraph.rewrite.rewriter import Rewriter


@final
@dataclass(frozen=True)
class ReexpressChannels(TransformPass):
    """Let every reader take a removed channel's part from all kept channels, as they predict it best.

    What it does
        For each dim that the plan cuts, the removed channels are predicted from the kept ones by least
        squares, ``x_removed ≈ A x_kept``, from moments over the calibration inputs; each reader's columns of
        the kept channels gain ``W_removed A``. What the removed ones give on average beyond that goes into
        the reader's bias, or into the running mean of the batch norm that follows. Nothing is removed yet.
        This is what prices by backward passes take for granted.

    When it applies
        Before ``prune-channels``, to dims of the plan that are read by stored weights, with calibration
        inputs. Weights that several nodes share are left alone.

    Exactness
        Approximate: exact where the removed channels are linear combinations of kept ones, up to the noise
        of a thousandth of the mean energy that is allowed for. A constant that went through zero padding is
        right in the interior only: at the border fewer taps had read it.

    Before and after
        >>> net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2))
        >>> net[0].weight.data[2] = net[0].weight.data[0] - net[0].weight.data[1]
        >>> graph = capture(net, example(3, 4))
        >>> two = Coupling(np.array([0, 1]), np.array([0, 1, -1]))
        >>> data = inputs(input_1=example(64, 4))
        >>> after = rewrite("reexpress-channels", graph, couplings={"0": two}, data=data)
        >>> old, new = graph.tensor("1.weight"), after.tensor("1.weight")
        >>> torch.allclose(new[:, 0], old[:, 0] + old[:, 2], atol=0.01)
        True

    Remarks
        *applied* per dim: how many channels were re-expressed, how many readers took part and how many of
        them took a constant. *missed* per reader that cannot take part, and once where there is no plan or
        are no inputs.

    Options
        ``inputs``: how many calibration inputs the moments are taken of at most.
    """

    name: ClassVar[str] = "reexpress-channels"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    inputs: int = 256

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Move the columns of what ``context.couplings`` remove, by the moments of ``context.data``."""
        graph = rewriter.graph
        cut = {dim: found for dim, found in context.couplings.items() if found.size > len(found.kept)}
        if not cut:
            rewriter.remark("missed", graph.name, "no plan that removes channels was given; see otgraph plan")
            return
        if context.data is None:
            text = "no calibration inputs: removed channels are dropped; give --calib"
            rewriter.remark("missed", graph.name, text)
            return
        axes = context.axes_of(graph)
        readers = find_readers(graph, axes)
        cut = {dim: found for dim, found in planned_couplings(rewriter, context, axes).items() if dim in cut}
        taking = {dim: able(rewriter, readers.get(dim, ())) for dim in cut}
        slots = [reader.slot for group in taking.values() for reader in group]
        if not slots:
            return
        found = collect(graph, context.data.take(self.inputs, seed=context.seed), slots)
        for remark in found.remarks:
            rewriter.remark(remark.kind, remark.where, remark.message, **remark.metrics)
        for dim, coupling in cut.items():
            seen = [reader for reader in taking[dim] if reader.slot in found]
            shifted = sum(
                reexpress(rewriter, reader, read_channels(graph, reader, found), coupling.kept)
                for reader in seen
            )
            figures = {"channels": coupling.size - len(coupling.kept), "readers": len(seen)}
            if seen:
                rewriter.remark("applied", dim, "re-expressed", **figures, constants=shifted)
