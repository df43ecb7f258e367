"""Signals that ask a command to end, and a full disk: one line, the exit code, and nothing left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from otgraph.allocate import cp_sat
from otgraph.cli.main import run_command

STUB = """
import os, signal, sys, time, types
from pathlib import Path
from otgraph.cli import signals
from otgraph.cli.main import main
from otgraph.files import write_aside
from otgraph.scratch import scratch_folder

{before}

class Graph:
    signature = types.SimpleNamespace(inputs=(), outputs=())

    def save(self, path):
        with scratch_folder() as folder, write_aside(Path(path)) as aside:
            (Path(folder) / "1.onnx").write_text("half")
            aside.write_text("half a model")
            print("writing", flush=True)
            {work}

result = types.SimpleNamespace(graph=Graph(), remarks=(), records=(), undone=(), spared=())
sys.modules["otgraph.api"] = types.SimpleNamespace(
    load_model=lambda spec, shapes: Graph(), run_pipeline=lambda *args, **options: result
)
main(["run", "net.onnx", "-p", "cleanup", "-o", "out.onnx", "--json"])
"""

SLEEP = "time.sleep(60)"
DEAF = """import ctypes
signals.GRACE_SECONDS = 0.3
libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)"""
LOCKED = "libc.pthread_mutex_lock(lock); libc.pthread_mutex_lock(lock)"
"""A call that no signal ends, as of a solver: the second lock waits for the first, which is its own."""
TWICE = "\n            ".join(
    [
        "try:",
        "    print('inside', flush=True)",
        "    time.sleep(60)",
        "finally:",
        "    print('ending', flush=True)",
        "    time.sleep(1)",
    ]
)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


def start(folder: Path, work: str, before: str = "", ignored: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    """A command in the middle of writing, with its own folder of temporary files."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs in the background ignores it
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    (folder / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", STUB.format(work=work, before=before)],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize(("work", "before"), [(SLEEP, ""), (LOCKED, DEAF)], ids=["python", "c"])
def test_a_command_that_is_asked_to_end_leaves_nothing(
    tmp_path: Path, sent: signal.Signals, work: str, before: str
) -> None:
    process = start(tmp_path, work, before)
    assert len(left(tmp_path)) == 4
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (
        CODES[sent],
        f"error: {WORDS[sent]}; nothing is left half-written\n",
    )
    assert left(tmp_path) == ["tmp"]


def test_a_second_signal_does_not_disturb_the_end(tmp_path: Path) -> None:
    process = start(tmp_path, TWICE)
    assert process.stdout is not None and process.stdout.readline() == "inside\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "ending\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, "error: terminated; nothing is left half-written\n")
    assert left(tmp_path) == ["tmp"]


def test_what_is_ignored_stays_so(tmp_path: Path) -> None:
    process = start(tmp_path, "time.sleep(1)", ignored=(signal.SIGHUP, signal.SIGINT))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert left(tmp_path) == ["out.onnx", "tmp"]


def test_what_sigkill_leaves_the_next_command_removes(tmp_path: Path) -> None:
    process = start(tmp_path, SLEEP)
    process.kill()
    process.communicate()
    assert len(left(tmp_path)) == 4
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    script = STUB.format(work="pass", before="")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, check=True, capture_output=True)
    assert left(tmp_path) == ["out.onnx", "tmp"]


def test_handlers_are_given_back() -> None:
    numbers = list(CODES)
    before = [signal.getsignal(number) for number in numbers]
    assert run_command(["passes", "--help"]) == 0
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_the_solver_does_not_take_an_interrupt_for_the_end_of_its_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Seen(Exception):
        pass

    def solve(solver: cp_sat.cp_model.CpSolver, *_: object) -> None:
        assert not solver.parameters.catch_sigint_signal
        raise Seen

    monkeypatch.setattr(cp_sat.cp_model.CpSolver, "solve", solve)
    program = object.__new__(cp_sat.CpModel)
    program.model = cp_sat.cp_model.CpModel()
    with pytest.raises(Seen):
        program.search(cp_sat.SearchLimits())


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))"


def test_a_full_disk_is_one_clear_line_and_nothing_half_written(tmp_path: Path) -> None:
    work = 'aside.write_text("x" * 5000)'
    (tmp_path / "out.onnx").write_text("of before")
    process = start(tmp_path, work, FULL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err == "error: out.onnx: cannot be written (File too large); choose another place\n"
    assert left(tmp_path) == ["out.onnx", "tmp"] and (tmp_path / "out.onnx").read_text() == "of before"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_full_temporary_files_are_one_clear_line(tmp_path: Path) -> None:
    work = '(Path(folder) / "2.onnx").write_text("x" * 5000)'
    process = start(tmp_path, work, FULL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err.startswith("error: out.onnx: cannot be written (File too large)") and err.count("\n") == 1
    assert left(tmp_path) == ["tmp"]


def test_a_full_standard_output_is_one_clear_line(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "from otgraph.cli.main import main; main(['passes'])"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
