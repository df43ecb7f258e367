"""The map that stands for a span, fitted in closed form: one streamed pass over the data for many spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from otgraph.data import Data
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse


@dataclass(frozen=True, eq=False)
class SpanFit:
    """A collapse with its numbers.

    ``weight``: None for the identity; (C, 1, *1s) with ``groups`` = C for an affine map over ``axis`` 1 and
    (C,) over ``axis`` -1; (out, in) for a linear map over ``axis`` -1; (out, in, *kernel) for a linear map
    or a convolution over ``axis`` 1. ``bias``: (out,), None for the identity. ``stride``: one number per
    spatial axis. ``padding``: one number per spatial axis, the same before and after; or two per axis, as
    ONNX orders them (all befores, then all afters), where they differ. Where the span has a ``branch`` the map stands
    for the branch, and the addition stays (the identity then means that nothing is added).
    ``error``: squared error over the energy of what is reproduced (the branch's update; else the exit less
    its mean per channel), on held-out inputs. ``fitted``: the same on the inputs fitted on. ``ridge``: the
    one chosen; None for the identity. ``seconds``: CPU time of this fit.
    """

    collapse: Collapse
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    axis: int
    error: float
    fitted: float
    ridge: float | None
    seconds: float
    note: str = ""


def fit_collapse(graph: Graph, data: Data, collapse: Collapse) -> SpanFit:
    """``fit_collapses`` of one."""
    return fit_collapses(graph, data, (collapse,))[collapse.name]


def fit_collapses(graph: Graph, data: Data, collapses: Sequence[Collapse]) -> dict[str, SpanFit]:
    """The fits of ``collapses`` by their names; ``graph`` is run once over ``data`` for all of them."""
    raise NotImplementedError
