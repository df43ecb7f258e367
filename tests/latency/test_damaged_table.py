"""The latency table is a cache: whatever is wrong with its file, it answers, keeps what it can, says so."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from otgraph.latency import table as table_module
from otgraph.latency.kernel_clock import REFERENCE
from otgraph.latency.table import LatencyTable

KNOWN = {(64, 32): 2.0, (8, 8): 0.5}


def said(table: LatencyTable) -> str:
    assert all(remark.source == "cache" for remark in table.remarks)
    assert all(remark.where == str(table.path) for remark in table.remarks)
    return "\n".join(remark.message for remark in table.remarks)


def written(path: Path) -> Path:
    table = LatencyTable(path, {})
    for width in range(8, 800, 8):  # several pages of it
        table.store(REFERENCE, {**KNOWN, (width, 1): 1.0})
    assert not table.remarks and table.load(REFERENCE).items() >= KNOWN.items()
    return path


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no database": lambda path: path.write_text("this is no database, however long it may be" * 50),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2 + 100),
    "a page of noise": lambda path: overwrite(path, 4096, b"\xff" * (path.stat().st_size - 4096)),
    "head of noise": lambda path: overwrite(path, 16, b"\xee" * 84),
    "other columns": lambda path: execute(
        path, "DROP TABLE kernel_costs_2", "CREATE TABLE kernel_costs_2 (device TEXT, cost REAL)"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("first", ["load", "store"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str, first: str) -> None:
    path = written(tmp_path / "t.sqlite")
    DAMAGES[damage](path)
    (tmp_path / "t.sqlite-journal").write_bytes(b"of the old file" * 100)
    table = LatencyTable(path, {})
    if first == "load":
        assert table.load(REFERENCE) == {}
    table.store(REFERENCE, {(1, 2): 3.0})
    assert table.load(REFERENCE) == {(1, 2): 3.0}
    assert "was damaged (" in said(table) and "is made anew" in said(table) and len(table.remarks) == 1
    again = LatencyTable(path, {})
    assert again.load(REFERENCE) == {(1, 2): 3.0} and not again.remarks


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "t.sqlite").touch()
    table = LatencyTable(tmp_path / "t.sqlite", {})
    table.store(REFERENCE, KNOWN)
    assert table.load(REFERENCE) == KNOWN and not table.remarks


@pytest.mark.parametrize("value", ["'fast'", "-1.0", "0.0", "9e999", "x'00ff'"])
def test_costs_that_are_none_are_measured_again(tmp_path: Path, value: str) -> None:
    path = written(tmp_path / "t.sqlite")
    execute(path, f"UPDATE kernel_costs_2 SET cost = {value} WHERE inputs = 64")
    table = LatencyTable(path, {})
    assert (64, 32) not in table.load(REFERENCE) and table.load(REFERENCE)[8, 8] == 0.5
    assert said(table) == "holds costs that are none; those kernels are measured again"
    table.store(REFERENCE, {(64, 32): 2.0})
    assert LatencyTable(path, {}).load(REFERENCE)[64, 32] == 2.0


@pytest.mark.parametrize("folder", ["file", "/proc/otgraph", "/sys/otgraph"])
def test_a_place_that_is_no_folder_is_left_alone(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("mine")
    table = LatencyTable(tmp_path / folder / "t.sqlite", {})
    assert table.load(REFERENCE) == {}
    table.store(REFERENCE, KNOWN)
    assert table.load(REFERENCE) == {}
    assert len(table.remarks) == 1 and "cannot be used (" in said(table)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_its_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "t.sqlite").mkdir()
    table = LatencyTable(tmp_path / "t.sqlite", {})
    assert table.load(REFERENCE) == {}
    table.store(REFERENCE, KNOWN)
    assert "cannot be used (" in said(table) and (tmp_path / "t.sqlite").is_dir()


class Refusing(sqlite3.Connection):
    """Reads, and refuses to write as SQLite does in a folder that is read-only, or on a disk that is full."""

    reason = ""

    def execute(self, statement: str, *rest: object) -> sqlite3.Cursor:  # type: ignore[override]
        if statement.startswith("INSERT"):
            error = sqlite3.OperationalError(self.reason)
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(statement, *rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reason",
    [
        "attempt to write a readonly database",
        "database or disk is full",
        "database is locked",
        "disk I/O error",
    ],
)
def test_what_cannot_be_written_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    path = written(tmp_path / "t.sqlite")
    before = path.read_bytes()
    connect = sqlite3.connect
    monkeypatch.setattr(Refusing, "reason", reason)
    monkeypatch.setattr(
        table_module.sqlite3, "connect", lambda at, timeout: connect(at, timeout, factory=Refusing)
    )
    table = LatencyTable(path, {})
    for _ in range(2):
        table.store(REFERENCE, {(1, 2): 3.0})
    found = table.load(REFERENCE)
    assert found.items() >= KNOWN.items() and (1, 2) not in found
    assert said(table) == f"cannot be written ({reason}); what is measured is not kept"
    assert path.read_bytes() == before


FULL = """
import resource, sys
from pathlib import Path
from otgraph.latency.kernel_clock import REFERENCE
from otgraph.latency.table import LatencyTable

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
table = LatencyTable(Path(sys.argv[1]), {})
for width in range(1, 400):
    table.store(REFERENCE.at(8, 8), {(width, 1): 1.0, (width, 2): 1.0})
