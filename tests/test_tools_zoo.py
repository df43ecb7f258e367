"""``tools/zoo.py`` on a small, varied set; and that its verdict can be a failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VARIED = [
    "torchvision/resnet18",
    "torchvision/mobilenet_v3_small",
    "timm/convnextv2_tiny",
    "timm/mobilevit_s",
]


def zoo(folder: Path, *arguments: str) -> tuple[int, list[dict], str]:
    command = [sys.executable, str(ROOT / "tools" / "zoo.py"), "--json", str(folder / "zoo.json"), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert (folder / "zoo.json").exists(), ran.stderr
    return ran.returncode, json.loads((folder / "zoo.json").read_text())["models"], ran.stdout


@pytest.mark.slow
def test_a_varied_set_passes(tmp_path: Path) -> None:
    code, rows, said = zoo(tmp_path, "--models", *VARIED)
    assert code == 0, [row["reason"] for row in rows]
    assert [row["model"] for row in rows] == VARIED and all(row["ok"] for row in rows)
    for row in rows:
        assert row["law"] <= 1e-4 and row["power"] >= 1e-3 and row["engine_error"] <= 1e-3
        assert row["left"] <= 0.4 and row["prunable"] > 0.9
    assert "aten: 4 of 4 pass" in said


@pytest.mark.slow
def test_the_route_through_onnx(tmp_path: Path) -> None:
    code, (row,), _ = zoo(tmp_path, "--models", "torchvision/resnet18", "--route", "onnx")
    assert code == 0 and row["route"] == "onnx" and row["left"] <= 0.3 and row["identity"]


@pytest.mark.slow
def test_what_goes_wrong_is_a_row_and_the_exit_code(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("# two that cannot be\ntorchvision/no_such_net\nelsewhere/net  # nor this\n")
    code, rows, _ = zoo(tmp_path, "--models", str(names))
    assert code == 1 and [row["ok"] for row in rows] == [False, False]
    assert rows[0]["reason"].startswith("build: ValueError: ")
    assert "write family/architecture" in rows[1]["reason"]
