"""Nothing is written outside otgraph's own cache, the outputs and the temporary folder, and nothing is sent.

Each in a process of its own with an empty home: ONNX Runtime decides at its import.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from otgraph.sample import calibration_path, model_path

VARIABLE = "ORT_DISABLE_TELEMETRY"


def _home(tmp_path: Path, code: str, *arguments: str, **variables: str) -> set[str]:
    """The files that a process leaves in its home and beside its working folder."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    known = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "OTGRAPH_"))}
    for name in (VARIABLE, "CI", "TF_BUILD", "JENKINS_URL"):  # on build machines some engines keep still
        known.pop(name, None)
    places = {"HOME": str(home), "USERPROFILE": str(home), "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=known | places | variables,
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}


COMMAND = "from otgraph.cli.main import main; main()"
LOADS = (
    "import onnxruntime as ort, sys; ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
)


@pytest.mark.slow
def test_a_whole_run_leaves_its_output_and_its_cache(tmp_path: Path) -> None:
    arguments = ("--calib", str(calibration_path()), "--samples", "32", "--layers", "0.9x")
    left = _home(tmp_path, COMMAND, "optimize", str(model_path()), *arguments, "-o", "small.onnx")
    strangers = {name for name in left if not name.startswith("home/.cache/otgraph/")}
    assert strangers == {"work/small.onnx"}


def test_engines_that_load_a_model_leave_nothing(tmp_path: Path) -> None:
    arguments = (str(model_path()), "--engine", "openvino")
    left = _home(tmp_path, COMMAND, "bench", *arguments)
    assert {name for name in left if not name.startswith("home/.cache/otgraph/")} == set()


def test_an_import_of_otgraph_is_enough(tmp_path: Path) -> None:
    assert _home(tmp_path, f"import otgraph; {LOADS}", str(model_path())) == set()


def test_the_user_has_the_last_word(tmp_path: Path) -> None:
    code = f"import os, otgraph; assert os.environ[{VARIABLE!r}] == '0'"
    assert _home(tmp_path, code, **{VARIABLE: "0"}) == set()
