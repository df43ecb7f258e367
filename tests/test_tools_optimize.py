"""The benchmark of ``optimize``: processes and their limits, rows that are kept, damage with its interval."""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

TOOLS = Path(__file__).parents[1] / "tools"
BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


# processes


def limited(tmp_path: Path, code: str, limit: float | None = None) -> Any:
    return import_module("bench_process").run_limited(
        [sys.executable, "-c", code], out=tmp_path / "out", errors=tmp_path / "errors", cpu_limit=limit
    )


def test_a_process_is_measured_with_its_children(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN.format(seconds=0.4)!r}])"
    usage = limited(tmp_path, f"{child}; x = bytearray(60_000_000); print('said'); sys.exit(3)")
    assert usage.code == 3 and usage.finished and usage.cpu_seconds > 0.4
    assert usage.peak_mb > 60  # before it runs anything a child counts as large as whoever made it
    assert (tmp_path / "out").read_text() == "said\n"
    restored = import_module("bench_process").Usage.from_json(json.loads(json.dumps(usage.to_json())))
    assert restored == usage


def test_a_process_is_stopped_at_its_limit_and_so_are_its_children(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN.format(seconds=60)!r}])"
    started = time.perf_counter()
    usage = limited(tmp_path, f"print('begun', flush=True); {child}", limit=0.5)
    assert usage.code is None and not usage.finished
    assert 0.5 < usage.cpu_seconds < 30 and time.perf_counter() - started < 50
    assert (tmp_path / "out").read_text() == "begun\n"


# what is run


def test_a_budget_with_a_name_is_that_option() -> None:
    words = import_module("bench_subject").budget_words
    assert words("0.8x") == ["--latency", "0.8x"]
    assert words("8ms") == ["--latency", "8ms"]
    assert words("layers=0.75x") == ["--layers", "0.75x"]


def test_counts_are_found_wherever_a_document_has_them(tmp_path: Path) -> None:
    subject = import_module("bench_subject")
    document = {
        "plan": {"economy": {"candidates": 90, "tried": 12, "priced": True}},
        "audit": {"tried": 5},
        "remarks": [],
    }
    assert dict(subject.counts(document)) == {"candidates": 90, "tried": 12}
    assert subject.trials(tmp_path, document) == 12
    (tmp_path / "cache").mkdir()
    assert subject.trials(tmp_path, None) is None
    (tmp_path / "cache" / "trials-1.json").write_text('{"a": 1, "b": 2}')
    assert subject.trials(tmp_path, {"plan": {}}) == 2


def test_every_network_says_where_its_files_are(tmp_path: Path) -> None:
    networks = import_module("bench_networks").NETWORKS
    assert len(networks) == 6 and all(name == network.name for name, network in networks.items())
    assert not networks["digits_resnet20"].missing(tmp_path)
    assert networks["resnet50"].missing(tmp_path)[0] == tmp_path / "resnet50" / "resnet50.onnx"


# rows

TREE = """
import json, pathlib, shutil, sys
def main():
    words = sys.argv[1:]
    if "0.1x" in words:
        sys.exit("a budget that cannot be")
    if "0.2x" in words:
        while True: pass
    shutil.copyfile(words[1], words[words.index("-o") + 1])
    with open("runs.txt", "a") as runs:
        runs.write("run\\n")
    fidelity = {"drift": 0.1, "drift_name": "KL divergence"}
    audit = {"fidelity": fidelity, "latency": {"ratio": 0.81}}
    cost = {"cpu_seconds": 1.5, "wall_seconds": 2.0}
    print(json.dumps({"cost": cost, "audit": audit, "missed": None, "credible": True, "tried": 7}))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout of something that takes otgraph's command line."""
    root = tmp_path / "tree"
    (root / "otgraph" / "cli").mkdir(parents=True)
    for folder in (root / "otgraph", root / "otgraph" / "cli"):
        (folder / "__init__.py").touch()
    (root / "otgraph" / "cli" / "main.py").write_text(TREE)
    return root