found = table.load(REFERENCE)
print(len(found), *(remark.message for remark in table.remarks), sep="|")
"""


@pytest.mark.parametrize("room", [0, 4096, 20000])
def test_a_disk_without_room_costs_only_what_is_kept(tmp_path: Path, room: int) -> None:
    path = tmp_path / "t.sqlite"
    line = [sys.executable, "-c", FULL, str(path), str(room)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout.count("|") == 1
    assert "cannot be" in done.stdout and ("full" in done.stdout or "I/O" in done.stdout)
    table = LatencyTable(path, {})
    table.store(REFERENCE, KNOWN)
    assert table.load(REFERENCE).items() >= KNOWN.items() and not table.remarks


BOTH = """
import sys
from pathlib import Path
from otgraph.latency.kernel_clock import REFERENCE
from otgraph.latency.table import LatencyTable

table = LatencyTable(Path(sys.argv[1]), {})
sys.stdin.readline()
for width in range(1, 60):
    table.load(REFERENCE)
    table.store(REFERENCE, {(width, int(sys.argv[2])): 1.0})
print(*(remark.message for remark in table.remarks), sep="|")
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_at_once_lose_nothing(tmp_path: Path, damaged: bool) -> None:
    path = written(tmp_path / "t.sqlite")
    if damaged:
        DAMAGES["a page of noise"](path)
    lines = [[sys.executable, "-c", BOTH, str(path), str(1000 + number)] for number in range(3)]
    pipe = subprocess.PIPE
    runs = [subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for line in lines]
    answers = [run.communicate("\n") for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert [err for _, err in answers] == [""] * 3
    told = sum("is made anew" in out for out, _ in answers)
    assert told == damaged and all("cannot" not in out for out, _ in answers)
    found = LatencyTable(path, {}).load(REFERENCE)
    assert found.keys() >= {(width, 1000 + number) for width in range(1, 60) for number in range(3)}


def test_what_was_killed_while_it_wrote_is_played_back(tmp_path: Path) -> None:
    path = written(tmp_path / "t.sqlite")
    for seconds in (0.0, 0.01, 0.05, 0.1):
        line = [sys.executable, "-c", BOTH.replace("60", "100000"), str(path), "7"]
        run = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
        watched = LatencyTable(path, {})
        while not any(outputs == 7 for _, outputs in watched.load(REFERENCE)):
            assert run.poll() is None
        time.sleep(seconds)
        run.kill()
        run.wait()
        run.stdin.close()
        table = LatencyTable(path, {})
        assert table.load(REFERENCE).items() >= KNOWN.items() and not table.remarks
        execute(path, "DELETE FROM kernel_costs_2 WHERE outputs = 7")
