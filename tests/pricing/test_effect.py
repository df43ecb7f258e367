"""What a collapse removes and adds: against the program that carrying it out leaves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from otgraph.graph.affine import affine_nodes
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.graph.span_maps import find_collapses
from otgraph.graph.spans import activation_nodes, find_spans
from otgraph.pricing.effect import ActivationEffects, Effect, span_effect
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline


class Block(nn.Module):
    """A residual block between a stem and a head; its branch is wide."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide, self.back = nn.Conv2d(8, 64, 3, padding=1), nn.Conv2d(64, 8, 3, padding=1)
        self.down, self.head = nn.Conv2d(8, 16, 3, stride=stride, padding=1), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.back(torch.relu(self.wide(x))))
        return self.head(torch.relu(self.down(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return capture(Block(2).eval(), (torch.randn(2, 3, 12, 12),))


def effects(graph: Graph) -> dict[Collapse, Effect]:
    axes = analyze(graph)
    found = find_collapses(graph, axes, find_spans(graph, axes))
    made = {collapse: span_effect(graph, axes, collapse) for collapse in found}
    return {collapse: effect for collapse, effect in made.items() if effect is not None}


def carried_out(graph: Graph, collapse: Collapse) -> Graph:
    steps = parse_pipeline("collapse-spans{fit=false},fold-batch-norm,fuse-linear,cleanup")
    return PassManager(steps).run(graph, Context(collapses=(collapse,))).graph


def names(graph: Graph) -> set[str]:
    return {view.node.name for view in affine_nodes(graph)}


def test_what_is_predicted_to_go_and_to_come_does(graph: Graph) -> None:
    checked = 0
    for collapse, effect in effects(graph).items():
        if collapse.map == "affine":
            continue
        after = carried_out(graph, collapse)
        gone = names(graph) - names(after)
        assert gone == effect.removes & names(graph), collapse.name
        new = [view for view in affine_nodes(after) if view.node.name not in names(graph)]
        assert len(new) == len(effect.adds), collapse.name
        for view, node in zip(new, effect.adds, strict=True):
            weight = after.tensor(view.weight)
            assert (node.kernel.outputs, node.kernel.inputs) == tuple(weight.shape[:2])
            assert node.kernel.kernel == tuple(weight.shape[2:]) and node.kernel.window == view.window
        checked += 1
    assert checked >= 4


def test_the_maps_of_a_block_run_over_the_dims_of_its_ends(graph: Graph) -> None:
    kinds = {collapse.map: effect for collapse, effect in effects(graph).items() if collapse.span.branch}
    assert kinds["identity"].adds == ()
    (node,) = kinds["conv"].adds
    assert node.reads.dims() == node.makes.dims() == ("stem",)


class Perceptron(nn.Module):
    """Linear, activation, linear, with a hidden width."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, hidden), nn.GELU(), nn.Linear(hidden, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize(("hidden", "pays"), [(64, True), (4, False)])
def test_an_activation_goes_only_where_one_product_is_less_than_two(hidden: int, pays: bool) -> None:
    made = capture(Perceptron(hidden).eval(), (torch.randn(2, 16),))
    axes = analyze(made)
    (collapse,) = (c for c in find_collapses(made, axes, activation_nodes(made, axes)) if c.map == "affine")
    effect = ActivationEffects(made, axes).of(collapse)
    assert (effect is not None) == pays
    if effect is not None:
        assert len(names(made) - effect.removes) + len(effect.adds) == 1
