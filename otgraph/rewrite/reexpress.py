"""What a reader lost of the channels that it reads no longer, it takes from those that stay: the edit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from otgraph.calibrate.readers import Reader, find_readers
from otgraph.graph.affine import Affine, is_shared, norm_of, read_affine, read_weight
from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.graph import Graph
from otgraph.rewrite.affine_edit import write_bias, write_weight
from otgraph.rewrite.rewriter import Rewriter
from otgraph.rewrite.shapes import value_infos
from otgraph.transport.cost import Reading, reexpression

Floats = npt.NDArray[np.float64]


def reexpress_dims(
    rewriter: Rewriter, axes: AxisMap, keep: Keep, readings: Mapping[str, Sequence[Reading]]
) -> None:
    """Every reader of the dims in ``keep`` that can takes what goes from what stays; nothing is removed yet.

    ``readings``: what the readers of each dim read, by dim and in any order.
    """
    readers = find_readers(rewriter.graph, axes)
    for name, mask in keep.items():
        known = {reading.name: reading for reading in readings.get(name, ())}
        for reader in readers.get(name, ()):
            if reader.name in known and refusal(rewriter.graph, reader) is None:
                reexpress(rewriter, reader, known[reader.name], np.flatnonzero(mask))


def able(rewriter: Rewriter, readers: Sequence[Reader], known: Collection[str] | None = None) -> list[Reader]:
    """The readers whose weights can be edited; of the others it is said why not. ``known``: those that the
    plan has factors for, where it needs any."""
    found: list[Reader] = []
    for reader in readers:
        why = refusal(rewriter.graph, reader)
        if reader.affine is not None and known is not None and reader.name not in known:
            why = "the plan has no factors for it"
        if why is None:
            found.append(reader)
        else:
            rewriter.remark("missed", reader.name, f"{why}: what it loses is dropped")
    return found


def refusal(graph: Graph, reader: Reader) -> str | None:
    """Why the weight of ``reader`` cannot be edited, or None."""
    if reader.affine is None:
        return "reads without a weight of its own"
    if is_shared(graph, reader.affine.weight):
        return "shared with another node"
    return None


def reexpress(rewriter: Rewriter, reader: Reader, reading: Reading, kept: npt.NDArray[np.int64]) -> bool:
    """Let ``reader`` take the removed channels from all of ``kept``, by the best linear prediction.

    Returns:
        Whether what they give on average beyond that went into a constant.
    """
    assert reader.affine is not None
    # read again, since an edit may have given it a bias of its own
    affine = read_affine(rewriter.graph, reader.affine.node) or reader.affine
    if not _takes_constant(rewriter.graph, affine):
        reading = replace(reading, centered=False)
    removed = np.setdiff1d(np.arange(reading.size), kept)
    known = reexpression(reading, kept)[removed]
    weight = read_weight(rewriter.graph, affine).double().clone()
    lost = None
    if reading.centered and reading.mean is not None:
        lost = constant(weight, reader, removed, reading.mean[removed] - known @ reading.mean[kept])
    for positions in reader.columns:
        columns = weight[:, torch.as_tensor(positions[removed])]
        gained = torch.einsum("or...,rk->ok...", columns, torch.as_tensor(known))
        weight.index_add_(1, torch.as_tensor(positions[kept]), gained)
        weight[:, torch.as_tensor(positions[removed])] = 0  # or it would count twice where the cut is undone
    write_weight(rewriter, affine, weight)
    return lost is not None and add_constant(rewriter, affine, lost)


def constant(
    weight: torch.Tensor, reader: Reader, removed: npt.NDArray[np.int64], means: Floats
) -> torch.Tensor:
    """What ``reader`` makes of the ``removed`` channels at a value of ``means`` (removed,), shape (out,)."""
    taps = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    total = torch.zeros(len(weight), dtype=torch.float64)
    for positions in reader.columns:
        total += taps[:, torch.as_tensor(positions[removed])] @ torch.as_tensor(means)
    return total


def add_constant(rewriter: Rewriter, affine: Affine, added: torch.Tensor) -> bool:
    """Add ``added`` (out,) to the bias, or take it from the mean of the batch norm that follows; whether that
    was possible."""
    graph = rewriter.graph
    if not _takes_constant(graph, affine):
        return False
    if affine.bias is not None:
        write_bias(rewriter, affine, graph.tensor(affine.bias).double() + added)
        return True
    norm = norm_of(graph, affine.output)
    assert norm is not None
    rewriter.set_tensor(norm.mean, graph.tensor(norm.mean).double() - added)
    return True


def _takes_constant(graph: Graph, affine: Affine) -> bool:
    """Whether a bias, or the batch norm that follows, can take up a constant per output."""
    if affine.bias is not None:
        return True
    norm = norm_of(graph, affine.output)
    return norm is not None and not is_shared(graph, norm.mean) and _same_axis(graph, affine)


def _same_axis(graph: Graph, affine: Affine) -> bool:
    """Whether axis 1, which batch norms are over, is the channel axis of the layer."""
    return affine.kind == "conv" or value_infos(graph)[affine.output].shape[2:] == ()
