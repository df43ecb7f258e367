"""A file that ONNX Runtime does not load is not written without a word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from otgraph.cli.main import run_command
from otgraph.errors import ModelError
from otgraph.graph import save
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model, load_onnx
from otgraph.graph.onnx.loads import outline_fault
from otgraph.graph.save import save_graph


def network(dtype: torch.dtype, *, convolution: bool = True) -> Graph:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU()] if convolution else []
    body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 if convolution else 108, 2))
    return capture(body.to(dtype).eval(), (torch.randn(2, 3, 6, 6).to(dtype),))


def loads(path: Path) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001  (its exceptions share no base)
        return False
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_loads_is_written_in_silence(dtype: torch.dtype, tmp_path: Path) -> None:
    assert network(dtype).save(tmp_path / "net.onnx") == ()
    assert loads(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("dtype", "convolution"), [(torch.bfloat16, True), (torch.bfloat16, False), (torch.float64, True)]
)
def test_a_type_that_it_has_no_operator_for_is_said_with_the_node(
    dtype: torch.dtype, convolution: bool, tmp_path: Path
) -> None:
    (said,) = network(dtype, convolution=convolution).save(tmp_path / "net.onnx")
    assert not loads(tmp_path / "net.onnx")
    assert said.kind == "failure"
    nodes = {node.name for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert any(name in said.message for name in nodes), said.message
    assert said.message.endswith("; take an engine that does, or convert the network to float32 first")


def test_a_type_that_has_no_onnx_form_says_why(tmp_path: Path) -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.inverse()

    graph = capture(Spectrum(), (torch.randn(2, 4, dtype=torch.complex64),))
    with pytest.raises(ModelError, match=r"torch.onnx cannot export it \([^\x1b]*complex"):
        graph.save(tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def model(dtype: int = TensorProto.FLOAT, *, columns: int = 40) -> onnx.ModelProto:
    """A convolution and a product by a weight that is large enough to be left out of the question."""
    kernel = np.ones((2, 3, 1, 1), np.float32)
    table = np.ones((8, columns * 8), np.float32)
    stored = [numpy_helper.from_array(each, name) for each, name in ((kernel, "kernel"), (table, "table"))]
    stored = [
        helper.make_tensor(t.name, dtype, t.dims, numpy_helper.to_array(t).flatten().tolist()) for t in stored
    ]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], "first"),
        helper.make_node("MatMul", ["c", "table"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", dtype, [1, 3, 4, 8])],
        [helper.make_tensor_value_info("y", dtype, [1, 2, 4, columns * 8])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_file_that_did_not_load_before_either_is_written_with_a_remark(tmp_path: Path) -> None:
    onnx.save(model(TensorProto.DOUBLE), tmp_path / "old.onnx")
    (said,) = load_onnx(tmp_path / "old.onnx").save(tmp_path / "new.onnx")
    assert "'first'" in said.message
    assert onnx.load(tmp_path / "new.onnx") == onnx.load(tmp_path / "old.onnx")


def test_a_file_that_loaded_before_and_not_now_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = import_model(model())
    monkeypatch.setattr(save, "emit_model", lambda _: model(TensorProto.DOUBLE))
    with pytest.raises(ModelError, match=r"ONNX Runtime loads the file it was read from, but not .*'first'"):
        save_graph(graph, tmp_path / "new.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_beside_the_file_are_not_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save_model(
        model(), tmp_path / "old.onnx", save_as_external_data=True, location="old.bin", size_threshold=0
    )
    asked: list[Sequence[str]] = []

    def watched(proto: onnx.ModelProto, held: Sequence[str] = ()) -> str | None:
        asked.append([t.name for t in proto.graph.initializer if t.HasField("raw_data")])
        return outline_fault(proto, held)

    monkeypatch.setattr("otgraph.graph.onnx.loads.outline_fault", watched)
    assert load_onnx(tmp_path / "old.onnx").save(tmp_path / "new.onnx") == ()
    assert asked == [[]]
    assert loads(tmp_path / "new.onnx")


def test_an_operator_that_insists_on_a_stored_weight_is_no_fault(tmp_path: Path) -> None:
    """Asked without its weights such a model does not load; with them it does."""
    told = import_model(model())
    calls: list[int] = []

    def doubtful(proto: onnx.ModelProto, held: Sequence[str] = ()) -> str:
        calls.append(1)
        return "an initializer is expected"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("otgraph.graph.onnx.loads.outline_fault", doubtful)
        assert told.save(tmp_path / "net.onnx") == ()
    assert calls


def test_commands_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(TensorProto.DOUBLE), tmp_path / "old.onnx")
    arguments = ["run", str(tmp_path / "old.onnx"), "-p", "cleanup", "-o", str(tmp_path / "new.onnx")]
    assert run_command(arguments) == 0
    assert "failure: save: " in capsys.readouterr().out
    assert run_command([*arguments, "--json"]) == 0
    remarks = json.loads(capsys.readouterr().out)["remarks"]
    assert [remark["source"] for remark in remarks if remark["kind"] == "failure"] == ["save"]
