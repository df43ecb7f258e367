"""What commands say of files and inputs is so: names of reports, what stands where a file should, samples."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from otgraph.cli.main import run_command
from otgraph.errors import PlanError
from otgraph.plan.plan import Plan

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,6] x) => (float[N,4] y) {
    h = Gemm <transB = 1> (x, w)
    r = Relu (h)
    y = Gemm <transB = 1> (r, u)
}"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in a folder with ``net.onnx``, ``calib.npz`` (24 samples) and the same in ``wide.npz`` as
    float64; returns code, output and errors."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    proto = parser.parse_model(MODEL)
    for name, shape in {"w": (16, 6), "u": (4, 16)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype("f4"), name))
    onnx.save(proto, "net.onnx")
    x = rng.normal(size=(24, 6)).astype(np.float32)
    np.savez("calib.npz", x=x)
    np.savez("wide.npz", x=x.astype(np.float64))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(arguments)
        return code, *capsys.readouterr()

    return run


PLAN = ("plan", "net.onnx", "--keep", "0.5", "-o", "plan.json", "--calib")


def test_the_report_names_the_files_that_there_are(command: Command) -> None:
    what = ("net.onnx", "--calib", "calib.npz", "--keep", "0.5", "-o", "small.onnx", "--report", "r.html")
    code, out, err = command("optimize", *what)
    assert code == 0, err
    page = Path("r.html").read_text()
    assert "A net.onnx" in page and ".optimized.onnx" not in page + out
    if "wrote small.onnx" in out:  # as the clock has it
        assert "B small.onnx" in page
    else:
        assert "B net, optimized (not written)" in page


@pytest.mark.parametrize(
    ("asked", "said"), [("9999", "24 samples, of 9,999 asked for"), ("8", "8 samples\n")]
)
def test_samples_that_are_not_there_are_said(command: Command, asked: str, said: str) -> None:
    code, out, _ = command(*PLAN, "calib.npz", "--samples", asked)
    assert code == 0 and f"calib  calib.npz: {said}" in out
    code, out, _ = command("inspect", "net.onnx", "--calib", "calib.npz", "--samples", asked)
    assert code == 0 and f"calib  calib.npz: {said}" in out


NOTE = "note: wide.npz: x: float64, converted to float32 as the model wants it\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (*PLAN, "wide.npz"),
        ("inspect", "net.onnx", "--calib", "wide.npz"),
        ("audit", "net.onnx", "net.onnx", "--data", "wide.npz"),
        ("bench", "net.onnx", "--data", "wide.npz"),
        ("build", "net.onnx", "--precision", "int8", "--calib", "wide.npz", "-o", "int8.onnx"),
        ("run", "net.onnx", "-p", "annotate-width", "--calib", "wide.npz", "-o", "out.onnx"),
    ],
)
def test_float64_is_converted_and_said_once(command: Command, arguments: tuple[str, ...]) -> None:
    code, _, err = command(*arguments)
    assert code == 0 and err == NOTE


def test_a_plan_made_on_float64_finds_its_inputs_again(command: Command) -> None:
    assert command(*PLAN, "wide.npz")[0] == 0
    code, out, err = command("apply", "net.onnx", "plan.json", "-o", "out.onnx")
    assert (code, err) == (0, NOTE) and "left out" not in out
    assert command(*PLAN, "calib.npz")[0] == 0
    code, _, err = command("apply", "net.onnx", "plan.json", "-o", "same.onnx")
    assert (code, err) == (0, "")


KINDS = {"FIFO": "a FIFO (a named pipe)", "socket": "a socket", "device": "a device"}


@pytest.fixture
def special() -> Iterator[Callable[[str, str], None]]:
    """Puts something at a path that is no file."""
    sockets: list[socket.socket] = []

    def make(kind: str, path: str) -> None:
        if kind == "FIFO":
            os.mkfifo(path)
        elif kind == "device":
            os.symlink(os.devnull, path)
        else:
            sockets.append(socket.socket(socket.AF_UNIX))
            sockets[-1].bind(path)

    yield make
    for each in sockets:
        each.close()


READS = {
    "model": ("inspect", "it.onnx"),
    "program": ("inspect", "it.pt2"),
    "data": (*PLAN, "it.npz"),
    "data in a folder": (*PLAN, "folder"),
    "plan": ("apply", "net.onnx", "it.json", "-o", "out.onnx"),
    "plan of an audit": ("audit", "net.onnx", "net.onnx", "--data", "calib.npz", "--plan", "it.json"),
    "audited": ("audit", "it.onnx", "net.onnx", "--data", "calib.npz"),
    "measured": ("bench", "it.onnx"),
    "engine": ("bench", "it.engine"),
}
PATHS = {"program": "it.pt2", "data": "it.npz", "data in a folder": "folder/it.npz", "engine": "it.engine"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READS)
def test_what_is_no_file_is_called_what_it_is(
    command: Command, special: Callable[[str, str], None], name: str, kind: str
) -> None:
    path = PATHS.get(name, "it.json" if "plan" in name else "it.onnx")
    Path(path).parent.mkdir(exist_ok=True)
    special(kind, path)
    code, _, err = command(*READS[name])
    assert code == 2 and f"{path}: is {KINDS[kind]}; give " in err and err.count("\n") == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ((*PLAN[:-2], "it.json", "--calib", "calib.npz"), "it.json"),
        (("run", "net.onnx", "-p", "cleanup", "-o", "it.onnx"), "it.onnx"),
    ],
)
def test_what_is_no_file_is_not_replaced_by_one(
    command: Command,
    special: Callable[[str, str], None],
    arguments: tuple[str, ...],
    path: str,
    kind: str,
) -> None:
    special(kind, path)
    code, _, err = command(*arguments)
    assert code == 2 and err == f"error: {path}: is {KINDS[kind]}; give a file name\n"
    assert not Path(path).is_file()


def test_python_does_not_wait_at_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plan.json")
    with pytest.raises(
        PlanError, match=r"plan\.json: is a FIFO \(a named pipe\); give a file that otgraph plan"
    ):
        Plan.load(tmp_path / "plan.json")
