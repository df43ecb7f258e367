"""``otgraph audit``, ``inspect``, ``run``, ``passes``, ``build`` and ``bench``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from otgraph.data_digest import Sketch
from otgraph.engines.artifact import ShapeRange
from otgraph.engines.catalog import ENGINES

AUDIT = ("audit", "a.onnx", "b.onnx", "--data", "test.npz")


def test_audit_passes_its_thresholds_on(command, api) -> None:
    flags = ("--min-speedup", "1.5", "--max-drift", "0.1", "--metric", "m:f", "--task", "regression")
    ran = command(*AUDIT, *flags, "--html", "r.html")
    assert (ran.code, ran.out.splitlines()[1:]) == (0, ["AUDIT passed=True", "wrote r.html"])
    assert ran.out.startswith("task   classifier of 2 classes, damage is KL; y: rows look like logits;")
    (a, b, data), given = api.calls["audit"]
    assert (a, b, len(data)) == ("a.onnx", "b.onnx", 3)
    assert given == {
        "engine": None,
        "engine_b": None,
        "cuda_graph": False,
        "threads": 1,
        "min_speedup": 1.5,
        "max_drift": 0.1,
        "metric": "m:f",
        "task": "regression",
        "fitted_on": None,
        "seed": 0,
    }
    assert Path("r.html").exists()


def test_audit_learns_from_a_plan_which_samples_are_known(command, api) -> None:
    sketch = Sketch(1, 1, frozenset([bytes(6)]))
    Path("plan.json").write_text(f'{{"calibration": {{"samples": "{sketch}"}}}}')
    assert command(*AUDIT, "--plan", "plan.json").code == 0
    assert api.calls["audit"][1]["fitted_on"] == sketch


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "plan.json: cannot be read (No such file or directory); give a plan file"),
        ("{", "plan.json: is no plan; give a file that otgraph plan wrote"),
        ("[]", "plan.json: is no plan; give a file that otgraph plan wrote"),
        (
            '{"calibration": null}',
            "plan.json: does not tell which samples it was made with; make the plan again",
        ),
        ('{"calibration": {"samples": "2"}}', "plan.json: does not tell which samples it was made with"),
    ],
)
def test_a_plan_that_does_not_tell_is_refused(command, api, text: str | None, message: str) -> None:
    if text is not None:
        Path("plan.json").write_text(text)
    ran = command(*AUDIT, "--plan", "plan.json")
    assert ran.code == 2 and ran.err.startswith(f"error: {message}")
    assert "audit" not in api.calls


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


def test_the_catalog_lists_passes_and_pipelines(command) -> None:
    document = command("passes", "--json").document
    assert "fold-batch-norm" in [page["name"] for page in document["passes"]]
    assert document["pipelines"]["simplify"] == "fold-batch-norm,fuse-linear,cleanup"
    assert "simplify: fold-batch-norm,fuse-linear,cleanup" in command("passes").out


def test_build_writes_an_artifact(command, api) -> None:
    ran = command("build", "net.onnx", "-o", "net.engine", "--engine", "onnxruntime")
    assert (ran.code, ran.out) == (0, "missed: e: y: stays\nwrote net.engine (5 B, 3 layers) in 1.3 s\n")
    assert "analysis: e: x: a fact" in command("build", "net.onnx", "-o", "net.engine", "--remarks").out
    document = command("build", "net.onnx", "-o", "net.engine", "--json").document
    assert (document["bytes"], document["layers"], document["engine_layers"]) == (5, 3, None)


def test_build_reads_its_options(command, api) -> None:
    ran = command(
        *("build", "net.onnx", "-o", "net.engine", "--engine", "tensorrt-rtx", "--precision", "int8"),
        *("--compute-capability", "8.6,89", "--calib", "calib.npz", "--samples", "3", "--layers", "l.json"),
        *("--min-shape", "x=1,3", "--max-shape", "x=8,3"),
    )
    assert ran.code == 0, ran.err
    (model, _), given = api.calls["build"]
    options = given["options"]
    assert str(model) == "net.onnx" and given["precision"] == "int8" and len(given["calibration"]) == 3
    assert options.compute_capabilities == (86, 89) and not options.tf32
    assert options.shapes == {"x": ShapeRange((1, 3), (1, 3), (8, 3))}
    assert json.loads(Path("l.json").read_text())["network"][0]["nodes"] == ["n"]


def test_tf32_is_fp32_that_may_be_rounded(command, api) -> None:
    assert command("build", "net.onnx", "-o", "net.engine", "--precision", "tf32").code == 0
    _, given = api.calls["build"]
    assert given["precision"] == "fp32" and given["options"].tf32


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--compute-capability", "ada"), "--compute-capability ada: give numbers such as 86,89,120"),
        (("--min-shape", "x"), "--min-shape x: write the input's name and sizes, such as image=1,3,224,224"),
        (
            ("--min-shape", "x=8,3", "--max-shape", "x=1,3"),
            "shapes 8,3 8,3 1,3: are not in ascending order; give min, opt, max",
        ),
        (
            ("--opt-shape", "x=1", "--max-shape", "x=1,3"),
            "shapes 1 1 1,3: have different numbers of axes; give them alike",
        ),
        (
            ("--engine", "openvino", "--shape", "x=1,3", "--max-shape", "x=1,3"),
            "--shape x: is given beside a range of it; keep one",
        ),
    ],
)
def test_build_refuses_options_that_make_no_sense(command, api, flags: tuple[str, ...], message: str) -> None:
    ran = command("build", "net.onnx", "-o", "net.engine", *flags)
    assert (ran.code, ran.err) == (2, f"error: {message}\n")
    assert not Path("net.engine").exists()


def test_bench_measures_one_model(command, api) -> None:
    ran = command("bench", "net.onnx", "--threads", "2", "--shape", "x=1,3")
    assert ran.out == "net.onnx: 1.23 ms [1.1, 1.3] (CPU time), here, 2 threads\n"
    (models, data), given = api.calls["bench_all"]
    assert models == ["net.onnx"] and data is None and given["shapes"] == {"x": (1, 3)}
    assert given["engine"] is None and not given["cuda_graph"]
    assert command("bench", "net.onnx", "--json").document["artifacts"][0]["latency"]["ms"] == 1.234


def test_bench_holds_several_models_against_the_first(command, api) -> None:
    ran = command("bench", "a.onnx", "b.xml", "--engine", "openvino", "--cuda-graph")
    assert [line.split() for line in ran.out.splitlines()] == [
        ["model", "engine", "ms", "(CPU", "time)", "against", "the", "first"],
        ["a.onnx", "here", "1.23", "[1.1,", "1.3]"],
        ["b.xml", "here", "1.23", "[1.1,", "1.3]", "0.500x", "[0.400,", "0.600]"],
    ]
    _, given = api.calls["bench_all"]
    assert given["engine"] == "openvino" and given["cuda_graph"]


def test_engines_says_what_runs_here_and_why_the_rest_does_not(command) -> None:
    ran = command("engines")
    lines = {line.split()[0]: line for line in ran.out.splitlines() if line and not line.startswith(" ")}
    assert set(ENGINES) <= set(lines) and " yes " in lines["onnxruntime"]
    document = command("engines", "--json").document
    for each in document["engines"]:
        assert each["runs"] is None or len(each["runs"]) > 10, each
