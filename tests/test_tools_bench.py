"""The helpers of the benchmark scripts: cells of a table, what is averaged, whose figures are shown."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otgraph.audit.classify import Classification
from otgraph.audit.fidelity import Fidelity, OutputFidelity
from otgraph.audit.metric import MetricResult

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
    accuracies = dict.fromkeys(bench.STAGES, 0.5)
    rows = [
        {"criterion": "random", **accuracies, bench.KL: 1.0},
        {"criterion": "energy", **accuracies, bench.KL: 0.01},
        {"criterion": "energy", **accuracies, "full": 0.9, bench.KL: 0.04},
    ]
    energy, random = bench.summary(rows)
    assert (energy["criterion"], random["criterion"]) == ("energy", "random")
    assert math.isclose(energy["full"], 0.7) and energy["cut"] == 0.5
    assert math.isclose(energy[bench.KL], 0.02)


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
    figures = import_module("bench_curve").figures
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