def settings(tmp_path: Path, **others: Any) -> argparse.Namespace:
    chosen = {"root": tmp_path, "work": tmp_path / "work", "json": tmp_path / "rows.json", "again": False}
    return argparse.Namespace(**{**chosen, "cpu_limit": 1.0, **others})


def test_a_row_that_fails_says_why_and_what_is_there_is_not_made_again(tmp_path: Path, tree: Path) -> None:
    rows, subject = import_module("bench_rows"), import_module("bench_subject")
    found = import_module("bench_networks").NETWORKS["digits_resnet20"]
    code = subject.Code("new", tree)
    jobs = [subject.Job(code, found, "onnxruntime", budget) for budget in ("0.1x", "0.2x", "0.8x")]

    def measure(job: Any, folder: Path) -> dict[str, Any]:
        assert (folder / "model.onnx").is_file()
        return {"ratio": 0.8}

    made = rows.run_all(jobs, settings(tmp_path), measure)
    failed, stopped, done = (made[job.key] for job in jobs)
    assert failed["state"] == "failed" and failed["error"] == "a budget that cannot be"
    assert stopped["state"] == "stopped" and stopped["process CPU s"] > 1 and "CPU s" not in stopped
    assert done["state"] == "done" and done["ratio"] == 0.8 and done["CPU s"] == 1.5 and done["trials"] == 7
    assert rows.read_rows(tmp_path / "rows.json").keys() == made.keys()

    again = rows.run_all(jobs, settings(tmp_path), measure)
    assert again[jobs[2].key]["when"] == done["when"]
    (tmp_path / "rows.json").unlink()
    rows.run_all(jobs[2:], settings(tmp_path), lambda job, folder: {"ratio": 0.7})
    assert rows.read_rows(tmp_path / "rows.json")[jobs[2].key]["ratio"] == 0.7
    assert (tree / "runs.txt").read_text() == "run\n"  # measured anew, but not made anew
    rows.run_all(jobs[2:], settings(tmp_path, again=True), measure)
    assert (tree / "runs.txt").read_text() == "run\nrun\n"


def test_what_cannot_be_measured_does_not_end_the_run(tmp_path: Path, tree: Path) -> None:
    rows, subject = import_module("bench_rows"), import_module("bench_subject")
    found = import_module("bench_networks").NETWORKS["digits_resnet20"]

    def measure(job: Any, folder: Path) -> dict[str, Any]:
        raise RuntimeError("no clock")

    job = subject.Job(subject.Code("new", tree), found, "onnxruntime", "0.8x")
    row = rows.run_all([job], settings(tmp_path), measure)[job.key]
    assert row["state"] == "failed" and row["error"] == "RuntimeError: no clock" and row["CPU s"] == 1.5


def test_the_document_does_not_say_where_this_machine_keeps_its_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["tools/bench_optimize.py", "--old", "/some/where/before"])
    assert import_module("bench_rows").command() == ["tools/bench_optimize.py", "--old", "before"]


def test_old_and_new_take_turns() -> None:
    bench, networks = import_module("bench_optimize"), import_module("bench_networks").NETWORKS
    options = argparse.Namespace(
        new=Path("n"),
        old=Path("o"),
        networks=[networks["resnet50"]],
        engines=["onnxruntime"],
        moves=["both"],
        budgets=["0.9x", "0.8x"],
        old_budgets=["0.8x"],
    )
    turns = [(job.code.label, job.budget) for job in bench.jobs_of(options)]
    assert turns == [("old", "0.8x"), ("new", "0.9x"), ("new", "0.8x")]
    options.old = None
    assert [job.budget for job in bench.jobs_of(options)] == ["0.9x", "0.8x"]


# what the tables say


