"""Writing aside: whole or not at all, and what a killed process left is removed by the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from otgraph.errors import OutputError
from otgraph.files import check_writable, write_aside

WRITE = """
import sys, time
from pathlib import Path
from otgraph.files import write_aside

with write_aside(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    print(aside.name, flush=True)
    time.sleep(600)
"""


def start_writing(path: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process in the middle of writing ``path``, and the file that it writes aside."""
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, path.parent / process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def write(path: Path, text: str = "whole") -> None:
    with write_aside(path) as aside:
        aside.write_text(text)


def test_it_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with pytest.raises(RuntimeError, match="on purpose"), write_aside(path) as aside:
        aside.write_text("half")
        raise RuntimeError("on purpose")
    assert list(tmp_path.iterdir()) == []
    write(path)
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_at_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "out[1].txt"
    process, aside = start_writing(path)
    kill(process)
    assert aside.read_text() == "half" and str(process.pid) in aside.name
    check_writable(path)
    assert aside.exists()  # a question removes nothing
    write(path)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "whole"


def test_what_others_are_writing_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    process, aside = start_writing(path)
    try:
        write(path)
        assert aside.read_text() == "half" and path.read_text() == "whole"
    finally:
        kill(process)
    # of another place, of another machine, or of nobody that can be told
    dead = str(process.pid)
    others = [
        aside.with_name(name)
        for name in (
            aside.name.replace("out.txt", "other.txt"),
            aside.name.replace(f"-{dead}.", f"x-{dead}."),
            ".out.txt.abcd.tmp",
            f".out.txt.{dead}.tmp",
        )
    ]
    for other in others:
        other.write_text("not ours")
    write(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, *others]) and not aside.exists()


def test_one_process_may_write_the_same_place_twice_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with write_aside(path) as first:
        first.write_text("first")
        write(path, "second")
        assert first.read_text() == "first"
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_the_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    write(tmp_path / "out.txt")
    (tmp_path / "plain.txt").write_text("plain")
    assert os.stat(tmp_path / "out.txt").st_mode == os.stat(tmp_path / "plain.txt").st_mode


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the folder .* does not exist; create it first"):
        write(tmp_path / "no" / "out.txt")
    with pytest.raises(OutputError, match="is a folder; give a file name"):
        write(tmp_path)
