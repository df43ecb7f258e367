"""``inspect``: annotations are shown, with costs that belong to the curves and gaps that are certified."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import otgraph.api as otg
from otgraph.data import Data
from otgraph.errors import DataError
from otgraph.optimize.annotations import annotated_curves
from otgraph.optimize.inspection import Inspection, inspect


def network() -> otg.Graph:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    return otg.capture(module.eval(), (torch.randn(2, 6),))


def inputs(columns: int = 6) -> Data:
    return Data.from_arrays({"": np.random.default_rng(0).standard_normal((64, columns), np.float32)})


@pytest.fixture(scope="module")
def found() -> Inspection:
    return inspect(network(), inputs())


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
        inspect(network(), inputs(columns=5))