def row(code: str, budget: str, cpu: float, ratio: float | None, damage: float | None) -> dict[str, Any]:
    names = {"network": "net", "code": code, "engine": "onnxruntime", "budget": budget, "moves": "both"}
    known = {} if ratio is None else {"CPU s": cpu, "ratio": ratio, "damage": damage, "a_ms": 5.0}
    return {**names, "state": "stopped" if ratio is None else "done", "process CPU s": cpu, **known}


def test_damage_is_compared_at_the_same_ratio() -> None:
    bench = import_module("bench_optimize")
    ours = [row("new", "0.9x", 20, 0.9, 0.01), row("new", "0.8x", 25, 0.7, 0.04)]
    (pair,) = bench.summary([row("old", "0.8x", 100, 0.8, 0.04), *ours])
    assert pair["CPU new/old"] == pytest.approx(0.25) and pair["ms"] == 5.0
    assert pair["new at old's ratio"] == pytest.approx(0.02)
    assert pair["damage new/old"] == pytest.approx(0.5)
    assert bench.damage_at(0.95, ours) is None and bench.damage_at(0.7, []) is None
    lines = list(bench.means([pair, {"CPU new/old": 1.0}]))
    assert lines[0] == "CPU new/old: 0.500 on the geometric mean of 2"


def test_a_run_that_was_stopped_is_compared_by_what_it_had_used() -> None:
    bench = import_module("bench_optimize")
    (pair,) = bench.summary([row("old", "0.8x", 1200, None, None), row("new", "0.8x", 240, 0.8, 0.1)])
    assert pair["CPU new/old"] == pytest.approx(0.2)
    assert "damage new/old" not in pair


def test_an_audit_is_held_against_the_budget() -> None:
    audit = import_module("bench_audit")
    assert audit.off(0.82, "0.8x") == pytest.approx(2.5)
    assert audit.off(0.82, "layers=0.8x") is None and audit.off(0.82, "8ms") is None
    latency = {"ratio": 0.8, "low": 0.79, "high": 0.82, "a_ms": 10.0, "b_ms": 8.0, "clock": "wall"}
    sides = {side: {"compute_depth": depth, "macs": 5} for side, depth in (("a", 50), ("b", 41))}
    found = audit.from_audit({"latency": {**latency, "conditions": {"load": 1.0}}, **sides}, "0.8x")
    assert found["layers"] == "50 → 41" and found["interval"] == "[0.790, 0.820]" and found["off"] == 0
    assert audit.paid_back(found, 19.999) == {"pay-back": 10_000}
    assert audit.paid_back({**found, "high": 1.01}, 20.0) == {"pay-back": None}


# damage


