"""What ``optimize`` says of the outputs holds for inputs that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from torch import nn

import otgraph as otg
from otgraph.audit.fidelity import Fidelity, OutputFidelity
from otgraph.audit.generalization import Generalization
from otgraph.audit.html import render_html
from otgraph.audit.quantities import seen_line
from otgraph.audit.schema import audit_schema
from otgraph.audit.text import summary
from otgraph.calibrate.divergence import output_divergence
from otgraph.data_digest import METADATA, Sketch
from otgraph.graph.graph import Graph
from otgraph.graph.specs import bind
from otgraph.optimize.run import Optimized
from otgraph.optimize.verdict import divide
from otgraph.plan.plan import Plan

COUNT = 340
KEPT = 68


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ).eval()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Read from a file: what was captured would be exported anew by every run."""
    path = tmp_path_factory.mktemp("network") / "net.onnx"
    otg.capture(network(), (torch.randn(2, 3, 8, 8),)).save(path)
    return otg.load(path)


def images(count: int = COUNT, seed: int = 1, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(count, 3, 8, 8))).astype(np.float32)


def optimize(graph: Graph, inputs: Any, **choices: Any) -> Optimized:
    return otg.optimize(graph, inputs, keep=0.5, **choices)


@pytest.fixture(scope="module")
def held_out(graph: Graph) -> Optimized:
    return optimize(graph, images())


@pytest.fixture(scope="module")
def in_turn(graph: Graph) -> Optimized:
    return optimize(graph, images(24))


def relative(graph: Graph, small: Graph, x: np.ndarray) -> float:
    feed = torch.from_numpy(x)
    return output_divergence([graph(feed)], [small(feed)], "regression").relative_l2


