"""Saving: both dialects, external data, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from otgraph.errors import ModelError, OutputError
from otgraph.graph import save
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model, load_onnx
from otgraph.graph.onnx.write_file import write_beside
from otgraph.graph.save import save_graph, to_onnx_bytes


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.head(h), h


def aten_graph() -> Graph:
    torch.manual_seed(0)
    return capture(Net().eval(), torch.randn(2, 3, 8, 8))


def weights_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((8, 600)),
        "v": rng.standard_normal((600, 8)),
        "b": rng.standard_normal(8),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["g"]),
        helper.make_node("Add", ["g", "b"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    stored = [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "weights", infos[:1], infos[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def load_outside(folder: Path) -> Graph:
    path = folder / "model.onnx"
    onnx.save_model(weights_model(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return load_onnx(path)


def outputs(model: str | bytes, graph: Graph) -> list[np.ndarray]:
    feed = {port.name: x.numpy() for port, x in zip(graph.signature.inputs, graph.example, strict=True)}
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feed)


def test_an_aten_graph_is_exported_with_its_names_and_free_batch(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph, path = aten_graph(), tmp_path / "net.onnx"
    save_graph(graph, path)
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == [port.name for port in graph.signature.inputs]
    assert [value.name for value in model.graph.output] == [port.name for port in graph.signature.outputs]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    for batch in (1, 5):
        other = graph.with_example((torch.randn(batch, 3, 8, 8),))
        for mine, theirs in zip(other(*other.example), outputs(str(path), other), strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-6)


def test_an_exported_graph_loads_again(tmp_path: Path) -> None:
    graph, path = aten_graph(), tmp_path / "net.onnx"
    graph.save(path)
    again = load_onnx(path)
    assert again.dialect == "onnx" and again.signature == graph.signature and again.name == "net"
    for a, b in zip(graph(*graph.example), again(*graph.example), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_exporting_leaves_the_graph_as_it_was() -> None:
    graph = aten_graph()
    text = str(graph.module.graph)
    to_onnx_bytes(graph)
    assert str(graph.module.graph) == text


def test_a_program_that_torch_cannot_export_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("no such operator\nand more")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(ModelError, match=r"model: torch\.onnx cannot export it \(no such operator\)"):
        to_onnx_bytes(aten_graph())


def test_bytes_hold_everything(tmp_path: Path) -> None:
    graph = load_outside(tmp_path)
    data = to_onnx_bytes(graph)
    assert not [t for t in onnx.ModelProto.FromString(data).graph.initializer if t.external_data]
    for a, b in zip(outputs(data, graph), outputs(str(tmp_path / "model.onnx"), graph), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_that_lay_outside_are_written_outside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    graph = load_outside(tmp_path / "in")
    graph.tensor("v").data *= 2
    path = tmp_path / "out" / "copy.onnx"
    graph.save(path)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["copy.onnx", "copy.onnx.data"]
    (tmp_path / "in" / "w.bin").unlink()
    onnx.checker.check_model(str(path))
    stored = onnx.load(path, load_external_data=False).graph.initializer
    assert [t.name for t in stored if t.external_data] == ["w", "v"]
    np.testing.assert_allclose(
        outputs(str(path), graph)[0], graph(*graph.example)[0].numpy(), rtol=1e-5, atol=1e-4
    )
    assert torch.equal(load_onnx(path).tensor("v"), graph.tensor("v"))


def test_saving_over_the_file_that_was_read(tmp_path: Path) -> None:
    graph = load_outside(tmp_path)
    before = outputs(str(tmp_path / "model.onnx"), graph)
    graph.save(tmp_path / "model.onnx", overwrite=True)
    load_onnx(tmp_path / "model.onnx").save(tmp_path / "model.onnx", overwrite=True)
    np.testing.assert_array_equal(outputs(str(tmp_path / "model.onnx"), graph)[0], before[0])


def test_models_above_two_gigabytes_keep_their_weights_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = import_model(weights_model())
    monkeypatch.setattr("otgraph.graph.onnx.write_file.LARGEST", 10_000)
    graph.save(tmp_path / "large.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    np.testing.assert_array_equal(
        outputs(str(tmp_path / "large.onnx"), graph)[0], outputs(to_bytes(), graph)[0]
    )
    with pytest.raises(ModelError, match=r"weights: is larger than 2 GB; save it to a file"):
        to_onnx_bytes(graph)


def to_bytes() -> bytes:
    return weights_model().SerializeToString()


@pytest.mark.parametrize("make", [aten_graph, lambda: import_model(weights_model())])
def test_an_unwritable_path_is_said_before_any_work(make: object, tmp_path: Path) -> None:
    assert callable(make)
    with pytest.raises(OutputError, match=r"the folder .* does not exist; create it first"):
        save_graph(make(), tmp_path / "none" / "net.onnx")
    with pytest.raises(OutputError, match=r"is a folder; give a file name"):
        save_graph(make(), tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, data: bytes) -> int:
        raise OSError(28, "no space left")

    model = weights_model()
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OutputError, match=r"cannot be written \(no space left\)"):
        import_model(model).save(tmp_path / "net.onnx")
    with pytest.raises(OutputError, match=r"cannot be written \(no space left\)"):
        write_beside(model, None, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_result_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = import_model(weights_model())

    def broken(_: Graph) -> onnx.ModelProto:
        model = weights_model()
        model.graph.node[0].input[0] = "nowhere"
        return model

    monkeypatch.setattr(save, "emit_model", broken)
    with pytest.raises(
        ModelError, match=r"weights: its ONNX form is not valid \(.*\); please report the pass"
    ):
        graph.save(tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
