"""DATA → what a graph is called with: tuples of tensors in the order of its signature."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from otgraph.data import Array, Chunk, Data
from otgraph.errors import DataError
from otgraph.graph.graph import Graph, Port

Feed = tuple[torch.Tensor, ...]


def feeds(graph: Graph, data: Data, batch_size: int = 32) -> Iterator[Feed]:
    """Yield the inputs of successive calls, each of at most ``batch_size`` samples.

    A model whose batch axis is fixed is called with exactly that many; samples left over are not used.

    Raises:
        DataError: an input of the model has no array in ``data``, or one of another type.
    """
    fixed = fixed_batch(graph)
    for chunk in data.batches(fixed or batch_size):
        if fixed is None or len(chunk) == fixed:
            yield feed(graph, chunk)


def feed(graph: Graph, chunk: Chunk) -> Feed:
    """One chunk as the inputs of one call: matched by name, or by position where there is one of each."""
    ports = graph.signature.inputs
    arrays = dict(chunk.arrays)
    if len(ports) == 1 and len(arrays) == 1:
        arrays = {ports[0].name: next(iter(arrays.values()))}
    missing = [port.name for port in ports if port.name not in arrays]
    if missing:
        has = ", ".join(arrays) or "none"
        raise DataError(
            f"data: input {missing[0]!r} of the model has no array (there are: {has}); rename one"
        )
    return tuple(_tensor(arrays[port.name], port) for port in ports)


def _tensor(array: Array, port: Port) -> torch.Tensor:
    """The array in the model's type; another type is never cast, since that could change what it means."""
    found = torch.from_numpy(array.copy())
    if found.dtype != port.dtype:
        wanted = str(port.dtype).removeprefix("torch.")
        raise DataError(f"data: {port.name}: {array.dtype}, the model wants {wanted}; convert it first")
    return found


def fixed_batch(graph: Graph) -> int | None:
    """The number of samples every call must have, or None where it is free."""
    sizes = [port.shape[0] for port in graph.signature.inputs if port.shape]
    fixed = [size for size in sizes if isinstance(size, int)]
    return fixed[0] if fixed else None
