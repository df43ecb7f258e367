"""Capture: every kind of module comes in, computes the same, and is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx, nn

from otgraph.errors import ModelError
from otgraph.graph.capture import capture, load_program


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    module = Net().eval()
    module.norm.running_mean.normal_()
    return module


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def test_a_module(net: Net) -> None:
    graph = capture(net, image())
    assert graph.dialect == "aten" and graph.remarks == ()
    assert [str(port) for port in graph.signature.inputs] == ["x: float32[batch, 3, 6, 6]"]
    assert [str(port) for port in graph.signature.outputs] == ["output: float32[batch, 2]"]
    assert set(graph.tensors()) == {
        *("conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
        *("head.weight", "head.bias"),
    }
    for batch in (1, 2, 5):
        torch.testing.assert_close(graph(image(batch)), (net(image(batch)),))
    assert not any(p.requires_grad for p in graph.module.parameters())


def test_batch_norms_stay_one_operator(net: Net) -> None:
    targets = [node.target for node in capture(net, image()).module.graph.nodes]
    assert torch.ops.aten.batch_norm.default in targets


def test_a_batch_of_one_is_doubled(net: Net) -> None:
    graph = capture(net, image(1))
    assert graph.example[0].shape[0] == 2
    torch.testing.assert_close(graph(image(1)), (net(image(1)),))


def test_a_traced_module(net: Net) -> None:
    graph = capture(fx.symbolic_trace(net), (image(),))
    torch.testing.assert_close(graph(image(3)), (net(image(3)),))


def test_an_exported_program(net: Net) -> None:
    program = torch.export.export(net, (image(),), strict=False)
    graph = capture(program)
    torch.testing.assert_close(graph(image()), (net(image()),))
    assert [str(port) for port in graph.signature.inputs] == ["x: float32[2, 3, 6, 6]"]


def test_the_module_of_an_exported_program(net: Net) -> None:
    """Such a module refuses ``eval`` and ``train``; capture needs neither."""
    module = torch.export.export(net, (image(),), strict=False).module()
    with pytest.raises(NotImplementedError):
        module.eval()
    graph = capture(module, (image(),))
    torch.testing.assert_close(graph(image()), (net(image()),))


def test_a_saved_program(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (image(),), strict=False), path)
    torch.testing.assert_close(load_program(path)(image()), (net(image()),))


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(
        ModelError,
        match=r"net\.pt2: is no exported program, or is cut short; write it with torch\.export\.save$",
    ):
        load_program(path)


def test_containers_and_two_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, x: torch.Tensor, pair: dict[str, torch.Tensor]) -> dict[str, object]:
            y = self.b(pair["y"])
            return {"sum": self.a(x) + y, "parts": (self.a(x), y)}

    module = Two().eval()
    x, y = torch.randn(2, 3), torch.randn(2, 5)
    graph = capture(module, (x, {"y": y}))
    assert [port.name for port in graph.signature.outputs] == ["sum", "parts_0", "parts_1"]
    assert [port.name for port in graph.signature.inputs] == ["x", "pair_y"]
    assert len(graph.signature.inputs) == len(graph.example) == 2
    expected = module(x, {"y": y})
    torch.testing.assert_close(graph(x, y), (expected["sum"], *expected["parts"]))


def test_a_static_batch_is_remarked() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, -1) if x.shape[0] == 2 else x.reshape(1, -1)

    graph = capture(Fixed(), (torch.randn(2, 3),))
    (remark,) = graph.remarks
    assert (remark.kind, remark.source, remark.where) == ("missed", "capture", "batch")
    assert remark.message.startswith("is not dynamic: ")
    assert graph.signature.inputs[0].shape == (2, 3)
    assert graph.signature.outputs[0].shape == (2, 3)


def test_training_flags_are_restored_one_by_one(net: Net) -> None:
    net.train()
    net.norm.eval()
    before = {name: part.training for name, part in net.named_modules()}
    statistics = net.norm.running_mean.clone()
    graph = capture(net, image())
    assert {name: part.training for name, part in net.named_modules()} == before
    assert before[""] and not before["norm"]
    assert torch.equal(net.norm.running_mean, statistics)
    torch.testing.assert_close(graph(image()), (net.eval()(image()),))


def test_the_module_can_be_trained_as_before() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    graph = capture(net, (torch.randn(2, 3),))
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(parameter.requires_grad for parameter in graph.module.parameters())
    (tied,) = [name for name in graph.tensors() if name.endswith("weight")]
    before = graph.tensor(tied).clone()
    graph.copy().tensor(tied).data.mul_(2)
    assert torch.equal(net[0].weight, before)


def test_training_flags_are_restored_after_a_failure(net: Net) -> None:
    net.train()
    net.norm.eval()
    with pytest.raises(ModelError):
        capture(net, torch.randn(2, 5, 6, 6))
    assert net.training and not net.norm.training


def test_no_example_inputs(net: Net) -> None:
    with pytest.raises(ModelError, match=r"^Net: no example inputs; pass the arguments of one call$"):
        capture(net)


def test_inputs_that_do_not_fit(net: Net) -> None:
    with pytest.raises(ModelError, match=r"^Net: cannot be captured by torch\.export \(.*channels.*\)$"):
        capture(net, torch.randn(2, 5, 6, 6))


def test_control_flow_on_values() -> None:
    class Jump(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ModelError, match=r"^Jump: cannot be captured by torch\.export \("):
        capture(Jump(), torch.randn(2, 3))


def test_inputs_that_are_no_tensors_are_constants() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, factor: float, bias: None = None) -> torch.Tensor:
            return x * factor if bias is None else x

    graph = capture(Scaled(), (torch.randn(2, 3), 2.0, None))
    assert [port.name for port in graph.signature.inputs] == ["x"]
    assert list(map(str, graph.remarks)) == [
        "analysis: capture: input factor: is no tensor; the graph has its value 2.0 as a constant"
    ]
    torch.testing.assert_close(graph(torch.ones(5, 3)), (torch.full((5, 3), 2.0),))
