"""The helpers of the benchmark scripts: tables, means, whose figures are shown, what became of layers."""

from __future__ import annotations

import argparse
import json
import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from otgraph.audit.classify import Classification
from otgraph.audit.fidelity import Fidelity, OutputFidelity
from otgraph.audit.metric import MetricResult
from otgraph.calibrate.span_fit import fit_collapses
from otgraph.data import Data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.span import Collapse, Span
from otgraph.plan.decision import DepthAction

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


def test_what_is_not_known_is_a_dash() -> None:
    cell = import_module("bench_output").cell
    assert [cell(None, ".3f"), cell(0.12345, ".3f"), cell(0.0, ".3f"), cell("inner", "")] == [
        "-",
        "0.123",
        "0.000",
        "inner",
    ]


def test_the_document_says_what_made_it(tmp_path: Path) -> None:
    save = import_module("bench_output").save
    save(None, {"rows": []})
    save(tmp_path / "out.json", {"rows": [1]})
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["rows"] == [1] and document["machine"]["torch"] and document["command"]


def test_a_criterion_is_summed_up_by_means_the_best_first() -> None:
    bench = import_module("bench_width")
    figures = dict.fromkeys(bench.STAGES, 0.5) | {**dict.fromkeys(bench.KLS, 1.0), "gains": "plain"}
    rows = [
        {"criterion": "random", **figures},
        {"criterion": "energy", **figures, "KL full": 0.01},
        {"criterion": "energy", **figures, "full": 0.9, "KL full": 0.04},
        {"criterion": "energy", **figures, "gains": "pulled back", "KL full": 0.5},
    ]
    energy, other, random = bench.summary(rows)
    assert [line["criterion"] for line in (energy, other, random)] == ["energy", "energy", "random"]
    assert [line["gains"] for line in (energy, other)] == ["plain", "pulled back"]
    assert math.isclose(energy["full"], 0.7) and energy["cut"] == 0.5
    assert math.isclose(energy["KL full"], 0.02)


def test_inner_leaves_the_residual_stream_whole() -> None:
    bench = import_module("bench_width")
    found: Any = SimpleNamespace(
        widths={"stream": SimpleNamespace(size=16), "inside": SimpleNamespace(size=3)},
        axes=SimpleNamespace(
            dims={"stream": SimpleNamespace(residual=True), "inside": SimpleNamespace(residual=False)}
        ),
    )
    assert bench.counts_of(found, 0.25, "all") == {"stream": 4, "inside": 1}
    assert bench.counts_of(found, 0.25, "inner") == {"inside": 1}


def test_the_original_has_no_distance_from_itself() -> None:
    figures = import_module("bench_judge").figures
    found = Fidelity(
        samples=10,
        outputs=(OutputFidelity("y", 0.25, 0.9, 1.0, 0.0, 0), OutputFidelity("z", 0.5, 0.9, 1.0, 0.0, 0)),
        classification=Classification("y", "logits", 3, False, 0.02, 0.9, 0.8, 0.7),
        metric=MetricResult("m:f", 0.6, 0.4),
    )
    assert figures(found, side="a") == {"accuracy": 0.8, "metric": 0.6}
    assert figures(found, side="b") == {
        "relative L2": 0.5,
        "KL": 0.02,
        "agreement": 0.9,
        "accuracy": 0.7,
        "metric": 0.4,
    }
    bare = Fidelity(10, (OutputFidelity("y", None, None, None, 1.0, 0),), None, None)
    assert set(figures(bare, side="b").values()) == {None}


def test_stages_are_named_once_and_add_up() -> None:
    stages = import_module("bench_analysis").Stages()
    assert stages("work", lambda: 7) == 7
    stages.add("known", 2.5)
    assert stages.seconds("known") == 2.5 and stages.seconds("work") >= 0
    assert [row["stage"] for row in stages.rows] == ["work", "known"]
    assert all(float(row["peak MB"]) > 10 for row in stages.rows)


BRANCH = Span("relu_1", "add", ("conv", "relu", "conv_1", "add"), branch="conv_1")
PLAIN = Span("relu_1", "relu_2", ("conv", "relu", "conv_1", "relu_2"))


def test_collapses_are_told_with_what_was_predicted_of_them() -> None:
    bench = import_module("bench_curve")
    actions = [
        DepthAction(Collapse(BRANCH, "identity"), 0.25, 2.0, 0.0),
        DepthAction(Collapse(PLAIN, "conv", (3, 3), "moments"), 0.5, 3.0, 1.5),
    ]
    row = {"budget": "0.8x", "moves": "depth", **bench.layers(21, 18, actions)}
    assert row["layers"] == "21 → 18, 2 collapses" and row["depth"] == [21, 18]
    deleted, merged = bench.collapses_of([{"budget": "1x"}, row])
    assert deleted == {
        "budget": "0.8x",
        "moves": "depth",
        "span": "relu_1..add",
        "becomes": "deleted",
        "nodes": 4,
        "L2 alone": 0.25,
        "ms": 2.0,
        "ms after": 0.0,
    }
    assert merged["becomes"] == "a 3×3 convolution (moments)" and merged["ms after"] == 1.5
    assert deleted.keys() == bench.COLLAPSES.keys()
    assert bench.layers(21, 20, actions[:1])["layers"] == "21 → 20, 1 collapse"
    assert bench.layers(21, 21, [])["layers"] == "21 → 21"


def test_without_repair_spans_still_collapse_into_fitted_maps() -> None:
    bare = import_module("bench_curve").without_repair
    steps = bare("apply").split(",")
    assert "collapse-spans" in steps and "prune-channels" in steps and "fuse-linear" in steps
    assert not [
        step
        for step in steps
        if any(word in step for word in ("repair", "reroute", "reexpress", "fit=false"))
    ]
    assert bare("reroute-channels,prune-channels,repair-moments{inputs=64}") == "prune-channels"


