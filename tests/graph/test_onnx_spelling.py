"""Attention of any rank is exported, and computes the same in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from otgraph.errors import ModelError
from otgraph.graph import save
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx_spelling import spell_out_attention
from otgraph.graph.save import to_model
from otgraph.rewrite.masking import relative_error

WIDTH, PLACES = 4, 5


class Attention(nn.Module):
    """Queries of ``len(axes) + 3`` axes; of a mask, one row for all queries."""

    def __init__(self, axes: tuple[int, ...], mask: str, scale: float | None) -> None:
        super().__init__()
        self.axes, self.scale = axes, scale
        self.qkv = nn.Linear(6, 3 * WIDTH)
        masks = {"bias": torch.linspace(-1, 1, PLACES)[None], "truths": torch.arange(PLACES)[None] < 3}
        self.register_buffer("mask", masks.get(mask))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], *self.axes, PLACES, 3 * WIDTH).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=self.scale).flatten(1, -2)


def run(model: onnx.ModelProto, graph: Graph) -> tuple[torch.Tensor, ...]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {port.name: x.numpy() for port, x in zip(session.get_inputs(), graph.example, strict=True)}
    return tuple(torch.from_numpy(np.asarray(value)) for value in session.run(None, feeds))


def attention(axes: tuple[int, ...], mask: str = "none", scale: float | None = None) -> Graph:
    torch.manual_seed(0)
    return capture(Attention(axes, mask, scale).eval(), (torch.randn(2, *axes, PLACES, 6),))


@pytest.mark.parametrize("axes", [(), (3,), (3, 2)])
@pytest.mark.parametrize(("mask", "scale"), [("none", None), ("none", 0.3), ("bias", None), ("truths", None)])
def test_attention_of_any_rank(axes: tuple[int, ...], mask: str, scale: float | None) -> None:
    graph = attention(axes, mask, scale)
    before = str(graph.module.graph)
    assert relative_error(graph(*graph.example), run(to_model(graph), graph)) < 1e-6
    assert str(graph.module.graph) == before


@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_scale_matters(scale: float | None) -> None:
    """The other scale is no answer: the comparison above would notice."""
    one, other = attention((3, 2), "none", scale), attention((3, 2), "none", 1.0)
    assert relative_error(one(*one.example), run(to_model(other), other)) > 1e-3


def test_four_axes_are_left_to_the_exporter() -> None:
    graph = attention((3,))
    module = graph.copy().module
    spell_out_attention(module, graph.example)
    assert str(module.graph) == str(graph.module.graph)


def test_without_it_the_export_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "spell_out_attention", lambda module, inputs: None)
    with pytest.raises(ModelError, match=r"torch\.onnx cannot export it"):
        to_model(attention((3, 2)))