def linear(path: Path, weights: npt.NDArray[np.float32]) -> Path:
    """y = x @ weights, as an ONNX file."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", weights.shape[0]), ("y", weights.shape[1]))
    ]
    graph = helper.make_graph([node], "net", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A network, one that is a little off, and 40 inputs of 8 pictures with labels."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(6, 4)).astype(np.float32)
    off = weights + random.normal(size=(6, 4)).astype(np.float32) / 3
    inputs = np.repeat(random.normal(size=(8, 6)), 5, axis=0) + random.normal(size=(40, 6)) / 50
    np.savez(
        tmp_path / "test.npz",
        x=inputs.astype(np.float32),
        labels=(inputs.astype(np.float32) @ weights).argmax(1),
    )
    return linear(tmp_path / "a.onnx", weights), linear(tmp_path / "b.onnx", off), tmp_path / "test.npz"


def test_the_figures_are_those_of_an_audit(pair: tuple[Path, Path, Path]) -> None:
    from otgraph.audit.fidelity import fidelity  # noqa: PLC0415
    from otgraph.data_sources import load_data  # noqa: PLC0415
    from otgraph.engines.catalog import get_engine  # noqa: PLC0415

    original, result, data = pair
    found = import_module("bench_damage").damage(original, result, data)
    engine = get_engine("onnxruntime")
    audit = fidelity(engine.load(original), engine.load(result), load_data(str(data)), None, "")
    assert audit.classification is not None
    assert found["KL"] == pytest.approx(audit.classification.kl, rel=1e-6)
    assert found["agreement"] == pytest.approx(audit.classification.top1_agreement)
    assert found["accuracy"] == pytest.approx(audit.classification.accuracy_b)
    assert found["accuracy before"] == 1
    assert found["relative L2"] == pytest.approx(audit.outputs[0].relative_l2, rel=1e-5)
    assert found["KL low"] < found["KL"] < found["KL high"]


def test_an_interval_is_over_pictures_and_not_over_their_crops(pair: tuple[Path, Path, Path]) -> None:
    bench, groups = import_module("bench_damage"), import_module("row_groups")
    rows = bench.damage(*pair)
    groups.save_groups(pair[2], np.arange(40) // 5)
    pictures = bench.damage(*pair)
    assert (rows["groups"], pictures["groups"], pictures["inputs"]) == (40, 8, 40)
    assert pictures["KL"] == pytest.approx(rows["KL"])
    width = [found["KL high"] - found["KL low"] for found in (rows, pictures)]
    assert width[1] > 1.5 * width[0]
    assert bench.damage(*pair) == pictures


def test_a_metric_is_averaged_over_inputs(
    pair: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "of_mine.py").write_text(
        "def right(outputs, labels):\n    return float((outputs['y'].argmax(1) == labels).mean())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = import_module("bench_damage").damage(*pair, metric="of_mine:right")
    assert found["metric"] == pytest.approx(found["accuracy"]) and found["metric before"] == 1


def test_values_that_are_no_classes_have_a_distance_only(tmp_path: Path) -> None:
    bench = import_module("bench_damage")
    a = {"y": np.array([[[3.0, 4.0]], [[0.0, 5.0]]]), "n": np.array([1, 2])}
    b = {"y": np.array([[[3.0, 4.0]], [[0.0, 4.0]]]), "n": np.array([1, 2])}
    found = bench.Sums(bench._distances(a, b)).figures(np.ones(2))
    assert found == {"relative L2": pytest.approx(np.sqrt(1 / 50))}


# unseen


def test_each_calibration_set_is_a_network_of_its_own(tmp_path: Path) -> None:
    bench, networks = import_module("bench_unseen"), import_module("bench_networks").NETWORKS
    found = bench.calibrated(networks["efficientnet_lite0"], "varied", tmp_path / "calib.npz", None)
    assert found.name == "efficientnet_lite0@varied" and found.samples is None
    subject = import_module("bench_subject")
    job = subject.Job(subject.Code("new", tmp_path), found, "onnxruntime", "0.7x")
    words = job.words(tmp_path, tmp_path / "out")
    assert words[words.index("--calib") + 1] == str(tmp_path / "calib.npz") and "--samples" not in words
    assert bench._sets("a=b.npz,c=d/e.npz") == {"a": "b.npz", "c": "d/e.npz"}
    with pytest.raises(argparse.ArgumentTypeError, match=r"'b\.npz': write NAME=FILE"):
        bench._sets("b.npz")


def test_fitted_printed_and_unseen_are_lines_beside_each_other() -> None:
    bench = import_module("bench_unseen")
    key = {"network": "net@varied", "code": "new", "engine": "e", "budget": "0.7x", "moves": "both"}
    sets = {
        "fitted": {"inputs": 8, "groups": 2, "KL": 0.1, "KL low": 0.05, "KL high": 0.2, "agreement": 0.9},
        "printed": {"inputs": 4, "KL": 0.2, "agreement": 0.8},
    }
    first, second = bench.lines_of({**key, "state": "done", "ratio": 0.7, "layers": "5 → 4", "sets": sets})
    assert (first["calibrated on"], first["judged on"], first["KL in"]) == (
        "varied",
        "fitted",
        "[0.050, 0.200]",
    )
    assert second["judged on"] == "printed" and "KL in" not in second and second["pictures"] is None
    (only,) = bench.lines_of({**key, "state": "stopped"})
    assert only["judged on"] == "stopped"
