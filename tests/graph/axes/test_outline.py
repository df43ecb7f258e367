"""The axes of a network do not hang on what its products compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from otgraph.graph.axes import outline
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.save import to_model

aten = torch.ops.aten


class Mixed(nn.Module):
    """Convolutions of every kind, attention, and a product of three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.group = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, groups=4, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 2, 2, groups=2)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(torch.relu(self.group(torch.relu(self.stem(x))))).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(x.shape))


def onnx_graph() -> Graph:
    graph = capture(Mixed().eval(), (torch.randn(2, 3, 4, 4),))
    return import_model(to_model(graph), example=graph.example)


def plain(axes: AxisMap) -> tuple[object, ...]:
    return axes.dims, axes.tensors, axes.remarks


def test_axes_are_the_same_without_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = onnx_graph()
    whole = analyze(graph)
    done: list[int] = []

    def spoiled(*shape: object, **options: object) -> torch.Tensor:
        if options["device"] != torch.device("meta") and options["device"] != "meta":
            done.append(1)
        return original(*shape, **options)

    original = torch.empty_strided
    monkeypatch.setattr(outline, "HEAVY", 1)
    monkeypatch.setattr(torch, "empty_strided", spoiled)
    assert plain(analyze(graph)) == plain(whole)
    assert len(done) >= 7  # three convolutions, two layers, two products of the attention
    assert len(whole.prunable()) >= 3


def test_products_of_weights_are_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes may be read out of what is made of weights."""

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(4, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ (self.a @ self.b)

    seen: list[object] = []
    monkeypatch.setattr(
        outline, "call", lambda func, args, kwargs: seen.append(func) or func(*args, **kwargs)
    )
    graph = capture(Folded(), (torch.randn(2, 3),))
    analyze(import_model(to_model(graph), example=graph.example))
    assert seen.count(aten.mm.default) == 1


@pytest.mark.parametrize("transposed", [False, True])
def test_depth_is_what_each_entry_sums(transposed: bool) -> None:
    weight = torch.randn(6, 4, 3, 3)
    x = torch.randn(1, 6 if transposed else 8, 5, 5)
    groups = 3 if transposed else 2
    args = (x, weight, None, [1, 1], [0, 0], [1, 1], transposed, [0, 0], groups)
    assert outline._depth(aten.convolution.default, args) == (2 if transposed else 4 * 9)
    result = outline.call(aten.convolution.default, args, {})
    assert torch.equal(result, aten.convolution.default(*args))  # light, so carried out
