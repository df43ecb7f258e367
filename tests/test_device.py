"""An install without torch: what it needs, what it can do, and what it says of the rest."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from otgraph import sample
from otgraph.sample import model_path

ROOT = Path(__file__).resolve().parents[1]

BLOCKED = ("torch", "scipy", "ot", "ortools", "onnxscript", "psutil", "jsonschema")
SCRIPT = f"""
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
from otgraph.cli.main import main
main(sys.argv[1:])
"""


def without_torch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_the_short_list_is_part_of_the_dependencies_and_has_no_blocked_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements-device.txt").read_text().splitlines()
    short = [line for line in lines if line and not line.startswith("#")]
    assert set(short) <= set(project["dependencies"])
    assert not {re.split(r"[<>=]", line)[0] for line in short} & set(BLOCKED)
    rest = {re.split(r"[<>=]", line)[0] for line in set(project["dependencies"]) - set(short)}
    assert rest == {"torch", "scipy", "onnxscript", "POT", "ortools", "jsonschema", "psutil"}


@pytest.mark.slow
def test_audit_bench_and_build_run_without_torch(tmp_path: Path) -> None:
    with np.load(sample.test_path()) as held:
        np.savez(tmp_path / "few.npz", **{name: held[name][:64] for name in held.files})
    model = str(model_path())
    for precision, more in (("fp16", ()), ("int8", ("--calib", "few.npz"))):
        built = without_torch(
            "build", model, "--precision", precision, *more, "-o", f"{precision}.onnx", cwd=tmp_path
        )
        assert built.returncode == 0, built.stderr
    ran = without_torch("bench", model, "fp16.onnx", "int8.onnx", cwd=tmp_path)
    assert ran.returncode == 0 and len(ran.stdout.splitlines()) == 4, ran.stderr
    audited = without_torch(
        "audit",
        model,
        "fp16.onnx",
        "--data",
        "few.npz",
        "--max-drift",
        "0.001",
        "--html",
        "a.html",
        cwd=tmp_path,
    )
    assert audited.returncode == 0 and (tmp_path / "a.html").is_file(), audited.stderr


@pytest.mark.parametrize(
    "arguments",
    [("passes",), ("inspect", "net.onnx"), ("run", "net.onnx", "-p", "cleanup", "-o", "out.onnx")],
)
def test_what_needs_torch_says_so(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(model_path().read_bytes())
    ran = without_torch(*arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.startswith(
        "error: this command needs the package torch, which is not installed here; pip"
    )
