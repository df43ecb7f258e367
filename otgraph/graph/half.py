"""Weights in float16: a network to be run, not to be edited."""

from __future__ import annotations

import torch

from otgraph.graph.graph import Graph


def half_weight(graph: Graph) -> str | None:
    """The first weight of several entries in float16; None where there is none.

    Rounding to 11 bits is larger than what a check of an edit looks for, and than what a small cut does.
    """
    return next(
        (name for name, held in graph.tensors().items() if held.dtype == torch.float16 and held.numel() > 1),
        None,
    )
