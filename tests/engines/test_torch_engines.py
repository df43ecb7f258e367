"""PyTorch, eager and compiled, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from otgraph import sample
from otgraph.engines.catalog import get_builder, get_engine
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import EngineMissing, ModelError
from otgraph.sample import model_path


def digits(count: int) -> dict[str, np.ndarray]:
    with np.load(sample.test_path()) as held:
        return {"image": held["image"][:count]}


@pytest.mark.parametrize("name", ["torch", pytest.param("torch-compile", marks=pytest.mark.slow)])
def test_results_are_onnx_runtimes(name: str) -> None:
    expected = OnnxRuntime().load(model_path())
    session = get_engine(name).load(model_path())
    assert session.describe()["precision"] == "fp32"
    for count in (1, 3):
        found = session.run(digits(count))["logits"]
        np.testing.assert_allclose(found, expected.run(digits(count))["logits"], rtol=1e-3, atol=1e-4)
    assert session.profile(digits(1), runs=1)


def test_nodes_are_timed_under_their_onnx_names() -> None:
    times = get_engine("torch").load(model_path()).profile(digits(1), runs=1)
    assert [time.op_type for time in times].count("onnx.Conv") == 21
    assert any(time.name.startswith("node_conv2d") for time in times)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    get_engine("torch").load(model_path(), threads=before + 1).run(digits(1))
    assert torch.get_num_threads() == before


def test_wrong_feeds_and_files_are_model_errors(tmp_path: Path) -> None:
    session = get_engine("torch").load(model_path())
    with pytest.raises(ModelError, match=r"no value for input image; give one"):
        session.run({})
    with pytest.raises(ModelError, match=r"torch cannot run it: .*; check that the model takes such inputs"):
        session.run({"image": np.zeros((1, 2, 28, 28), np.float32)})
    with pytest.raises(ModelError, match=r"model in memory: not readable as ONNX"):
        get_engine("torch").load(b"\xff not a model")


def test_it_writes_no_artifact() -> None:
    with pytest.raises(EngineMissing, match=r"engine 'torch': not available here \(it writes no artifact; "):
        get_builder("torch")
