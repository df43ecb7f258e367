"""``inspect``: annotations are shown, with costs that belong to the curves and gaps that are certified."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import otgraph.api as otg
from otgraph.data import Data
from otgraph.errors import DataError
from otgraph.inspection.annotations import annotated_curves
from otgraph.inspection.inspection import Inspection, inspect


def network() -> otg.Graph:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    return otg.capture(module.eval(), (torch.randn(2, 6),))


def inputs(columns: int = 6) -> Data:
    return Data.from_arrays({"": np.random.default_rng(0).standard_normal((64, columns), np.float32)})


@pytest.fixture(scope="module")
def found() -> Inspection:
    return otg.inspect(network(), inputs())


def test_each_dim_that_can_be_cut_has_a_curve(found: Inspection) -> None:
    assert [curve.dim for curve in found.curves] == [dim.name for dim in found.axes.prunable()]
    for curve in found.curves:
        assert [point.kept for point in curve.points] == [curve.size * share // 100 for share in (75, 50, 25)]
        costs = [point.cost for point in curve.points]
        assert 0 < costs[0] <= costs[1] <= costs[2] < 1
        assert all(0 <= point.gap < 1 for point in curve.points)


def test_the_table_and_the_document_hold_the_curves(found: Inspection) -> None:
    first = found.curves[0]
    row = next(line for line in found.curves_text.splitlines() if line.startswith(f"{first.dim} "))
    assert f"{first.points[1].cost:.2%}" in row
    assert found.to_json()["curves"][0]["points"][1] == vars(first.points[1])


def test_the_graph_text_shows_where_a_curve_is_annotated(found: Inspection) -> None:
    text = found.graph_text
    assert text.startswith("input input_1 [2, 0[1]]\n")
    assert "linear = aten.linear(input_1, 0.weight[0, 0[1]], 0.bias[0]) [2, 0]  # 0; annotated: 0" in text
    assert text.endswith("return linear_2")


def test_without_inputs_nothing_is_annotated() -> None:
    found = inspect(network())
    assert found.curves == () and annotated_curves(found.graph) == ()
    assert found.curves_text == "no dim is annotated; give calibration inputs"


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="input_1"):
        otg.inspect(network(), inputs(columns=5))


class Ranked(nn.Module):
    """A softmax over channels in the wide part, a sort that nobody knows in the narrow one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 64), nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.sort(self.b(self.a(x).softmax(-1)), -1)[0])


def test_blockers_are_ranked_by_what_hangs_on_them() -> None:
    torch.manual_seed(0)
    found = inspect(otg.capture(Ranked().eval(), (torch.randn(2, 6),)))
    first, second, *rest = found.blockers()
    assert (first.operator, first.node, first.why) == (
        "softmax",
        "softmax",
        "depends on every entry of the axis",
    )
    assert first.dims == ("a",) and first.channels == 64
    assert first.parameters == 6 * 64 + 64 + 64 * 8
    assert first.macs == pytest.approx((6 * 64 + 64 * 8) / (6 * 64 + 64 * 8 + 8 * 3))
    assert (
        second.operator == "aten.sort" and second.why == "has no axis rule" and second.dims == ("b", "c[1]")
    )
    assert {b.why for b in rest} == {"model input x", "model output output"}
    assert all(b.operator == "" and b.node == "" for b in rest)
    lines = found.blockers_text.splitlines()
    assert lines[0].split() == ["operator", "node", "why", "dims", "channels", "parameters", "MACs"]
    assert (
        sum("aten.sort has no axis rule" in line for line in lines) == 1
    )  # an unknown operator is named once
    assert found.to_json()["blockers"][0]["operator"] == "softmax"


class Projected(nn.Module):
    """Two recurrent layers of a kind that has no rule, a norm over the width, three parts of one map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.cells = nn.ModuleList(nn.LSTM(8, 32, proj_size=8) for _ in range(2))
        self.b = nn.Linear(8, 3 * 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.a(x))
        one, two, three = self.b(x).unflatten(-1, (3, 8)).unbind(2)
        for cell in self.cells:
            x = cell(x)[0]
        return torch.tanh(one) * two + three + x


def test_what_an_operator_without_a_rule_holds_counts_and_it_is_named_once() -> None:
    torch.manual_seed(0)
    found = inspect(otg.capture(Projected().eval(), (torch.randn(2, 5, 6),)))
    blockers = {b.reason: b for b in found.blockers()}
    first = blockers["aten.lstm at cells.0"]
    assert first == found.blockers()[0]
    assert first.parameters >= sum(p.numel() for p in Projected().cells[0].parameters())
    assert blockers["unbind at unbind"].why == "takes entries by their places"
    assert sum("aten.lstm has no axis rule" in line for line in found.blockers_text.splitlines()) == 1


def test_what_a_norm_holds_back_is_said() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    text = inspect(otg.capture(module.eval(), (torch.randn(2, 6),))).blockers_text
    assert "cut only with prune-channels{normalized=true}: 1 dim of 8 channels" in text
