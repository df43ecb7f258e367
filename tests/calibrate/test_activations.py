"""Activations: the best affine map, what it leaves, and how often they are off, curved and on."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.calibrate.activations import ActivationStatistics, collect_activations, reading_energy
from otgraph.calibrate.batches import split_batches
from otgraph.data import Data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.spans import activation_nodes


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.5 * x)


def graph_of(activation: nn.Module) -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 5, 1), activation, nn.Conv2d(5, 3, 3))
    with torch.no_grad():
        net[0].weight *= torch.tensor([0.2, 1.0, 4.0, 12.0, 0.0]).view(-1, 1, 1, 1)  # a constant channel last
        net[0].bias.copy_(torch.tensor([3.0, 0.0, -2.0, 1.0, 0.5]))
    return capture(net.eval(), (torch.randn(2, 2, 4, 4),))


IMAGES = np.random.default_rng(0).standard_normal((40, 2, 4, 4)).astype(np.float32)
DATA = Data.from_arrays({"input_1": IMAGES})


def observed(graph: Graph, batch: int = 7) -> ActivationStatistics:
    axes = analyze(graph)
    (found,) = collect_activations(
        graph, axes, split_batches(graph, DATA, 1, batch_size=batch), activation_nodes(graph, axes)
    ).values()
    return found


def rows(graph: Graph, activation: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = graph.tensor("0.weight").double(), graph.tensor("0.bias").double()
    z = torch.einsum("oi,nihw->onhw", weight[:, :, 0, 0], torch.from_numpy(IMAGES).double())
    z = (z + bias.view(-1, 1, 1, 1)).flatten(1)
    return z.detach().numpy(), activation(z).detach().numpy()


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.GELU(), nn.Tanh(), Swish()])
def test_the_affine_map_is_the_regression_of_each_channel(activation: nn.Module) -> None:
    graph = graph_of(activation)
    found = observed(graph)
    z, y = rows(graph, activation)
    assert found.count == z.shape[1]
    for c in range(4):
        slope, intercept = np.polyfit(z[c], y[c], 1)
        assert found.slope[c] == pytest.approx(slope, rel=1e-3, abs=1e-5)
        assert found.intercept[c] == pytest.approx(intercept, rel=1e-3, abs=1e-4)
        left = np.var(y[c] - slope * z[c] - intercept)
        assert found.unexplained[c] == pytest.approx(left, rel=1e-3, abs=2e-3 * np.var(y[c]))
    assert found.slope[4] == 0 and found.intercept[4] == pytest.approx(y[4].mean(), rel=1e-5)


def test_a_rectifier_that_saturates_is_off_at_both_ends() -> None:
    z, _ = rows(graph_of(nn.ReLU6()), nn.ReLU6())
    six, plain = observed(graph_of(nn.ReLU6())), observed(graph_of(nn.ReLU()))
    np.testing.assert_allclose(six.occupancy[:, 0], ((z < 0) | (z > 6)).mean(1), atol=1e-3)
    np.testing.assert_allclose(plain.occupancy[:, 0], (z < 0).mean(1), atol=1e-3)
    assert six.occupancy[3, 0] > plain.occupancy[3, 0] + 0.1  # the state that an on/off count misses
    np.testing.assert_allclose(six.occupancy.sum(1), 1)
    assert (six.occupancy[:, 1] == 0).all()


def test_smooth_functions_are_curved_between() -> None:
    found = observed(graph_of(nn.GELU()))
    assert found.occupancy[1, 1] > 0.5 > found.occupancy[3, 1]
    assert found.entropy.max() > 1  # more than one bit: three states


def test_entropy_is_that_of_counts_over_everything_and_not_the_mean_over_batches() -> None:
    one, other = observed(graph_of(nn.ReLU()), 1), observed(graph_of(nn.ReLU()), 40)
    np.testing.assert_allclose(one.entropy, other.entropy, rtol=1e-9)
    z, _ = rows(graph_of(nn.ReLU()), nn.ReLU())
    share = (z > 0).mean(1)

    def bits(p: np.ndarray) -> np.ndarray:
        p = p.clip(1e-12, 1 - 1e-12)
        return -p * np.log2(p) - (1 - p) * np.log2(1 - p)

    np.testing.assert_allclose(one.entropy, bits(share), atol=1e-3)
    by_batch = bits((z > 0).reshape(5, 40, 16).mean(2)).mean(1)
    assert np.abs(by_batch - one.entropy).max() > 0.02  # the published code's figure is another


def test_the_cost_weighs_channels_by_what_is_read() -> None:
    graph = graph_of(nn.ReLU())
    found = observed(graph)
    weight = graph.tensor("2.weight").detach().double()
    np.testing.assert_allclose(found.energy, weight.square().sum((0, 2, 3)).numpy(), rtol=1e-6)
    expected = (found.energy * found.unexplained).sum() / (found.energy * found.variance).sum()
    assert found.cost == pytest.approx(expected) and 0 < found.cost < 1
    unread = copy.deepcopy(graph)
    with torch.no_grad():
        unread.tensor("2.weight")[:, 3] = 0
    left = found.energy * np.array([1, 1, 1, 0, 1])
    without = (left * found.unexplained).sum() / (left * found.variance).sum()
    assert observed(unread).cost == pytest.approx(without) and abs(without - found.cost) > 0.01


def test_readers_behind_a_pooling_and_with_groups_are_found() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 8, 1, groups=2))
    graph = capture(net.eval(), (torch.randn(2, 2, 4, 4),))
    weight = graph.tensor("3.weight").detach().double()[..., 0, 0]  # (8, 2)
    expected = [weight[:4, 0], weight[:4, 1], weight[4:, 0], weight[4:, 1]]
    np.testing.assert_allclose(
        reading_energy(graph, analyze(graph), "relu"), [float(w.square().sum()) for w in expected], rtol=1e-6
    )
    last = reading_energy(graph, analyze(graph), "conv2d_1")
    np.testing.assert_array_equal(last, np.ones(8))  # nothing reads it


def test_an_affine_function_loses_nothing() -> None:
    graph = graph_of(nn.ReLU())
    with torch.no_grad():
        graph.tensor("0.bias").fill_(100.0)  # always on
    found = observed(graph)
    assert found.cost < 1e-4 and (found.entropy == 0).all() and (found.occupancy[:, 2] == 1).all()
    np.testing.assert_allclose(found.slope[:4], 1, rtol=1e-3)
