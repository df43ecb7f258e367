"""The repair passes: through the pass manager, on a trained network, and without what they need."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from otgraph.calibrate.normal import SINGLE
from otgraph.data import Chunk, Data
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.rewrite.contract import Context, Pass
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.masking import relative_error
from passes import repair_least_squares
from passes.repair_least_squares import RepairLeastSquares
from passes.repair_moments import RepairMoments

PASSES = [RepairLeastSquares(), RepairMoments()]


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, inner, 3, padding=1), nn.Conv2d(inner, width, 3, padding=1)
        self.norm_a, self.norm_b = nn.BatchNorm2d(inner), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm_b(self.b(torch.relu(self.norm_a(self.a(x))))))


def network(inner: int) -> nn.Sequential:
    stem = (nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(*stem, Block(16, inner), nn.MaxPool2d(2), Block(16, inner), *head)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A digit classifier, unlabeled inputs, and a labeled test set."""
    torch.manual_seed(0)
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = torch.tensor(digits.images[order], dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target[order])
    net = network(32)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(8):
        for batch in torch.randperm(1200).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    return net.eval(), x[:128], x[1200:], y[1200:]


def halved(net: nn.Sequential, inner: int) -> tuple[nn.Sequential, list[np.ndarray]]:
    """The inner channels with the largest weights, sliced by hand."""
    small, kept = network(inner), []
    state = copy.deepcopy(net.state_dict())
    for index in (3, 5):
        best = state[f"{index}.a.weight"].abs().sum((1, 2, 3)).topk(inner).indices.sort().values
        for name in (
            "a.weight",
            "a.bias",
            "norm_a.weight",
            "norm_a.bias",
            "norm_a.running_mean",
            "norm_a.running_var",
        ):
            state[f"{index}.{name}"] = state[f"{index}.{name}"][best]
        state[f"{index}.b.weight"] = state[f"{index}.b.weight"][:, best]
        kept.append(best.numpy())
    small.load_state_dict(state)
    return small.eval(), kept


def cut(net: nn.Sequential, inner: int, x: torch.Tensor) -> tuple[Graph, Graph]:
    small, kept = halved(net, inner)
    original, new = capture(net, x[:2]), capture(small, x[:2])
    calls = [n for n in new.module.graph.nodes if n.op == "call_function"]
    for number, first in enumerate([n for n in calls if "conv2d" in n.name][1::2]):
        for node in calls[calls.index(first) : calls.index(first) + 3]:  # convolution, norm, activation
            node.meta["otgraph"] = {"kept": {1: kept[number]}}
    return original, new


def accuracy(graph: Graph, x: torch.Tensor, y: torch.Tensor) -> float:
    return float((graph(x)[0].argmax(1) == y).float().mean())


def run(steps: list[Pass], new: Graph, original: Graph, x: torch.Tensor) -> tuple[Graph, list[str]]:
    context = Context(data=Data((Chunk({"x": x.numpy()}),)), original=original)
    result = PassManager(steps).run(new, context)
    return result.graph, [str(remark) for remark in result.remarks]


@pytest.mark.slow
def test_a_cut_digit_network_comes_back(
    trained: tuple[nn.Sequential, torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    net, unlabeled, x, y = trained
    original, new = cut(net, 16, unlabeled)
    repaired, remarks = run([RepairLeastSquares()], new, original, unlabeled)
    moved, _ = run([RepairMoments()], new, original, unlabeled)
    before, full = accuracy(new, x, y), accuracy(original, x, y)
    assert full > 0.95 and before < 0.85
    assert before < accuracy(moved, x, y) < accuracy(repaired, x, y)
    assert accuracy(repaired, x, y) > full - 0.02
    assert any("repair applied at strength" in remark and "damage_at_0=" in remark for remark in remarks)
    assert sum(": refitted ridge=" in remark for remark in remarks) >= 3


@pytest.mark.slow
def test_moments_after_least_squares_never_hurt_on_held_out_inputs(
    trained: tuple[nn.Sequential, torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    net, unlabeled, x, y = trained
    original, new = cut(net, 16, unlabeled)
    alone, _ = run([RepairLeastSquares()], new, original, unlabeled)
    both, _ = run([RepairLeastSquares(), RepairMoments()], new, original, unlabeled)
    assert accuracy(both, x, y) > accuracy(alone, x, y) - 0.01


@pytest.mark.parametrize("ridge", [1e-3, SINGLE, 1.0])
def test_products_in_single_precision_change_nothing_that_counts(
    ridge: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    unlabeled = torch.rand(64, 1, 8, 8)
    original, new = cut(network(32).eval(), 16, unlabeled)
    step = RepairLeastSquares(ridge=ridge, strength=1.0)
    found, _ = run([step], new, original, unlabeled)
    monkeypatch.setattr(repair_least_squares, "SINGLE", math.inf)
    exact, _ = run([step], new, original, unlabeled)
    moved = relative_error(exact(unlabeled), found(unlabeled))
    assert (moved == 0) if ridge < SINGLE else (0 < moved < 1e-5)
    assert relative_error(exact(unlabeled), new(unlabeled)) > 1e-2


@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
def test_without_data_or_original_it_only_says_so(step: Pass) -> None:
    graph = capture(nn.Linear(3, 2), torch.randn(2, 3))
    result = PassManager([step]).run(graph, Context(original=graph))
    assert [r.message for r in result.remarks if r.source == step.name and r.kind == "missed"]
    assert "calibration data was not given" in str(result.remarks[-1])
    for name, tensor in result.graph.tensors().items():
        assert torch.equal(tensor, graph.tensor(name))
