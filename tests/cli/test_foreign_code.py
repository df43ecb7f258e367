"""Callables of the user that fail in any way: one error line that names them and their line, exit code 2."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from otgraph import data_bounds
from otgraph.cli.main import run_command
from otgraph.data_sources import load_data
from otgraph.errors import DataError

CODE = """import itertools, sys
import numpy as np
class Stop(BaseException): pass
def leaves(*a): sys.exit(0)
def leaves_with_text(*a): sys.exit('bye')
def stops(*a): raise Stop('two\\nlines')
def unprintable(*a):
    class Mute(Exception):
        def __str__(self): raise RuntimeError
    raise Mute
def deep(*a): return deep(*a)
def indirect(*a): return np.broadcast_shapes((2,), (3,))
def long(*a): raise ValueError('x' * 5000)
def interrupted(*a): raise KeyboardInterrupt
def late():
    yield np.zeros((1, 3), np.float32)
    sys.exit(0)
def exhausted():
    yield np.zeros((1, 3), np.float32)
    raise MemoryError
class Hostile:
    def __array__(self, *a, **k): sys.exit(0)
    def __iter__(self): sys.exit(0)
def hostile_batch(): return [Hostile()]
def hostile_iterator(): return Hostile()
def nothing(*a): return None
def nan(*a): return float('nan')
class Odd:
    def __float__(self): sys.exit(0)
    def __repr__(self): sys.exit(0)
def odd(*a): return Odd()
def no_inputs():
    import torch
    return torch.nn.Linear(3, 2), None
def failing_forward():
    import torch
    class Net(torch.nn.Module):
        def forward(self, x): sys.exit(0)
    return Net(), torch.zeros(2, 3)
def without_end():
    return (np.zeros((10, 3), np.float32) for _ in itertools.count())
def reused():
    array = np.zeros((1, 3), np.float32)
    for number in range(3):
        array[:] = number
        yield array
def __getattr__(name):
    if name == 'dynamic': sys.exit(0)
    raise AttributeError(name)
