"""Unusable input to the commands beside ``optimize``, and interrupted runs: a clear error and no output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from otgraph.cli.main import run_command
from otgraph.sample import calibration_path, model_path

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,6,6] image) => (float[N,4] logits) {
    c = Conv <pads = [1, 1, 1, 1]> (image, w)
    r = Relu (c)
    a = GlobalAveragePool (r)
    f = Flatten (a)
    logits = Gemm <transB = 1> (f, u)
}"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in a folder with a model, its plan, and DATA; returns code, output and errors."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    model = parser.parse_model(MODEL)
    for name, shape in {"w": (16, 3, 3, 3), "u": (4, 16)}.items():
        model.graph.initializer.append(
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        )
    onnx.save(model, "net.onnx")
    np.savez("calib.npz", image=rng.normal(size=(12, 3, 6, 6)).astype(np.float32))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(arguments)
        return code, *capsys.readouterr()

    return run


def bad_data(kind: str) -> None:
    image = np.load("calib.npz")["image"]
    arrays = {
        "name": {"picture": image, "other": image},
        "shape": {"image": image[:, :, :5]},
        "type": {"image": image.astype(np.float64) * 1e300},
        "empty": {"image": image[:0]},
        "nan": {"image": np.where(image > 2, np.float32(np.nan), image)},
        "infinite": {"image": np.where(image > 2, np.float32(np.inf), image)},
    }
    np.savez("bad.npz", **arrays[kind])


DATA = {
    "name": "bad.npz: no array for input 'image' (has: other, picture); rename it",
    "shape": "bad.npz: image: has shape (…, 3, 5, 6), the model wants (N, 3, 6, 6)",
    "type": " in sample 0 is float64, and no such number is float32, which the model wants; mend or",
    "empty": "bad.npz: is empty (no samples); give at least one",
    "nan": "NaN in sample 0; remove or mend it",
    "infinite": "infinite values in sample 0; remove or mend it",
}
COMMANDS = {
    "plan": ("plan", "net.onnx", "--calib", "bad.npz", "--keep", "0.5", "-o", "out.json"),
    "apply": ("apply", "net.onnx", "plan.json", "--calib", "bad.npz", "-o", "out.onnx"),
    "run": ("run", "net.onnx", "-p", "annotate-width", "--calib", "bad.npz", "-o", "out.onnx"),
    "audit": ("audit", "net.onnx", "net.onnx", "--data", "bad.npz", "--html", "out.html"),
    "optimize --data": (
        *("optimize", "net.onnx", "--calib", "calib.npz", "--data", "bad.npz", "--keep", "0.5"),
        *("-o", "out.onnx"),
    ),
}


def refused(ran: tuple[int, str, str], message: str) -> None:
    code, _, err = ran
    assert code == 2, err
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], err
    assert "a mistake of otgraph" not in err
    assert not list(Path().glob("out*")) and not list(Path().glob(".*.tmp"))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("kind", DATA)
def test_data_that_does_not_fit(command: Command, name: str, kind: str) -> None:
    if name == "apply":
        command("plan", "net.onnx", "--calib", "calib.npz", "--keep", "0.5", "-o", "plan.json")
    bad_data(kind)
    refused(command(*COMMANDS[name]), DATA[kind])


MODELS: dict[str, tuple[Callable[[], object], str]] = {
    "missing": (lambda: Path("net.onnx").unlink(), "net.onnx: "),
    "a folder": (lambda: (Path("net.onnx").unlink(), Path("net.onnx").mkdir()), "net.onnx: "),
    "truncated": (lambda: os.truncate("net.onnx", 150), "net.onnx: "),
    "empty": (lambda: Path("net.onnx").write_bytes(b""), "net.onnx: "),
    "a text": (lambda: Path("net.onnx").write_text("not a model at all\n" * 9), "net.onnx: "),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["inspect", "bench", "build", "run", "audit", "plan"])
def test_models_that_cannot_be_read(command: Command, kind: str, name: str) -> None:
    spoil, message = MODELS[kind]
    spoil()
    calls = {
        "inspect": ("inspect", "net.onnx"),
        "bench": ("bench", "net.onnx"),
        "build": ("build", "net.onnx", "-o", "out.onnx"),
        "run": ("run", "net.onnx", "-p", "cleanup", "-o", "out.onnx"),
        "audit": ("audit", "net.onnx", "net.onnx", "--data", "calib.npz"),
        "plan": ("plan", "net.onnx", "--calib", "calib.npz", "--keep", "0.5", "-o", "out.json"),
    }
    refused(command(*calls[name]), message)


def spoil_for_audit() -> None:
    """Files and functions that cannot be audited, beside those of the fixture."""
    other = onnx.load("net.onnx")
    other.graph.input[0].name = other.graph.node[0].input[0] = "pixels"
    onnx.save(other, "inputs.onnx")
    fewer = onnx.load("net.onnx")
    fewer.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones((3, 16), np.float32), "u"))
    del fewer.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(fewer, "other.onnx")
    Path("text.onnx").write_text("no model")
    Path("text.pt2").write_text("no program")
    Path("folder.onnx").mkdir()
    functions = "def fails(*a):\n    raise RuntimeError('on purpose')\ndef word(*a):\n    return 'good'\n"
    Path("spoilt_functions.py").write_text(functions)
    sys.modules.pop("spoilt_functions", None)  # that of another test
    np.savez("labels.npz", image=np.load("calib.npz")["image"], labels=np.full(12, 9))


AUDITS = {
    "no A": (("none.onnx", "net.onnx"), "none.onnx: no such file; check the path"),
    "no B": (("net.onnx", "none.onnx"), "none.onnx: no such file; check the path"),
    "no program": (("net.onnx", "none.pt2"), "none.pt2: no such file; check the path"),
    "no engine file": (("net.onnx", "none.engine"), "none.engine: no such file; check the path"),
    "a folder": (("net.onnx", "folder.onnx"), "folder.onnx: is a folder; give an .onnx file"),
    "a text": (("net.onnx", "text.onnx"), "; export it again or check its files"),
    "a text as program": (
        ("net.onnx", "text.pt2"),
        "text.pt2: is no exported program, or is cut short; write it with torch.export.save",
    ),
    "no kind of model": (("net.onnx", "calib.npz"), "no .pt2 file and no package.module:callable; give one"),
    "a callable that fails": (
        ("net.onnx", "spoilt_functions:fails"),
        "spoilt_functions.py:2); mend it: it is called without arguments",
    ),
    "a callable without a model": (
        ("net.onnx", "spoilt_functions:word"),
        "returns a str; return (module, example_inputs)",
    ),
    "other inputs": (("net.onnx", "inputs.onnx"), "; compare models of the same inputs"),
    "other outputs": (("net.onnx", "other.onnx"), "; compare models of the same outputs"),
    "no data": (("net.onnx", "net.onnx", "--data", "none.npz"), "none.npz: no such file or folder; give an"),
    "labels of other classes": (
        ("net.onnx", "net.onnx", "--data", "labels.npz"),
        "labels: 9 is no class of output 'logits' (4 classes); number them from 0",
    ),
    "no metric": (("net.onnx", "net.onnx", "--metric", "mine"), "write it as package.module:callable"),
    "a metric that fails": (
        ("net.onnx", "net.onnx", "--metric", "spoilt_functions:fails"),
        "spoilt_functions.py:2); mend it: it is called with (outputs, labels)",
    ),
    "a metric without a number": (
        ("net.onnx", "net.onnx", "--metric", "spoilt_functions:word"),
        "gave 'good'; return a number",
    ),
    "no engine": (("net.onnx", "net.onnx", "--engine", "warp"), "engine 'warp': unknown; choose one of: "),
    "no folder for the report": (
        ("net.onnx", "net.onnx", "--html", "no/out.html"),
        "no/out.html: the folder no does not exist; create it first",
    ),
}


@pytest.mark.parametrize("kind", AUDITS)
def test_what_cannot_be_audited_is_said_with_what_to_do(command: Command, kind: str) -> None:
    spoil_for_audit()
    arguments, message = AUDITS[kind]
    data = () if "--data" in arguments else ("--data", "calib.npz")
    refused(command("audit", *arguments, *data), message)


OPTIMIZE = ("optimize", "net.onnx", "--calib", "calib.npz", "--keep", "0.5", "-o")
OUTPUTS = {
    "in a folder that is not there": (
        (*OPTIMIZE, "no/out.onnx"),
        "no/out.onnx: the folder no does not exist",
    ),
    "onto a folder": ((*OPTIMIZE, "place.onnx"), "place.onnx: is a folder; give a file name"),
    "inside a file": ((*OPTIMIZE, "calib.npz/out.onnx"), "the folder calib.npz does not exist"),
    "in no writable place": ((*OPTIMIZE, "/proc/out.onnx"), "/proc/out.onnx: cannot write into /proc"),
    "a report": ((*OPTIMIZE, "out.onnx", "--report", "no/r.html"), "no/r.html: the folder no does not exist"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_that_cannot_be_written(command: Command, kind: str) -> None:
    Path("place.onnx").mkdir()
    arguments, message = OUTPUTS[kind]
    refused(command(*arguments), message)


PLANS: dict[str, tuple[Callable[[dict[str, object]], object], str]] = {
    "an unknown field": (lambda d: {**d, "color": "red"}, "plan.json: "),
    "a missing field": (lambda d: {k: v for k, v in d.items() if k != "dims"}, "plan.json: "),
    "another version": (lambda d: {**d, "version": 99}, "plan.json: "),
    "an unknown pass": (lambda d: {**d, "pipeline": "shrink-ray"}, "no pass is called 'shrink-ray'"),
    "no object": (lambda d: [d], "plan.json: "),
}


@pytest.mark.parametrize("kind", PLANS)
def test_plans_that_cannot_be_used(command: Command, kind: str) -> None:
    command("plan", "net.onnx", "--calib", "calib.npz", "--keep", "0.5", "-o", "plan.json")
    change, message = PLANS[kind]
    Path("plan.json").write_text(json.dumps(change(json.loads(Path("plan.json").read_text()))))
    refused(command("apply", "net.onnx", "plan.json", "-o", "out.onnx"), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*OPTIMIZE, "out.onnx", "--color", "red"), "No such option: --color"),
        ((*OPTIMIZE, "out.onnx", "--samples", "0"), "Invalid value for '--samples'"),
        ((*OPTIMIZE, "out.onnx", "--dims", "outer"), "Invalid value for '--dims'"),
        (("optimizer", "net.onnx"), "No such command 'optimizer'"),
        (("optimize", "net.onnx", "--keep", "0.5", "-o", "out.onnx"), "Missing option '--calib'"),
    ],
)
def test_unknown_options(command: Command, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "") and message in re.sub(r"[^\x20-\x7e]+\s*", " ", err)
    assert not list(Path().glob("out*"))


def test_some_of_the_samples_are_used(command: Command) -> None:
    code, out, _ = command(*OPTIMIZE, "out.onnx", "--samples", "8", "--plan-out", "p.json", "--seed", "3")
    assert code in (0, 1) and "calib  calib.npz: 8 samples" in out
    assert json.loads(Path("p.json").read_text())["calibration"]["count"] == 8
    code, out, _ = command("apply", "net.onnx", "p.json", "-o", "again.onnx", "--remarks")
    assert code == 0 and "left out" not in out


def test_a_missed_budget_is_said_and_exits_with_1(command: Command) -> None:
    arguments = ("optimize", "net.onnx", "--calib", "calib.npz", "--latency", "0.0001ms", "-o", "out.onnx")
    code, out, err = command(*arguments)
    if code == 2:  # the prediction already knows that nothing reaches it
        assert "out of reach" in err and not Path("out.onnx").exists()
    else:
        assert code == 1 and re.search(r"missed: .*0\.0001ms was asked for|no credible gain", out)


def test_the_json_of_optimize_names_no_temporary_file(command: Command) -> None:
    code, out, _ = command(*OPTIMIZE, "out.onnx", "--json")
    document = json.loads(out)
    assert code in (0, 1) and document["audit"]["a"]["path"] == "net.onnx"
    assert "/otgraph-" not in out


# interrupted runs


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    arguments = ("optimize", str(model_path()), "--calib", str(calibration_path()), "--latency", "0.6x")
    outputs = ("-o", "out.onnx", "--plan-out", "plan.json", "--report", "report.html")
    process = subprocess.Popen(
        [sys.executable, "-c", "from otgraph.cli.main import main; main()", *arguments, *outputs],
        cwd=tmp_path,
        env={**os.environ, "OTGRAPH_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell lets what it runs in the background ignore SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: bool(list(tmp_path.glob("cache/*"))) or process.poll() is not None)
    assert process.poll() is None, process.stderr and process.stderr.read()
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    if how is signal.SIGINT:
        assert (process.returncode, err) == (130, "error: interrupted; nothing is left half-written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    for saved in tmp_path.glob("cache/trials-*.json"):
        assert json.loads(saved.read_text())  # whole, so the next run goes on from it


def wait_for(happened: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert happened()
