"""``tools/fuzz.py``: damaged files bring out no fault, and a fault would be seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from fuzz_pool import run_tasks  # noqa: E402
from fuzz_trial import _fault, _file_fault, describe  # noqa: E402


@pytest.mark.slow
def test_two_hundred_damaged_files_bring_out_no_fault(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "tools" / "fuzz.py"),
        "--count",
        "200",
        "--seed",
        "7",
        "--limit",
        "120",
    ]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "200 mutants, 0 faults" in ran.stdout


def test_a_worker_that_hangs_dies_or_is_killed_is_replaced() -> None:
    def work(task: int, slot: int) -> int:
        if task == 1:
            time.sleep(60)
        if task == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if task == 3:
            os._exit(5)
        return task * task

    found = {task: (result, end) for task, result, end in run_tasks(range(6), work, 2, 1.0)}
    assert {task: result for task, (result, _) in found.items() if result is not None} == {0: 0, 4: 16, 5: 25}
    assert [found[task][1] for task in (1, 2, 3)] == ["hang", "signal SIGSEGV", "exit 5"]


@pytest.mark.parametrize(
    ("code", "errors", "fault"),
    [
        (2, "error: KeyError: 'x'; a mistake of otgraph: run with --debug and report it\n", "blames otgraph"),
        (2, "error: one\nand another line\n", "no clear error"),
        (2, "", "no clear error"),
        (3, "error: no such engine\n", "wrong exit code"),
        (0, "error: but it went on\n", "wrong exit code"),
        (2, "error: x.onnx: is no model\n", None),
        (0, "", None),
    ],
)
def test_what_is_a_fault(code: int, errors: str, fault: str | None) -> None:
    found = _fault("inspect", code, "", errors)
    assert (None if found is None else found[0]) == fault


def test_what_is_half_written(tmp_path: Path) -> None:
    assert _file_fault(tmp_path, set(), 2) is None
    (tmp_path / "out.json").write_text("{")
    assert _file_fault(tmp_path, set(), 2) is not None  # it failed, and something is there
    assert _file_fault(tmp_path, set(), 0) is not None  # it is there, and broken
    (tmp_path / "out.json").write_text("{}")
    assert _file_fault(tmp_path, set(), 0) is None


def test_mutants_are_what_their_number_says() -> None:
    first, again = describe(12, 3), describe(12, 3)
    assert first[:2] == again[:2] and first[2].random() == again[2].random()
    assert len({describe(number, 3)[:2] for number in range(200)}) > 15
