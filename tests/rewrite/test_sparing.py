"""A dim whose cut breaks the law is left whole, the rest is cut, and it is said."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import fx, nn

from otgraph.graph import literals
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.rewrite import cut as cut_module
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.rewrite.sparing import dims_to_spare


def test_every_broken_dim_is_found_and_no_other() -> None:
    chance = random.Random(0)
    for count in range(1, 24):
        dims = [f"d{k}" for k in range(count)]
        wrong = set(chance.sample(dims, chance.randint(1, count)))
        tried = list[frozenset[str]]()

        def holds(cut: frozenset[str], wrong: set[str] = wrong, tried: list = tried) -> bool:
            tried.append(cut)
            return not cut & wrong

        assert set(dims_to_spare(dims, holds)) == wrong
        assert len(tried) <= 2 * len(wrong) * (count.bit_length() + 1)


def test_dims_that_break_only_together() -> None:
    """Any two of a, b, c go together, all three do not: one is left whole."""
    pairs = [frozenset(pair) for pair in itertools.combinations("abc", 2)]
    spared = dims_to_spare(
        ["a", "x", "b", "c"],
        lambda cut: cut & frozenset("abc") in [*pairs, *map(frozenset, "abc"), frozenset()],
    )
    assert spared == ("c",)


class Three(nn.Module):
    """A group norm by groups between two linear layers, whose number of groups is a literal."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x)) * 0.5
        y = self.b(y).view(-1, 8)
        return self.d(torch.relu(self.c(torch.tanh(y))))


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(0)
    return capture(Three(), (torch.randn(2, 4),))


def _spoil(monkeypatch: pytest.MonkeyPatch, target: str, how) -> None:
    """A planted wrong literal rule: it fires wherever the tensor ``target`` is cut."""
    right = cut_module.ATEN_RULES

    def wrong(node: fx.Node, cutting: literals.Cutting) -> None:
        weight = node.args[1]
        if isinstance(weight, fx.Node) and weight.target == target:
            mask = cutting.mask(weight, 0)
            if not mask.all():
                how(node, cutting)

    monkeypatch.setattr(cut_module, "ATEN_RULES", {**right, "aten.linear": wrong})


def _crash(node: fx.Node, cutting: literals.Cutting) -> None:
    raise KeyError("planted")


def _scale(node: fx.Node, cutting: literals.Cutting) -> None:
    cutting.scale(node, torch.ops.aten.mul.Tensor, 1.01)


@pytest.mark.parametrize("how", [_crash, _scale])
def test_one_wrong_dim_is_rolled_back(graph: Graph, monkeypatch: pytest.MonkeyPatch, how) -> None:
    _spoil(monkeypatch, "b.weight", how)
    result = PassManager(parse_pipeline("prune-channels{keep=0.5}")).run(graph, Context(original=graph))
    shapes = {name: tuple(t.shape) for name, t in result.graph.tensors().items() if name.endswith("weight")}
    assert shapes == {"a.weight": (4, 4), "b.weight": (8, 4), "c.weight": (4, 8), "d.weight": (2, 4)}
    assert result.spared == ("b",) and result.undone == ()
    (said,) = [remark for remark in result.remarks if remark.kind == "failure"]
    assert said.where == "b" and said.message.startswith("left whole: the outputs are not those")
    (record,) = result.records
    assert record.check is not None and record.check.error is not None and record.check.error <= 1e-5


def test_where_every_dim_fails_nothing_is_cut(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def always(node: fx.Node, cutting: literals.Cutting) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(cut_module, "ATEN_RULES", {"aten.linear": always})
    result = PassManager(parse_pipeline("prune-channels{keep=0.5}")).run(graph)
    assert set(result.spared) == {"a", "b", "c"}  # nothing is cut, and each dim says so
