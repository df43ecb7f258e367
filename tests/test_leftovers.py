"""Temporary files name their process: what a killed one left goes, what anybody else has stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from otgraph import leftovers, scratch
from otgraph.errors import OutputError
from otgraph.leftovers import owner, remove_own, remove_stale
from otgraph.scratch import clear_stale, discard_scratch, scratch_file, scratch_folder

HOLD = """
import sys, time
from pathlib import Path
from otgraph.scratch import scratch_folder

with scratch_folder() as folder:
    (Path(folder) / "half").write_text("half")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of temporary files, which nothing has looked at yet."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    clear_stale.cache_clear()
    return tmp_path


def hold(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process with a temporary folder, and that folder."""
    env = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen([sys.executable, "-c", HOLD], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str], *, wait: bool = True) -> None:
    process.send_signal(signal.SIGKILL)
    if wait:
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_the_next_process_removes_what_a_killed_one_left(temporary: Path) -> None:
    process, folder = hold(temporary)
    clear_stale()
    assert (folder / "half").exists()  # it lives
    kill(process)
    assert folder.is_dir()
    clear_stale.cache_clear()
    with scratch_folder() as own:
        assert list(temporary.iterdir()) == [Path(own)]
    assert list(temporary.iterdir()) == []


def test_one_that_nobody_has_waited_for_is_dead_too(temporary: Path) -> None:
    process, folder = hold(temporary)
    kill(process, wait=False)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie from here on
    clear_stale()
    assert not folder.exists()
    kill(process)


def test_a_number_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    machine, start, number = owner().split("-")
    old = tmp_path / f"otgraph-{machine}-{int(start) - 1}-{number}.abc"
    old.mkdir()
    unknown = tmp_path / f"otgraph-{machine}-0-{number}.abc"
    unknown.mkdir()  # made where nothing tells when a process began: on doubt it lives
    own = tmp_path / f"otgraph-{owner()}.abc"
    own.mkdir()
    remove_stale(tmp_path, "otgraph-")
    assert sorted(tmp_path.iterdir()) == sorted([unknown, own])
    remove_own(tmp_path, "otgraph-")
    assert list(tmp_path.iterdir()) == [unknown]


def test_what_others_have_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, folder = hold(temporary)
    kill(process)
    for name in (folder.name.replace("otgraph-", "other-"), "otgraph-abc", f"otgraph-{process.pid}.x"):
        (temporary / name).mkdir()
    before = sorted(temporary.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)  # of another user
        remove_stale(temporary, "otgraph-")
        assert sorted(temporary.iterdir()) == before
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "_machine", lambda: "01234567")
        remove_stale(temporary, "otgraph-")
        assert sorted(temporary.iterdir()) == before
    remove_stale(temporary, "otgraph-")
    assert sorted(temporary.iterdir()) == sorted(set(before) - {folder})


def test_a_link_goes_and_what_it_points_to_stays(tmp_path: Path) -> None:
    process, folder = hold(tmp_path)
    kill(process)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("kept")
    (folder / "half").unlink()
    folder.rmdir()
    folder.symlink_to(tmp_path / "kept")
    remove_stale(tmp_path, "otgraph-")
    assert not folder.is_symlink() and (tmp_path / "kept" / "file").read_text() == "kept"


def test_a_process_that_ends_discards_its_own(temporary: Path) -> None:
    process, other = hold(temporary)
    try:
        own = scratch_folder()
        discard_scratch()
        assert not Path(own.name).exists() and other.exists()
        own.cleanup()
    finally:
        kill(process)


def test_a_scratch_file_has_no_name(temporary: Path) -> None:
    with scratch_file() as file:
        file.write(b"x")
        assert list(temporary.iterdir()) == []


def test_no_place_for_temporary_files_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", full)
    monkeypatch.setattr(scratch.tempfile, "TemporaryFile", full)
    for make in (scratch_folder, scratch_file):
        with pytest.raises(OutputError, match=r"temporary files: .*No space left on device\); set TMPDIR"):
            make()
    monkeypatch.setattr(scratch.tempfile, "gettempdir", full)
    clear_stale.cache_clear()
    clear_stale()