"""
MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3] x) => (float[N,2] y) {
    y = MatMul (x, w)
}"""
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in a folder that holds the functions and a small model; returns code and errors."""
    monkeypatch.chdir(tmp_path)
    Path("foreign_functions.py").write_text(CODE)
    Path("leaving_module.py").write_text("import sys\n\nsys.exit(0)\n")
    Path("broken_module.py").write_text("x = (\n")
    Path("empty_module.py").write_text("")
    for name in ("foreign_functions", "leaving_module", "broken_module", "empty_module"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    model = parser.parse_model(MODEL)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 2), np.float32), "w"))
    onnx.save(model, "net.onnx")
    np.savez("calib.npz", x=np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))

    def run(*arguments: str) -> tuple[int, str]:
        code = run_command(arguments)
        return code, capsys.readouterr().err

    return run


def line(function: str) -> str:
    """``file:line`` of a function that is written on one line, or starts there."""
    lines = CODE.splitlines()
    return f"foreign_functions.py:{1 + next(i for i, text in enumerate(lines) if f'def {function}(' in text)}"


EVERYWHERE = {
    "leaves": "SystemExit: 0",
    "leaves_with_text": "SystemExit: bye",
    "stops": "Stop: two lines",
    "deep": "RecursionError: maximum recursion depth",
    "indirect": "ValueError: shape mismatch",
    "long": "x…",
}


def refused(ran: tuple[int, str], *parts: str) -> None:
    code, err = ran
    lines = err.splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), (code, err)
    assert all(part in err for part in parts), err
    assert "a mistake of otgraph" not in err and len(err) < 600
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize("name", EVERYWHERE)
@pytest.mark.parametrize("role", ["model", "data", "metric"])
def test_a_callable_that_fails(command: Command, role: str, name: str) -> None:
    spec = f"foreign_functions:{name}"
    calls = {
        "model": ("inspect", spec),
        "data": ("run", "net.onnx", "-p", "cleanup", "--calib", spec, "-o", "out.onnx"),
        "metric": ("audit", "net.onnx", "net.onnx", "--data", "calib.npz", "--metric", spec),
    }
    refused(command(*calls[role]), spec, "raised ", EVERYWHERE[name], f"({line(name)}); mend it")


def test_an_exception_that_cannot_be_printed(command: Command) -> None:
    refused(command("inspect", "foreign_functions:unprintable"), "raised Mute (foreign_functions.py:")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("leaving_module:f", ("importing leaving_module failed: SystemExit: 0 (leaving_module.py:3); mend",)),
        ("broken_module:f", ("importing broken_module failed: SyntaxError: ", "(broken_module.py:1); mend")),
        ("foreign_functions:dynamic", ("reading dynamic raised SystemExit: 0 (foreign_functions.py:",)),
        ("empty_module:f", ("empty_module:f: empty_module has no f; name a function",)),
    ],
)
@pytest.mark.parametrize("role", ["model", "data", "metric"])
def test_a_module_that_fails(command: Command, role: str, spec: str, parts: tuple[str, ...]) -> None:
    calls = {
        "model": ("inspect", spec),
        "data": ("run", "net.onnx", "-p", "cleanup", "--calib", spec, "-o", "out.onnx"),
        "metric": ("audit", "net.onnx", "net.onnx", "--data", "calib.npz", "--metric", spec),
    }
    refused(command(*calls[role]), f"{spec}: ", *parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("late", ("raised SystemExit: 0 (foreign_functions.py:",)),
        ("exhausted", ("raised MemoryError (foreign_functions.py:",)),
        ("hostile_batch", ("batch 0: raised SystemExit: 0 (foreign_functions.py:", "; yield plain arrays")),
        ("hostile_iterator", ("raised SystemExit: 0 (foreign_functions.py:",)),
        ("nothing", ("returns a NoneType; return or yield batches",)),
    ],
)
def test_data_that_fails_late(command: Command, name: str, parts: tuple[str, ...]) -> None:
    spec = f"foreign_functions:{name}"
    refused(command("run", "net.onnx", "-p", "cleanup", "--calib", spec, "-o", "out.onnx"), spec, *parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("nothing", ("returns a NoneType; return (module, example_inputs) or (",)),
        ("no_inputs", ("example inputs: are a NoneType; give a tensor, or a tuple of the arguments",)),
        ("failing_forward", ("Net: ", "SystemExit: 0 (foreign_functions.py:")),
    ],
)
def test_a_model_that_is_none(command: Command, name: str, parts: tuple[str, ...]) -> None:
    refused(command("inspect", f"foreign_functions:{name}"), f"foreign_functions:{name}", *parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("nothing", ("gave None; return a number",)),
        ("nan", ("gave nan; return a number",)),
        ("odd", ("gave a Odd; return a number",)),
    ],
)
def test_a_metric_that_gives_no_number(command: Command, name: str, parts: tuple[str, ...]) -> None:
    spec = f"foreign_functions:{name}"
    refused(command("audit", "net.onnx", "net.onnx", "--data", "calib.npz", "--metric", spec), spec, *parts)


def test_an_interrupt_stays_one(command: Command) -> None:
    for arguments in (
        ("inspect", "foreign_functions:interrupted"),
        ("run", "net.onnx", "-p", "cleanup", "--calib", "foreign_functions:interrupted", "-o", "out.onnx"),
        ("audit", "net.onnx", "net.onnx", "--data", "calib.npz", "--metric", "foreign_functions:interrupted"),
    ):
        code, err = command(*arguments)
        assert code == 130 and err == "error: interrupted; nothing is left half-written\n"


def test_an_iterator_without_end_is_bounded(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_bounds, "MOST_SAMPLES", 1000)
    spec = "foreign_functions:without_end"
    text = f"{spec}: yields more than 1000 samples, perhaps without end; stop after as many as are needed"
    refused(command("run", "net.onnx", "-p", "cleanup", "--calib", spec, "-o", "out.onnx"), text)
    monkeypatch.setattr(data_bounds, "machine_memory", lambda: 10_000)
    with pytest.raises(DataError, match=r"yields more than 5e-06 GB, half of the memory, in 420 samples"):
        load_data(spec)


def test_the_bounds_are_generous() -> None:
    assert data_bounds.MOST_SAMPLES >= 1_000_000
    assert data_bounds.machine_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_generator_may_fill_one_array_again(command: Command) -> None:
    data = load_data("foreign_functions:reused")
    assert [float(chunk.arrays[""][0, 0]) for chunk in data.chunks] == [0, 1, 2]


def test_code_that_ends_the_process_elsewhere(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in, say: no exit code of its own, whatever it asks for."""
    for code in (0, 1, "text"):
        monkeypatch.setattr("otgraph.api.load_model", lambda *_, code=code: sys.exit(code))
        ran = command("inspect", "net.onnx")
        refused(ran, f"SystemExit: {code} (", "test_foreign_code.py:", "a command is never ended by sys.exit")


def test_itertools_are_fine(command: Command) -> None:
    Path("empty_module.py").write_text(
        "import itertools, numpy\n"
        "def f(): return itertools.islice(itertools.repeat(numpy.ones((2, 3), 'float32')), 5)\n"
    )
    assert len(load_data("empty_module:f")) == len(list(itertools.islice(itertools.count(), 10)))
