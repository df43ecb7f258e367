"""``otgraph audit``, ``inspect``, ``run``, ``passes``, ``build`` and ``bench``."""

from __future__ import annotations

from pathlib import Path

import pytest

AUDIT = ("audit", "a.onnx", "b.onnx", "--data", "test.npz")


def test_audit_passes_its_thresholds_on(command, api) -> None:
    flags = ("--min-speedup", "1.5", "--max-drift", "0.1", "--metric", "m:f", "--task", "regression")
    ran = command(*AUDIT, *flags, "--html", "r.html")
    assert (ran.code, ran.out) == (0, "AUDIT passed=True\nwrote r.html\n")
    (a, b, data), given = api.calls["audit"]
    assert (a, b, len(data)) == ("a.onnx", "b.onnx", 3)
    assert given == {
        "engine": "onnxruntime",
        "threads": 1,
        "min_speedup": 1.5,
        "max_drift": 0.1,
        "metric": "m:f",
        "task": "regression",
        "seed": 0,
    }
    assert Path("r.html").exists()


def test_a_missed_audit_exits_with_1(command, api) -> None:
    api.passed = False
    assert command(*AUDIT).code == 1
    ran = command(*AUDIT, "--json")
    assert ran.code == 1 and ran.document["command"] == "audit" and ran.document["passed"] is False


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ((), ["DIMS", "BLOCKERS"]),
        (("--dims",), ["DIMS"]),
        (("--graph", "--blockers"), ["BLOCKERS", "GRAPH"]),
        (("--dims", "--calib", "calib.npz"), ["DIMS", "CURVES"]),
        (("--depth",), ["DEPTH"]),
        (("--depth", "--dims", "--calib", "calib.npz"), ["DIMS", "DEPTH"]),
    ],
)
def test_inspect_shows_what_is_asked_for(command, api, flags: tuple[str, ...], shown: list[str]) -> None:
    ran = command("inspect", "net.onnx", *flags)
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line.isupper()] == shown
    assert command("inspect", "net.onnx", "--json").document == {
        "command": "inspect",
        "model": "net.onnx",
        "dims": [],
    }


def test_inspect_calibrates_on_the_samples_asked_for(command, api) -> None:
    args = ("--calib", "calib.npz", "--samples", "3", "--seed", "7", "--criterion", "energy")
    assert command("inspect", "net.onnx", *args).code == 0
    (_, data), given = api.calls["inspect"]
    assert len(data) == 3 and given == {"seed": 7, "criterion": "energy"}
    assert command("inspect", "net.onnx").code == 0
    assert api.calls["inspect"][0][1] is None


def test_inspect_spends_inputs_on_depth_where_depth_is_asked_for(command, api) -> None:
    args = ("--depth", "--calib", "calib.npz", "--samples", "3", "--seed", "7", "--json")
    assert command("inspect", "net.onnx", *args).document["depth"] == {"spans": []}
    (_, data), given = api.calls["inspect_depth"]
    assert len(data) == 3 and given == {"seed": 7}
    assert len(api.calls["inspect"][0]) == 1 or api.calls["inspect"][0][1] is None


def test_run_prints_remarks_and_one_line_per_pass(command, api) -> None:
    ran = command("run", "net.onnx", "-p", "cleanup", "-o", "out.onnx", "--calib", "calib.npz", "--seed", "3")
    assert ran.code == 0
    assert "applied: cleanup: graph: dead nodes removed nodes=2" in ran.out
    assert "exact, relative error 1.0e-07" in ran.out
    (_, text, data), given = api.calls["run_pipeline"]
    assert text == "cleanup" and len(data) == 4
    assert given == {"seed": 3, "on_failure": "raise", "save_failing": None}
    assert Path("out.onnx").read_text() == "rewritten"


def test_run_exits_with_1_when_a_pass_was_undone(command, api) -> None:
    api.undone = ("prune-channels",)
    ran = command("run", "net.onnx", "-p", "x", "-o", "out.onnx", "--on-failure", "undo", "--json")
    assert ran.code == 1
    assert ran.document["undone"] == ["prune-channels"]
    assert ran.document["records"][0]["check"] == {"claim": "exact", "error": 1e-07, "limit": 1e-05}


def test_run_exits_with_1_when_a_dim_was_left_whole(command, api) -> None:
    api.spared = ("conv1", "conv2")
    ran = command("run", "net.onnx", "-p", "x", "-o", "out.onnx")
    assert ran.code == 1 and "2 dims left whole" in ran.out
    ran = command("run", "net.onnx", "-p", "x", "-o", "out.onnx", "--json")
    assert ran.document["spared"] == ["conv1", "conv2"]


def test_passes_shows_manual_pages_from_docstrings(command) -> None:
    ran = command("passes", "fold-batch-norm")
    assert ran.code == 0
    for title in ("What it does", "When it applies", "Exactness", "Before and after", "Remarks", "Options"):
        assert title in ran.out.splitlines()
    document = command("passes", "cleanup", "--json").document
    assert (document["name"], document["kind"], document["exactness"]) == ("cleanup", "transform", "exact")


def test_an_unknown_pass_is_an_error_with_a_suggestion(command) -> None:
    ran = command("passes", "fold-batchnorm")
    assert ran.code == 2
    assert ran.err == "error: passes: no pass is called 'fold-batchnorm'; did you mean 'fold-batch-norm'?\n"


def test_the_catalogue_lists_passes_and_pipelines(command) -> None:
    document = command("passes", "--json").document
    assert "fold-batch-norm" in [page["name"] for page in document["passes"]]
    assert document["pipelines"]["simplify"] == "fold-batch-norm,fuse-linear,cleanup"
    assert "simplify: fold-batch-norm,fuse-linear,cleanup" in command("passes").out


def test_build_writes_an_artifact(command, api) -> None:
    ran = command("build", "net.onnx", "-o", "net.engine", "--engine", "onnxruntime")
    assert (ran.code, ran.out) == (0, "wrote net.engine (5 B)\n")
    assert command("build", "net.onnx", "-o", "net.engine", "--json").document["bytes"] == 5


def test_bench_measures_one_model(command, api) -> None:
    ran = command("bench", "net.onnx", "--threads", "2", "--shape", "x=1,3")
    assert ran.out == "net.onnx: 1.23 ms [1.1, 1.3] (CPU time), 2 threads\n"
    (model, data), given = api.calls["bench"]
    assert model == "net.onnx" and data is None and given["shapes"] == {"x": (1, 3)}
    assert command("bench", "net.onnx", "--json").document["ms"] == 1.234
