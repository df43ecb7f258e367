"""The width analysis of whole graphs: curves, choices, couplings, and what is left out."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.calibrate import collect as collecting
from otgraph.calibrate.width import Width, WidthAnalysis, analyze_width
from otgraph.data import Data
from otgraph.errors import DataError, UsageError
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.transport.cost import damage
from otgraph.transport.criteria.catalog import CRITERIA


def network() -> nn.Sequential:
    """Six channels, of which 3, 4, 5 are those of 0, 1, 2 again, five times as large."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Tanh(), nn.Conv2d(5, 2, 1)
    ).eval()
    with torch.no_grad():
        net[0].weight[3:] = 5 * net[0].weight[:3]
        net[0].bias[3:] = 5 * net[0].bias[:3]
    return net


@pytest.fixture(scope="module")
def data() -> Data:
    return Data.from_arrays(
        {"input_1": np.random.default_rng(0).normal(size=(12, 2, 7, 7)).astype(np.float32)}
    )


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(network(), (torch.randn(2, 2, 7, 7),))


@pytest.fixture(scope="module")
def found(graph: Graph, data: Data) -> WidthAnalysis:
    return analyze_width(graph, analyze(graph), data, "rerouting")


@pytest.fixture(scope="module")
def twins(found: WidthAnalysis) -> Width:
    """The dim of six channels."""
    return next(width for width in found.widths.values() if width.size == 6)


def test_curves_fall_to_zero(found: WidthAnalysis) -> None:
    assert sorted(width.size for width in found.widths.values()) == [5, 6]
    for width in found.widths.values():
        curve = width.curve.distortion
        assert len(curve) == width.size + 1
        assert np.all(np.diff(curve) <= 1e-9 * curve[0])
        assert curve[0] > 0 and curve[-1] == 0


def test_copies_cost_nothing(twins: Width) -> None:
    curve = twins.curve.distortion
    assert curve[3] <= 1e-6 * curve[0] < curve[2]
    assert sorted(k % 3 for k in twins.choose(3)) == [0, 1, 2]


def test_the_coupling_of_copies(twins: Width) -> None:
    coupling = twins.coupling(np.arange(3))
    assert coupling.target.tolist() == [0, 1, 2, 0, 1, 2]
    assert list(coupling.scales) == ["2.weight"]
    np.testing.assert_allclose(coupling.scales["2.weight"], [1, 1, 1, 5, 5, 5], rtol=1e-5)
    assert coupling.bound <= coupling.cost <= 1e-6 * twins.curve.distortion[0]


def test_a_choice_is_no_worse_than_the_curve_and_its_bound_is_below(found: WidthAnalysis) -> None:
    for width in found.widths.values():
        for k in range(1, width.size):
            coupling = width.coupling(width.choose(k))
            assert len(coupling.kept) == k
            assert coupling.bound <= coupling.cost + 1e-9
            assert coupling.cost <= width.curve.distortion[k] * (1 + 1e-9) + 1e-12
            assert width.coupling(width.choose(k), certified=False).bound == 0


def test_the_predicted_cost_is_the_damage_where_readers_are_convolutions_of_one_tap(data: Data) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1, bias=False)).eval()
    graph = capture(net, (torch.randn(2, 2, 7, 7),))
    (width,) = analyze_width(graph, analyze(graph), data, form=None).widths.values()
    coupling = width.coupling(np.array([0, 2, 3]))
    x = torch.from_numpy(data.chunks[0].arrays["input_1"])
    hidden = net[:2](x)
    replaced = hidden.clone()
    replaced[:, 1] = coupling.scales["2.weight"][1] * hidden[:, coupling.target[1]]
    change = (net[2](hidden) - net[2](replaced)).square().sum(1).double().mean()
    assert coupling.cost == pytest.approx(float(change.detach()), rel=1e-4)
    assert damage(width.readings, coupling.target) == pytest.approx(coupling.cost, rel=1e-6)


def test_under_the_pulled_back_gain_the_cost_is_the_damage_at_the_outputs(data: Data) -> None:
    """Where the reader is the last layer, and reads one position, nothing is approximate but the probes."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    graph = capture(net.eval(), (torch.randn(2, 2, 7, 7),))
    probed = Data.from_arrays({name: a[:16] for name, a in data.chunks[0].arrays.items()})
    (width,) = analyze_width(graph, analyze(graph), probed).widths.values()
    (plain,) = analyze_width(graph, analyze(graph), probed, form=None).widths.values()
    whole = net(torch.from_numpy(probed.chunks[0].arrays["input_1"])).square().sum(1).double().mean()
    one, other = width.curve.distortion[0], plain.curve.distortion[0]
    assert one == pytest.approx(float(other / whole.detach()), rel=0.5)


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_every_criterion_gives_nested_sets(graph: Graph, data: Data, criterion: str) -> None:
    for width in analyze_width(graph, analyze(graph), data, criterion, seed=3).widths.values():
        assert width.criterion == criterion
        sets = [set(width.curve.kept(k).tolist()) for k in range(width.size + 1)]
        assert all(len(s) == k and s <= t for k, (s, t) in enumerate(itertools.pairwise(sets)))


def test_the_same_seed_gives_the_same(graph: Graph, data: Data) -> None:
    one, two = (analyze_width(graph, analyze(graph), data, "random", seed=5) for _ in range(2))
    for name, width in one.widths.items():
        assert np.array_equal(width.curve.order, two.widths[name].curve.order)


def test_what_cannot_be_calibrated_is_said(graph: Graph, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MAX_CHANNELS", 5)
    left = analyze_width(graph, analyze(graph), data)
    assert [width.size for width in left.widths.values()] == [5]
    assert "kept whole" in str(left.remarks[-1]) and left.remarks[-1].kind == "missed"


def test_errors(graph: Graph, data: Data) -> None:
    axes = analyze(graph)
    with pytest.raises(UsageError, match="criterion 'beauty'"):
        analyze_width(graph, axes, data, "beauty")
    chunk = data.chunks[0]
    wide = replace(
        data, chunks=(replace(chunk, arrays={"input_1": chunk.arrays["input_1"].astype(np.float64)}),)
    )
    with pytest.raises(DataError, match="input_1: float64, the model wants float32; convert it first"):
        analyze_width(graph, axes, wide)


def test_a_width_is_a_value(twins: Width) -> None:
    assert copy.deepcopy({"width": twins})["width"] is twins
