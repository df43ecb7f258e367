"""Capture leaves the module as it was, and the saved file computes what it computed in that state."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from otgraph.errors import ModelError
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline


class Changing(nn.Module):
    """A convolution whose output a state is mixed into, and a forward that changes the state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.register_buffer("ema", torch.rand(8))
        self.register_buffer("steps", torch.tensor(3.0), persistent=False)
        self.calls, self.cache, self.plain, self.log = 1, None, torch.rand(8), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.conv(x)).relu()
        return self.head(self.change(h))

    def change(self, h: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def spread(state: torch.Tensor) -> torch.Tensor:
    return state[None, :, None, None]


class MovingAverage(Changing):
    def change(self, h: torch.Tensor) -> torch.Tensor:
        self.ema.mul_(0.9).add_(h.mean((0, 2, 3)), alpha=0.1)
        return h - spread(self.ema)


class Reassigned(Changing):
    def change(self, h: torch.Tensor) -> torch.Tensor:
        self.ema = 0.9 * self.ema + h.mean((0, 2, 3))
        return h - spread(self.ema)


class Steps(Changing):
    def change(self, h: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return h * self.steps


class Counter(Changing):
    def change(self, h: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return h * self.calls


class Cache(Changing):
    def change(self, h: torch.Tensor) -> torch.Tensor:
        if self.cache is None:
            self.cache = h.mean((0, 2, 3))
        self.log.append(len(self.log))
        return h - spread(self.cache)


class PlainTensor(Changing):
    def change(self, h: torch.Tensor) -> torch.Tensor:
        self.plain.mul_(2)
        return h - spread(self.plain)


class Trained(Changing):
    """A batch norm that trains whatever its flag says."""

    def change(self, h: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        return nn.functional.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, training=True)


class Weights(Changing):
    def change(self, h: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.conv.bias.add_(1)
        return h + spread(self.conv.bias)


class Locked(MovingAverage):
    """It cannot be copied, and holds what cannot either."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def change(self, h: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.log.append(h)
        return super().change(h)


SAID = {
    MovingAverage: ["buffer ema"],
    Reassigned: ["buffer ema"],
    Steps: ["buffer steps"],
    Counter: ["attribute calls"],
    Cache: ["attribute cache", "attribute log"],
    PlainTensor: ["attribute plain", "buffer plain"],
    Trained: ["buffer norm.running_mean", "buffer norm.running_var"],
    Weights: ["parameter conv.bias"],
    Locked: ["attribute calls", "attribute log", "buffer ema"],
}


def state(module: nn.Module) -> dict[str, Any]:
    """Everything of a module that can be compared: values, identities, flags and hooks."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            found[f"{path}.{name}"] = (
                (id(value), value) if isinstance(value, (int, type(None))) else id(value)
            )
            if isinstance(value, (dict, list)):
                found[f"{path}.{name}"] = [
                    *(value.items() if isinstance(value, dict) and name != "_buffers" else []),
                    len(value),
                ]
        for name, value in [*part.named_buffers(recurse=False), *part.named_parameters(recurse=False)]:
            found[f"{path}.{name}"] = (id(value), value.tolist(), value.requires_grad)
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                found[f"{path}.{name}"] = (id(value), value.tolist())
    return found


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 7, 7, generator=torch.Generator().manual_seed(1))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def saved(graph: Graph, path: Path, *feeds: torch.Tensor) -> list[torch.Tensor]:
    """What ONNX Runtime makes of the graph's file."""
    graph.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    named = {port.name: feed.numpy() for port, feed in zip(graph.signature.inputs, feeds, strict=True)}
    return [torch.from_numpy(y) for y in session.run([p.name for p in graph.signature.outputs], named)]


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("training", [False, True])
def test_what_forward_changes(kind: Callable[[], Changing], training: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = kind().train(training)
    module.head.eval()
    module.conv.weight.requires_grad_(False)
    x = image()
    before = state(module)
    graph = capture(module, x)
    assert state(module) == before
    assert [r.where for r in graph.remarks] == SAID[kind] and {r.kind for r in graph.remarks} == {"analysis"}
    assert torch.equal(x, image())
    twice = graph(x)[0], graph(x)[0]
    with torch.no_grad():
        expected = module.eval()(x)
    assert relative(twice[0], expected) < 1e-5 and torch.equal(*twice)
    if not training:
        assert relative(saved(graph, tmp_path / "net.onnx", x)[0], expected) < 1e-5


def test_the_remark_says_what_it_means() -> None:
    said = [str(remark) for remark in capture(MovingAverage(), image()).remarks]
    assert said == [
        "analysis: capture: buffer ema: is changed by forward; the graph has the values it had on entry"
    ]
    said = [str(remark) for remark in capture(Counter(), image()).remarks]
    assert said == [
        "analysis: capture: attribute calls: is changed by forward; the graph does what the first call does"
    ]


def test_a_failure_leaves_the_module_too() -> None:
    for kind in (MovingAverage, Locked, Counter):
        module = kind().train()
        module.head = nn.Conv2d(5, 2, 1)  # fails after the change
        before = state(module)
        with pytest.raises(ModelError, match="to have 5 channels, but got 8 channels"):
            capture(module, image())
        assert state(module) == before


def test_inputs_are_not_changed() -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(2) + 1

    x = torch.ones(2, 3)
    graph = capture(InPlace(), x)
    assert [remark.where for remark in graph.remarks] == ["input x"]
    torch.testing.assert_close(graph(x), (torch.full((2, 3), 3.0),))
    assert torch.equal(x, torch.ones(2, 3)) and torch.equal(graph.example[0], torch.ones(2, 3))


def test_the_graph_has_weights_of_its_own() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    program = torch.export.export(net, (torch.randn(2, 3),))
    for graph in (capture(net, torch.randn(2, 3)), capture(program)):
        own = {tensor.untyped_storage().data_ptr() for tensor in graph.tensors().values()}
        theirs = {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()}
        assert not own & theirs
        for tensor in graph.tensors().values():
            tensor.data.zero_()
    assert net[0].weight.any() and program.state_dict["0.weight"].any()


def test_a_program_is_left_as_it_was() -> None:
    program = torch.export.export(MovingAverage().eval(), (image(),), strict=False)
    before = copy.deepcopy(program.state_dict)
    text, guards = str(program), list(program._guards_code)
    graph = capture(program)
    graph(image())
    assert [remark.where for remark in graph.remarks] == ["buffer ema"]
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict.items())
    assert str(program) == text and program._guards_code == guards


def test_random_states_are_left() -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0 * torch.rand(1) + 0 * random.random() + 0 * float(np.random.rand())

    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1:3]

    before = repr(states())
    capture(Noisy(), torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))
    assert repr(states()) == before


