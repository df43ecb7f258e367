"""A few kills of ``tools/kill_test.py``: nothing is left, and the next run is as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "apply"])
def test_killed_commands_leave_nothing(tmp_path: Path, command: str) -> None:
    script = [sys.executable, "tools/kill_test.py", "--fork", "--kills", "5", "--every", "5"]
    done = subprocess.run(
        [*script, "--commands", command, "--json", str(tmp_path / "kill.json")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "kill.json").read_text())["rows"]
    assert len(rows) == 5 and rows[-1]["next_run"] and len(rows[-1]["codes"]) == 2
    assert {signal for row in rows for signal in row["signals"].split()} == {"SIGTERM", "SIGINT", "SIGKILL"}
