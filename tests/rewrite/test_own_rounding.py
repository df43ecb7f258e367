"""Claims of exactness are held against what rounding does to the network itself, and against no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from otgraph.errors import PassError
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.rewrite import claims
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.manager import PassManager, Record
from otgraph.rewrite.rewriter import Rewriter
from passes.fuse_linear import FuseLinear


@dataclass(frozen=True)
class Scaled(TransformPass):
    """Multiplies the last weight, and claims that nothing happened."""

    name: ClassVar[str] = "scaled"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    by: float = 1.0

    def run(self, rewriter: Rewriter, context: Context) -> None:
        name = list(rewriter.graph.tensors())[-2]
        rewriter.set_tensor(name, rewriter.graph.tensor(name) * self.by)

    def __str__(self) -> str:
        return self.name


class Opposed(nn.Module):
    """Weights of ``size`` that cancel in the output: half a unit in one of them is ``size`` units there."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)
        with torch.no_grad():
            self.a.weight[4:] = self.a.weight[:4]
            self.b.weight[:, 4:] = -size + self.b.weight[:, :4]
            self.b.weight[:, :4] = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


Make = Callable[[float], Graph]


@pytest.fixture
def opposed() -> Make:
    def make(size: float) -> Graph:
        torch.manual_seed(0)
        return capture(Opposed(size), (torch.randn(2, 4),))

    return make


def _record(graph: Graph, step: TransformPass) -> Record:
    (record,) = PassManager([step]).run(graph).records
    return record


def test_the_rounding_of_stored_weights_is_not_held_against_a_pass(opposed: Make) -> None:
    graph = opposed(4e3)
    record = _record(graph, Scaled(by=1 + 1e-5))  # more than the limit, less than half a unit does here
    assert record.check is not None and record.check.error is not None and record.check.limit is not None
    assert claims.TOLERANCE < record.check.error <= record.check.limit <= claims.CHAOS
    assert _record(graph, FuseLinear()).edits


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_no_limit_is_loosened_where_rounding_does_little(opposed: Make, size: float) -> None:
    with pytest.raises(PassError, match="more than 1e-05"):
        _record(opposed(size), Scaled(by=1 + 2e-5))


def test_a_network_that_rounding_scatters_excuses_nothing_beyond_the_last_limit(opposed: Make) -> None:
    with pytest.raises(PassError, match=r"more than 0\.001"):
        _record(opposed(3e5), Scaled(by=1.01))