def test_moves_are_a_list_of_known_ones() -> None:
    parse = import_module("bench_curve")._moves
    assert parse("width,depth,both") == ["width", "depth", "both"]
    with pytest.raises(argparse.ArgumentTypeError, match="'deep' is none of both, width, depth"):
        parse("both,deep")


def test_spans_by_kind_and_from_all_over() -> None:
    bench = import_module("bench_depth")
    assert bench.kind_of(BRANCH, {"conv", "conv_1"}) == "residual"
    assert bench.kind_of(PLAIN, {"conv", "conv_1"}) == "plain"
    assert bench.kind_of(PLAIN, {"conv"}) == "layer"
    assert bench.spread(list("abcdefg"), 3) == ["a", "d", "g"]
    assert bench.spread(list("ab"), 3) == bench.spread(list("ab"), None) == ["a", "b"]
    assert bench.spread(list("abc"), 1) == ["a"]


def _rows() -> list[dict[str, Any]]:
    """Two spans: one that moments reproduce better, one that nothing reproduces."""

    def row(span: str, estimator: str, error: float, l2: float, repaired: float) -> dict[str, Any]:
        names = {"span": span, "map": "conv 3x3", "estimator": estimator, "error": error, "effect": error / 2}
        names["price"] = {"good": 1 / error, "bad": 99.0}[span] if estimator == "moments" else None
        figures = {"KL": None, "L2": l2, "KL repaired": None, "L2 repaired": repaired, "fit s": 1.0}
        return {**names, **figures}

    return [
        row("good", "least-squares", 0.1, 0.4, 0.2),
        row("good", "moments", 0.2, 0.2, 0.1),
        row("bad", "least-squares", 0.3, 1.0, 0.9),
        row("bad", "moments", 0.4, 2.0, 1.8),
    ]


def test_estimators_are_paired_span_by_span() -> None:
    figures = import_module("depth_figures")
    base, moments, base_good, moments_good = figures.summary(_rows(), 0.5)
    assert [line["spans"] for line in (base, base_good)] == ["all", "plausible"]
    assert base["ratio"] == base["ratio repaired"] == 1 and base["n"] == 2 and base_good["n"] == 1
    assert math.isclose(base["damage"], 0.4) and math.isclose(moments["damage"], 0.4)
    assert math.isclose(moments["ratio"], 1.0) and math.isclose(moments["ratio repaired"], 1.0)
    assert (base["wins"], moments["wins"], base_good["wins"], moments_good["wins"]) == (1, 1, 0, 1)
    assert math.isclose(moments_good["ratio repaired"], 0.25)
    assert len(figures.summary(_rows(), 1.0)) == 2  # nothing is left out, so nothing is said twice


def test_layerwise_errors_are_ranked_against_the_damage() -> None:
    figures = import_module("depth_figures")
    assert figures.correlation([1, 2, 3, 4], [0.1, 0.2, 0.3, 40]) == pytest.approx(1.0)
    assert figures.correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert figures.correlation([1, 2, 3, math.nan], [1, 2, 3, 4]) is None
    assert figures.correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    whole = figures.ranks(_rows(), 0.5)[0]
    assert whole["map"] == "all" and whole["n"] == 4
    assert whole["error"] == pytest.approx(0.8) and whole["damage, repaired"] == pytest.approx(1.0)


def test_each_figure_chooses_the_map_and_the_span_and_what_has_no_price_comes_last() -> None:
    figures = import_module("depth_figures")
    lines = {line["by"]: line for line in figures.picked(_rows(), 0.5)}
    assert all(line["spans"] == 2 and line["chosen spans"] == 1 for line in lines.values())
    assert lines["error"]["repaired, chosen"] == pytest.approx(0.2**2)  # least squares of the good span
    assert lines["price"]["repaired, chosen"] == pytest.approx(0.1**2)  # moments, the only ones with a price
    assert lines["price"]["repaired"] == pytest.approx(0.1 * 1.8)  # the geometric mean of two squares
    assert lines["damage repaired"]["repaired"] == pytest.approx(0.1 * 0.9)


class _Block(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.up, self.down, self.last = (nn.Linear(8, 8) for _ in range(4))
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        h = torch.relu(h + self.down(self.activation(self.up(h))))
        return self.last(h)


@pytest.mark.parametrize(("activation", "reproduced"), [(nn.Identity(), True), (nn.ReLU(), False)])
def test_a_span_that_is_linear_is_reproduced_and_no_other(activation: nn.Module, reproduced: bool) -> None:
    torch.manual_seed(0)
    bench = import_module("bench_depth")
    graph = capture(_Block(activation), (torch.randn(2, 8),))
    data = Data.from_arrays({graph.signature.inputs[0].name: torch.randn(96, 8).numpy()})
    axes = analyze(graph)
    (span,) = [s for s, kind in bench.spans_of(graph, axes, ["residual"]).items() if kind == "residual"]
    collapses = [Collapse(span, "linear"), Collapse(span, "identity")]
    fits = fit_collapses(graph, data, collapses, axes=axes)
    judge = bench.Judge(graph, data, data.take(32), fits, (0.3,))
    linear, deleted = (judge(fits[collapse.name]) for collapse in collapses)
    assert (linear["L2"] < 1e-3) is reproduced
    assert deleted["L2"] > 10 * linear["L2"] or not reproduced
    assert deleted["L2 repaired"] < deleted["L2"] and deleted["ridge"] == 0.3
