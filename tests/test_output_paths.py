"""Where an output goes: through links, under any name the system takes, and never over what is no file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from otgraph.cli.main import run_command
from otgraph.cli.options import check_outputs
from otgraph.errors import OutputError
from otgraph.files import check_writable, write_aside
from otgraph.graph.onnx.importer import load_onnx
from otgraph.graph.save import save_graph
from otgraph.sample import model_path


def write(path: Path) -> None:
    with write_aside(path) as aside:
        aside.write_text("whole")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_written_through(tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "far" / "target.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink() and target.read_text() == "whole"
    assert {path.name for path in (*tmp_path.iterdir(), *target.parent.iterdir())} == {
        "far",
        "link.txt",
        "target.txt",
    }


@pytest.mark.parametrize("name", ["a" * 250, "é" * 125, "a" * 255])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_a_dead_process_left_beside_a_long_name_is_removed(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 250)
    with pytest.raises(RuntimeError), write_aside(path) as aside:
        left = aside.with_name(aside.name.replace(f"-{os.getpid()}.", "-99999999."))
        left.write_text("half")
        raise RuntimeError
    write(path)
    assert list(tmp_path.iterdir()) == [path]


WRONG = {
    "loop": r"l\.onnx: is a link that leads in a circle; remove it or choose another name",
    "name": r"a+\.onnx: cannot be written \(File name too long\); choose another place",
    "folder": r"gone/out\.onnx: the folder .*gone does not exist; create it first",
    "device": r"null\.onnx: is a device or a pipe, which cannot be replaced",
}


def wrong(folder: Path, kind: str) -> Path:
    (folder / "l.onnx").symlink_to("l.onnx")
    (folder / "null.onnx").symlink_to(os.devnull)
    names = {"loop": "l.onnx", "name": "a" * 300 + ".onnx", "folder": "gone/out.onnx", "device": "null.onnx"}
    return folder / names[kind]


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_written_is_said_before_any_work(tmp_path: Path, kind: str) -> None:
    path = wrong(tmp_path, kind)
    for check in (check_writable, check_outputs, write):
        with pytest.raises(OutputError, match=WRONG[kind]):
            check(path)


@pytest.mark.parametrize("kind", WRONG)
def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = wrong(tmp_path, kind)
    assert run_command(["run", str(model_path()), "-p", "cleanup", "-o", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ") and said.count("\n") == 1 and "mistake" not in said


def test_a_model_that_is_named_as_no_file_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["inspect", "a" * 300 + ".onnx"]) == 2
    said = capsys.readouterr().err
    assert "File name too long; give another path" in said and "mistake" not in said


def test_weights_outside_lie_beside_the_file_and_not_beside_the_link(tmp_path: Path) -> None:
    source = tmp_path / "source.onnx"
    onnx.save(onnx.load(model_path()), source, save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "far").mkdir()
    link = tmp_path / "link.onnx"
    link.symlink_to("far/out.onnx")
    graph = load_onnx(source)
    save_graph(graph, link)
    assert {path.name for path in (tmp_path / "far").iterdir()} == {"out.onnx", "out.onnx.data"}
    assert not (tmp_path / "link.onnx.data").exists()
    again = load_onnx(tmp_path / "far" / "out.onnx")
    name = next(iter(graph.tensors()))
    np.testing.assert_array_equal(again.tensor(name).detach().numpy(), graph.tensor(name).detach().numpy())