def parts_of(graph: Graph, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parts = divide(bind(otg.Data.from_arrays({"": x}), graph), 0.2)
    assert parts.unseen is not None
    return tuple(  # type: ignore[return-value]
        np.concatenate([chunk.arrays["input_1"] for chunk in part.chunks])
        for part in (parts.fit, parts.unseen)
    )


def judging(graph: Graph) -> np.ndarray:
    """Which of the samples judge."""
    judged = np.ones(COUNT, bool)
    for first, last in divide(bind(otg.Data.from_arrays({"": images()}), graph), 0.2).stretches:
        judged[first:last] = False
    return judged


def shown(found: Optimized) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(summary(found.audit))
    return captured.get()


# kept from everything


def test_the_figures_are_those_on_inputs_kept_apart(graph: Graph, held_out: Optimized) -> None:
    fit, unseen = parts_of(graph, images())
    found = held_out.audit.fidelity
    assert (found.source, found.samples, len(unseen)) == ("held-out", KEPT, KEPT)
    assert found.drift == pytest.approx(relative(graph, held_out.graph, unseen), rel=1e-4)
    assert (
        found.drift_interval is not None and found.drift_interval[0] < found.drift < found.drift_interval[1]
    )
    gap = held_out.audit.generalization
    assert gap is not None and gap.unseen == found and gap.fitted.samples == COUNT - KEPT
    assert gap.fitted.drift == pytest.approx(relative(graph, held_out.graph, fit), rel=1e-4)
    assert gap.network == "measured" and held_out.plan.calibration is not None
    assert held_out.plan.calibration.count == COUNT - KEPT


def test_what_judges_changes_nothing_that_is_judged(graph: Graph, held_out: Optimized) -> None:
    x, judged = images(), judging(graph)
    x[judged] = images(seed=5)[judged]
    other = optimize(graph, x)
    assert other.plan.dims == held_out.plan.dims
    for name, tensor in held_out.graph.tensors().items():
        assert torch.equal(other.graph.tensor(name), tensor), name
    assert other.audit.fidelity.drift != held_out.audit.fidelity.drift


def test_refitting_on_all_is_said_and_the_figures_stay_those_of_the_first(
    graph: Graph, held_out: Optimized
) -> None:
    refitted = optimize(graph, images(), refit=True)
    assert refitted.audit.fidelity.drift == held_out.audit.fidelity.drift
    gap = refitted.audit.generalization
    assert gap is not None and gap.network == "refitted"
    assert "the figures belong to the network fitted on 272 inputs; the one handed over is" in shown(refitted)
    assert any(
        not torch.equal(refitted.graph.tensor(name), tensor)
        for name, tensor in held_out.graph.tensors().items()
    )
    assert refitted.plan.calibration is not None and refitted.plan.calibration.count == COUNT
    again = refitted.plan.apply(graph)
    assert all(torch.equal(again.tensor(name), t) for name, t in refitted.graph.tensors().items())


def test_a_large_gap_says_what_to_do(graph: Graph) -> None:
    x, judged = images(scale=0.05), judging(graph)
    x[judged] = images(scale=6.0)[judged]
    found = optimize(graph, x)
    gap = found.audit.generalization
    assert gap is not None and gap.large and gap.ratio is not None and gap.ratio > 1.5
    (said,) = [remark for remark in found.remarks if remark.source == "generalization"]
    assert "give more calibration inputs, and above all more different ones" in said.message
    assert said.message in " ".join(shown(found).split()) and said.message in render_html(found.audit)
    same = replace(gap, unseen=gap.fitted)
    assert not same.large and same.advice == ""


def figures(drift: float, interval: tuple[float, float] | None) -> Fidelity:
    return Fidelity(64, (OutputFidelity("y", drift, 1.0, 1.0, 0.0, 0, interval),), None, None)


@pytest.mark.parametrize(
    ("unseen", "interval", "large"),
    [
        (0.40, (0.3, 0.5), True),
        (0.40, (0.2, 0.6), False),  # chance may have done it
        (0.14, (0.135, 0.145), False),  # certain, and too little to matter
        (0.40, None, False),
        (float("inf"), (0.3, 0.5), False),
    ],
)
def test_a_gap_is_beyond_chance_and_beyond_half(
    unseen: float, interval: tuple[float, float] | None, large: bool
) -> None:
    gap = Generalization(figures(0.1, (0.08, 0.12 if unseen < 0.2 else 0.25)), figures(unseen, interval))
    assert gap.large is large


# in turn


def test_few_inputs_judge_refits_that_left_them_out(graph: Graph, in_turn: Optimized) -> None:
    data = bind(otg.Data.from_arrays({"": images(24)}), graph)
    folds = divide(data, 0.2).folds
    assert len(folds) == 3
    outputs: tuple[list[Any], list[Any]] = [], []
    for rest, fold in folds:
        refit = in_turn.plan.apply(graph, rest)
        for chunk in fold.chunks:
            feed = torch.from_numpy(chunk.arrays["input_1"])
            outputs[0].append(graph(feed))
            outputs[1].append(refit(feed))
    found = in_turn.audit.fidelity
    assert (found.source, found.samples) == ("cross-fitted", 24)
    assert found.drift == pytest.approx(output_divergence(*outputs, "regression").relative_l2, rel=1e-4)
    gap = in_turn.audit.generalization
    assert gap is not None and gap.folds == 3 and gap.fitted.source == "fitted"
    assert gap.fitted.drift == pytest.approx(relative(graph, in_turn.graph, images(24)), rel=1e-4)
    assert "the unseen figures are of 3 refits" in shown(in_turn)
    assert in_turn.plan.calibration is not None and in_turn.plan.calibration.count == 24


def test_inputs_of_the_users_own_spare_the_refits(graph: Graph) -> None:
    found = optimize(graph, images(24), evaluation=images(12, seed=9))
    assert (found.audit.fidelity.source, found.audit.fidelity.samples) == ("data", 12)
    gap = found.audit.generalization
    assert gap is not None and gap.folds == 0 and gap.unseen == found.audit.fidelity
    assert found.audit.fitted_samples == 0


def test_unless_they_are_those_of_the_calibration(graph: Graph) -> None:
    found = optimize(graph, images(24), evaluation=images(24))
    assert found.audit.fidelity.source == "data" and found.audit.fitted_samples == 24
    assert "B was fitted on these samples, so that the figures flatter it" in shown(found)
    gap = found.audit.generalization
    assert gap is not None and gap.unseen.source == "cross-fitted"


def test_with_many_inputs_both_are_told(graph: Graph) -> None:
    found = optimize(graph, images(), evaluation=images(12, seed=9))
    gap = found.audit.generalization
    assert found.audit.fidelity.samples == 12 and gap is not None
    assert (gap.unseen.source, gap.unseen.samples) == ("held-out", KEPT)


def test_where_nothing_is_kept_the_figures_say_what_they_are(graph: Graph) -> None:
    found = optimize(graph, images(24), verdict=0.0)
    assert found.audit.fidelity.source == "fitted" and found.audit.generalization is None
    assert "fidelity over 24 samples that B was fitted on" in shown(found)


@pytest.mark.parametrize("name", ["held_out", "in_turn"])
def test_documents_and_pages_tell_all_of_it(request: pytest.FixtureRequest, name: str) -> None:
    found: Optimized = request.getfixturevalue(name)
    document = found.audit.to_json()
    jsonschema.validate(document, audit_schema(), cls=jsonschema.Draft202012Validator)
    assert document["fidelity"]["source"] == document["generalization"]["unseen"]["source"] != "data"
    page = render_html(found.audit)
    assert "On the inputs it was fitted on, and on others" in page and "95 % intervals" in page
    low, high = found.audit.fidelity.drift_interval or (0, 0)
    assert f"[{low:.3g}, {high:.3g}]" in page and f"[{low:.3g}, {high:.3g}]" in shown(found)
    bad: dict[str, Any] = {**document, "generalization": {**document["generalization"], "surprise": 1}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, audit_schema())


# what files tell later


def saved(found: Optimized, folder: Path) -> tuple[Path, Mapping[str, str]]:
    path = folder / "small.onnx"
    found.graph.save(path)
    return path, {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_the_file_knows_what_it_was_fitted_on(graph: Graph, held_out: Optimized, tmp_path: Path) -> None:
    path, metadata = saved(held_out, tmp_path)
    sketch = Sketch.parse(metadata[METADATA])
    assert sketch is not None and sketch.count == COUNT - KEPT
    fit, unseen = parts_of(graph, images())
    for inputs, known in ((images(), COUNT - KEPT), (fit[:20], 20), (unseen, 0), (images(30, seed=9), 0)):
        found = otg.audit(graph, path, inputs, repeats=1)
        assert found.fitted_samples == known == found.to_json()["data"]["fitted_on"]
    again = otg.load(path)
    again.save(tmp_path / "again.onnx")  # what a file says is written back
    entries = {entry.key: entry.value for entry in onnx.load(tmp_path / "again.onnx").metadata_props}
    assert entries[METADATA] == metadata[METADATA]


def test_a_plan_tells_where_the_file_does_not(graph: Graph, held_out: Optimized, tmp_path: Path) -> None:
    path, _ = saved(held_out, tmp_path)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    inputs = images()[:10]
    assert otg.audit(graph, path, inputs, repeats=1).fitted_samples is None
    found = otg.audit(graph, path, inputs, plan=held_out.plan, repeats=1)
    assert found.fitted_samples == 10 and "B was fitted on these samples" in seen_line(found)


def test_of_another_file_nothing_is_known(graph: Graph, held_out: Optimized, tmp_path: Path) -> None:
    found = otg.audit(graph, graph, images(4), repeats=1)
    assert found.fitted_samples is None and found.to_json()["data"]["fitted_on"] is None
    path, _ = saved(held_out, tmp_path)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA: "1 2 nonsense"})
    onnx.save(model, path)
    assert otg.audit(graph, path, images(4), repeats=1).fitted_samples is None


def test_a_plan_file_finds_the_inputs_it_was_made_with(graph: Graph, tmp_path: Path) -> None:
    np.savez(tmp_path / "calib.npz", input_1=images(400))
    data = otg.load_data(str(tmp_path / "calib.npz")).take(COUNT, seed=3)
    found = optimize(graph, data, seed=3)
    found.plan.save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.calibration == found.plan.calibration
    assert plan.calibration is not None and plan.calibration.drawn == COUNT
    assert "272 inputs of" in str(plan) and "68 more kept to judge by" in str(plan)
    again = plan.apply(graph)
    assert all(torch.equal(again.tensor(name), t) for name, t in found.graph.tensors().items())
