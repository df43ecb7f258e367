"""Probe inputs: the example of a graph and random ones like it, on which the claims of passes are checked."""

from __future__ import annotations

import torch

from otgraph.graph.graph import Graph

Inputs = tuple[torch.Tensor, ...]


def probe_inputs(graph: Graph, count: int = 2, seed: int = 0) -> tuple[Inputs, ...]:
    """The example inputs, then ``count`` random sets of the same shapes and dtypes.

    Floats are normal with the mean and spread of the example (spread one where it is constant, so that an
    example of zeros still probes); other types are drawn from the values of the example, which are valid.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [tuple(_like(tensor, generator) for tensor in graph.example) for _ in range(count)]
    return (tuple(graph.example), *drawn)


def _like(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if tensor.numel() == 0:
        return tensor.clone()
    if not tensor.is_floating_point():
        chosen = torch.randint(tensor.numel(), tuple(tensor.shape), generator=generator)
        return tensor.flatten()[chosen.to(tensor.device)]
    values = tensor.double()
    spread = float(values.std(correction=0)) or 1.0
    noise = torch.randn(tuple(tensor.shape), generator=generator, dtype=torch.float64)
    return (float(values.mean()) + spread * noise).to(tensor)
