"""Moment transport: exact where the change is affine, chosen on held-out inputs, never forced."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.calibrate.divergence import output_divergence
from otgraph.calibrate.moments import MeanVariance
from otgraph.calibrate.transport_map import gaussian_map
from otgraph.data import Chunk, Data
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.repair.lockstep import run_with
from otgraph.repair.moments import MomentRepair, repair_moments


def graphs(module: nn.Module, x: torch.Tensor, edit: Callable[[nn.Module], None]) -> tuple[Graph, Graph]:
    small = copy.deepcopy(module)
    edit(small)
    return capture(module.eval(), x[:2]), capture(small.eval(), x[:2])


def repaired_error(original: Graph, new: Graph, repair: MomentRepair, x: torch.Tensor) -> float:
    return output_divergence([original(x)], run_with(new, repair.updates, [(x,)])).relative_l2


def as_data(x: torch.Tensor) -> Data:
    return Data((Chunk({"x": x.numpy()}),))


def test_the_map_carries_mean_and_variance_over() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (10_000, 2)) * [1, 5]
    source = MeanVariance(len(x), x.mean(0), x.var(0))
    target = MeanVariance(len(x), np.array([-1.0, 4.0]), np.array([9.0, 0.25]))
    full = gaussian_map(source, target)
    y = x * full.scale + full.shift
    np.testing.assert_allclose(y.mean(0), target.mean, rtol=1e-10)
    np.testing.assert_allclose(y.var(0), target.variance, rtol=1e-10)
    half = gaussian_map(source, target, 0.5)
    z = x * half.scale + half.shift
    np.testing.assert_allclose(z.std(0), (x.std(0) + np.sqrt(target.variance)) / 2, rtol=1e-10)
    none = gaussian_map(source, target, 0.0)
    np.testing.assert_allclose([none.scale, none.shift], [[1, 1], [0, 0]], atol=1e-12)


def test_a_silent_channel_is_only_shifted() -> None:
    source = MeanVariance(5, np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    target = MeanVariance(5, np.array([2.0, 2.0]), np.array([1.0, 4.0]))
    found = gaussian_map(source, target)
    np.testing.assert_allclose(found.scale, [1, 2])
    np.testing.assert_allclose(found.shift, [1, 0])


def test_batch_norm_undoes_a_change_of_scale_and_mean() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, eps=1e-3)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 2, 1))
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    norm.weight.data.uniform_(-2, 2)
    norm.weight.data[1] = 0
    norm.bias.data.uniform_(-1, 1)

    def edit(m: nn.Module) -> None:
        m[0].weight.data *= torch.linspace(0.5, 2, 6).view(-1, 1, 1, 1)
        m[0].bias.data += 0.3

    x = torch.randn(32, 3, 7, 7)
    original, new = graphs(module, x, edit)
    repair = repair_moments(new, original, as_data(x))
    fresh = torch.randn(8, 3, 7, 7)
    assert repaired_error(original, new, MomentRepair({}, (), 0, repair.before, repair.before), fresh) > 0.1
    assert repair.strength == 1.0 and repair.after.damage < 1e-5
    assert repaired_error(original, new, repair, fresh) < 1e-5
    assert {"1.running_mean", "1.running_var"} <= set(repair.updates)


def test_a_linear_layer_takes_the_map_in_its_rows_and_bias() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    x = torch.randn(40, 4)

    def edit(m: nn.Module) -> None:
        m[0].weight.data *= 0.5
        m[0].bias.data -= 1

    original, new = graphs(module, x, edit)
    repair = repair_moments(new, original, as_data(x))
    assert repaired_error(original, new, repair, torch.randn(9, 4)) < 1e-5
    assert repair.before.relative_l2 > 0.1 and "strength 1" in repair.remarks[-1].message


def test_no_bias_is_said_and_what_hurts_is_not_applied() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3))
    x = torch.randn(8, 4)
    original, new = graphs(module, x, lambda m: m[0].weight.data.add_(0.05 * torch.randn(5, 4)))
    same = repair_moments(original.copy(), original, as_data(x))
    assert same.updates == {} and same.strength == 0 and "nothing to repair" in same.remarks[0].message
    repair = repair_moments(new, original, as_data(torch.randn(64, 4)))
    assert repair.after.damage <= repair.before.damage
    if repair.strength:
        assert any("no bias of its own" in remark.message for remark in repair.remarks)


def test_one_batch_cannot_be_split() -> None:
    graph = capture(nn.Linear(4, 2), torch.randn(2, 4))
    repair = repair_moments(graph.copy(), graph, as_data(torch.randn(1, 4)))
    assert repair.updates == {} and "give more" in repair.remarks[0].message


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_variance_smaller_than_eps_stays_legal(strength: float) -> None:
    """A batch norm can not shrink its deviation below sqrt(eps): the statistics must stay non-negative."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.5))
    x = torch.randn(32, 3, 4, 4)
    original, new = graphs(module, x, lambda m: m[0].weight.data.mul_(0.01))
    repair = repair_moments(new, original, as_data(x))
    assert repair.updates["1.running_var"].min() >= 0
