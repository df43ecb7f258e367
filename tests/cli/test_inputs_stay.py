"""No command, and no method that writes, replaces what it was made from, by a side file or a link."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, numpy_helper, parser

import otgraph.api as otg
from otgraph.cli.main import run_command
from otgraph.errors import OutputError

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,6] x) => (float[N,4] y) {
    h = Gemm <transB = 1> (x, w)
    r = Relu (h)
    y = Gemm <transB = 1> (r, u)
}"""

Command = Callable[..., tuple[int, str]]


def _model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    proto = parser.parse_model(MODEL)
    for name, shape in {"w": (64, 6), "u": (4, 64)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype("f4"), name))
    return proto


def write_apart(path: str, location: str) -> None:
    """The model in ``path`` with its weights in ``location``."""
    proto = _model()
    external_data_helper.convert_model_to_external_data(proto, location=location, size_threshold=0)
    onnx.save(proto, path)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with ``whole.onnx``, ``apart.onnx`` (weights in ``weights.html``) and ``calib.npz``, all of
    which are as they were when the test is over."""
    monkeypatch.chdir(tmp_path)
    onnx.save(_model(), "whole.onnx")
    write_apart("apart.onnx", "weights.html")
    np.savez("calib.npz", x=np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    yield tmp_path
    assert {path: path.read_bytes() for path in before} == before


@pytest.fixture
def command(place: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str]:
        return run_command(arguments), capsys.readouterr().err

    return run


KEEP = ("--calib", "calib.npz", "--keep", "0.5")
ONTO = {
    "optimize": ("optimize", "apart.onnx", *KEEP, "-o", "new.onnx", "--report"),
    "optimize, plan": ("optimize", "apart.onnx", *KEEP, "-o", "new.onnx", "--plan-out"),
    "plan": ("plan", "apart.onnx", *KEEP, "-o"),
    "audit, A": ("audit", "apart.onnx", "whole.onnx", "--data", "calib.npz", "--html"),
    "audit, B": ("audit", "whole.onnx", "apart.onnx", "--data", "calib.npz", "--html"),
    "build": ("build", "apart.onnx", "-o", "new.onnx", "--layers"),
}
READER = {"audit, A": "A", "audit, B": "B"}


@pytest.mark.parametrize("name", ONTO)
@pytest.mark.parametrize("spelling", ["weights.html", "./weights.html", "link.html", "WEIGHTS.html"])
def test_the_weights_beside_a_model_stay(command: Command, name: str, spelling: str) -> None:
    os.symlink("weights.html", "link.html")
    os.link("weights.html", "WEIGHTS.html")  # as a file system shows it that does not tell case
    code, err = command(*ONTO[name], spelling)
    shown = Path(spelling)
    assert (code, err) == (
        2,
        f"error: {shown}: is what {READER.get(name, 'MODEL')} reads; give another name\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimize", "it.onnx", *KEEP, "-o", "new.onnx"),
        ("run", "it.onnx", "-p", "cleanup", "-o", "new.onnx"),
        ("apply", "it.onnx", "plan.json", "-o", "new.onnx"),
    ],
)
def test_what_is_written_beside_an_output_replaces_no_weights(
    command: Command, arguments: tuple[str, ...]
) -> None:
    write_apart("it.onnx", "new.onnx.data")
    before = Path("new.onnx.data").read_bytes()
    code, err = command(*arguments)
    assert code == 2 and Path("new.onnx.data").read_bytes() == before and not Path("new.onnx").exists()
    assert err == (
        "error: new.onnx.data: is what MODEL reads, which the weights of new.onnx may be written to;"
        " give another name\n"
    )


def test_the_weights_of_an_engine_replace_none_of_the_model(command: Command) -> None:
    write_apart("it.onnx", "it.bin")
    before = Path("it.bin").read_bytes()
    code, err = command("build", "it.onnx", "--engine", "openvino", "-o", "it.xml")
    assert code == 2 and "it.bin: is what MODEL reads, which the weights of it.xml may be" in err
    assert Path("it.bin").read_bytes() == before


@pytest.mark.parametrize("other", ["NEW.onnx", "./new.onnx", "New.Onnx"])
def test_two_outputs_are_two_files_wherever_case_does_not_count(command: Command, other: str) -> None:
    code, err = command("optimize", "whole.onnx", *KEEP, "-o", "new.onnx", "--plan-out", other)
    assert code == 2 and "is one file for two outputs; give each its own name" in err


def test_other_files_may_be_replaced(command: Command) -> None:
    Path("new.onnx").write_bytes(b"an earlier result")
    Path("new.onnx.data").write_bytes(b"and its weights")
    code, err = command("run", "apart.onnx", "-p", "cleanup", "-o", "new.onnx")
    assert (code, err) == (0, "") and Path("new.onnx.data").stat().st_size > 1000


def test_a_failing_pass_is_not_saved_over_the_model(place: Path) -> None:
    graph = otg.load("whole.onnx")
    folder = place / "failing"
    folder.mkdir()
    os.link("whole.onnx", folder / "cleanup.onnx")
    with pytest.raises(OutputError, match="is what this was made from"):
        graph.save(folder / "cleanup.onnx")


ITSELF = r"is what this was made from; give another name \(or in Python, overwrite=True\)"


@pytest.mark.parametrize("target", ["whole.onnx", "./whole.onnx", "WHOLE.onnx"])
def test_a_graph_is_not_saved_over_its_file(place: Path, target: str) -> None:
    os.link("whole.onnx", "WHOLE.onnx")
    graph = otg.load("whole.onnx")
    for each in (graph, graph.copy(), replace(graph, name="other"), otg.run_pipeline(graph, "cleanup").graph):
        with pytest.raises(OutputError, match=ITSELF):
            each.save(target)


def test_a_graph_is_not_saved_over_its_weights(place: Path) -> None:
    write_apart("it.onnx", "new.onnx.data")
    before = Path("new.onnx.data").read_bytes()
    graph = otg.load("it.onnx")
    for target in ("new.onnx", "new.onnx.data", "it.onnx"):
        with pytest.raises(OutputError, match=ITSELF):
            graph.save(target)
    assert Path("new.onnx.data").read_bytes() == before and not Path("new.onnx").exists()
    graph.save("new.onnx", overwrite=True)
    x = graph.example[0]
    np.testing.assert_array_equal(otg.load("new.onnx")(x)[0], graph(x)[0])


def test_small_weights_are_not_looked_for_in_the_new_file_of_the_same_name(place: Path) -> None:
    write_apart("it.onnx", "it.onnx.data")
    graph = otg.load("it.onnx")
    (place / "other").mkdir()
    graph.save("other/it.onnx")
    x = graph.example[0]
    np.testing.assert_array_equal(otg.load("other/it.onnx")(x)[0], graph(x)[0])


def test_a_file_may_be_replaced_on_purpose(place: Path) -> None:
    Path("mine.onnx").write_bytes(Path("whole.onnx").read_bytes())
    graph = otg.load("mine.onnx")
    graph.save("mine.onnx", overwrite=True)
    assert otg.load("mine.onnx").tensors().keys() == graph.tensors().keys()


def test_a_plan_is_not_saved_over_its_file_nor_its_inputs(place: Path) -> None:
    plan = otg.make_plan(otg.load("whole.onnx"), otg.load_data("calib.npz"), keep=0.5)
    with pytest.raises(OutputError, match=f"calib.npz: {ITSELF}"):
        plan.save("calib.npz")
    plan.save("plan.json")
    plan.save("plan.json")
    again = otg.Plan.load("plan.json")
    with pytest.raises(OutputError, match=f"plan.json: {ITSELF}"):
        replace(again, seed=1).save("plan.json")
    replace(again, seed=1).save("plan.json", overwrite=True)
    assert otg.Plan.load("plan.json").seed == 1


@pytest.mark.parametrize("target", ["whole.onnx", "apart.onnx", "calib.npz", "./calib.npz"])
def test_a_report_is_not_saved_over_what_it_is_on(place: Path, target: str) -> None:
    report = otg.audit("whole.onnx", "apart.onnx", "calib.npz")
    with pytest.raises(OutputError, match=ITSELF):
        report.save_html(target)
    report.save_html("report.html")
    report.save_html("report.html")