@pytest.mark.parametrize("how", ["closure", "global", "hook"])
def test_functions_put_on_a_module(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy would run the original's parts, so the module stands in for itself; names stay what they are."""
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.BatchNorm1d(3))
    layer, norm = net[0], net[2]
    inner = layer.forward
    if how == "closure":
        layer.forward = lambda x: inner(x) + layer.weight.sum()
    elif how == "global":
        monkeypatch.setitem(globals(), "LAYER", layer)
        layer.forward = _global_forward
    else:
        layer.register_forward_hook(lambda _m, _i, y: y + norm.running_mean.add_(1))
    before = state(net)
    graph = capture(net, torch.randn(2, 3))
    assert state(net) == before
    assert {"0.weight", "2.running_mean"} <= set(graph.tensors())
    x = torch.randn(4, 3)
    with torch.no_grad():
        torch.testing.assert_close(graph(x)[0], net.eval()(x))


LAYER = nn.Linear(3, 3)


def _global_forward(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, LAYER.weight, LAYER.bias)


def test_attributes_with_a_history() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.last = nn.Linear(3, 3), None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last = self.linear(x)
            return self.last

    net = Keeps()
    net(torch.randn(2, 3))
    last = net.last
    capture(net, torch.randn(2, 3))
    assert net.last is last
    last.sum().backward()
    assert net.linear.weight.grad is not None


def test_a_tensor_in_a_list_must_be_registered() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.states = [torch.zeros(3)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.states[0].add_(1)

    net = Listed()
    with pytest.raises(
        ModelError, match=r"^Listed: forward changes a tensor that is no buffer \(.*register_buf"
    ):
        capture(net, torch.randn(2, 3))
    assert torch.equal(net.states[0], torch.zeros(3))


def test_a_module_that_is_not_initialized() -> None:
    with pytest.raises(
        ModelError, match=r"^LazyLinear: weight is not initialized; call it once, or load its w"
    ):
        capture(nn.LazyLinear(3), torch.randn(2, 3))


@pytest.mark.parametrize("kind", [MovingAverage, Trained, Counter])
def test_such_a_graph_can_be_pruned(kind: Callable[[], Changing]) -> None:
    torch.manual_seed(0)
    module = kind().eval()
    before = state(module)
    graph = capture(module, image())
    result = PassManager(parse_pipeline("prune-channels{keep=0.5}")).run(
        graph, Context(original=graph, seed=0)
    )
    assert result.graph.tensor("conv.weight").shape[0] < 8
    assert result.graph(image())[0].shape == graph(image())[0].shape
    assert state(module) == before
