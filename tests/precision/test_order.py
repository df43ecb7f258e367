"""What edits a network wants it in float32: said at once, with what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import otgraph
from otgraph.cli.main import run_command
from otgraph.errors import UsageError
from otgraph.precision.float16 import to_float16
from otgraph.sample import model_path


@pytest.fixture
def half(tmp_path: Path) -> Path:
    path = tmp_path / "half.onnx"
    onnx.save(to_float16(onnx.load(model_path()))[0], path)
    return path


def test_float16_is_not_optimized(half: Path) -> None:
    images = np.zeros((4, 1, 28, 28), np.float32)
    for decide in (otgraph.optimize, otgraph.make_plan):
        with pytest.raises(UsageError) as caught:
            decide(otgraph.load(half), {"image": images}, keep=0.7)
        said = str(caught.value)
        assert said.startswith("half: weight ") and said.endswith(
            " is in float16; optimize the float32 model, then build it with --precision fp16"
        )


def test_channels_are_pruned_before_the_conversion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    code = run_command(["run", str(model_path()), "-p", "to-fp16,prune-channels{keep=0.75}", "-o", str(out)])
    said = capsys.readouterr().err
    assert code == 2 and not out.exists()
    assert said.startswith("error: prune-channels: weight ")
    assert said.endswith(
        "is in float16, whose rounding hides what a cut does; cut the float32 network, and run to-fp16 after"
        " it\n"
    )
    assert (
        run_command(["run", str(model_path()), "-p", "prune-channels{keep=0.75},to-fp16", "-o", str(out)])
        == 0
    )
    assert "float16" in {
        onnx.helper.tensor_dtype_to_np_dtype(t.data_type).name for t in onnx.load(out).graph.initializer
    }
