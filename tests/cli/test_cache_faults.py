"""A command with a cache that cannot be used, or is damaged: it does its work and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from otgraph.cli.main import run_command
from otgraph.remark import Remark
from otgraph.sample import calibration_path, model_path

NOTED = Remark("missed", "cache", "latency.sqlite", "was damaged and is made anew")
OTHER = Remark("analysis", "prices", "net", "a fact")


def test_plan_shows_what_is_said_of_the_cache(command, api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.Plan, "remarks", (NOTED, OTHER))
    line = ("plan", "net.onnx", "--calib", "calib.npz", "--latency", "0.6x", "-o", "plan.json")
    ran = command(*line)
    assert ran.code == 0 and f"{NOTED}\n" in ran.out and "a fact" not in ran.out
    said = command(*line, "--json").document["remarks"]
    assert said == [NOTED.to_json(), OTHER.to_json()]


def test_optimize_shows_it_among_its_remarks(command, api) -> None:
    api.failures = (NOTED, OTHER)
    line = ("optimize", "net.onnx", "--calib", "calib.npz", "--latency", "0.6x", "-o", "out.onnx")
    ran = command(*line)
    assert ran.code == 0 and f"{NOTED}\n" in ran.out and "a fact" not in ran.out


@pytest.mark.slow
@pytest.mark.parametrize("how", ["damaged", "no folder"])
def test_the_sample_is_planned_without_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    cache = tmp_path / "cache"
    if how == "damaged":
        cache.mkdir()
        (cache / "latency.sqlite").write_text("this is no database" * 500)
    else:
        cache.write_text("a file")
    monkeypatch.setenv("OTGRAPH_CACHE", str(cache))
    plan = tmp_path / "plan.json"
    line = ["plan", str(model_path()), "--calib", str(calibration_path()), "--samples", "16", "-o", str(plan)]
    assert run_command([*line, "--latency", "0.8x", "--width-only", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and plan.is_file()
    said = [remark["message"] for remark in json.loads(out)["remarks"] if remark["source"] == "cache"]
    assert any(("is made anew" if how == "damaged" else "cannot be used") in text for text in said)
