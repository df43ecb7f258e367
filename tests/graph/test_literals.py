"""Arguments that repeat a size: each says the right thing after a cut, and only then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.literals import RULES, place_after_cut
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.masking import masking_error
from otgraph.rewrite.rewriter import Rewriter


class Lambda(nn.Module):
    """One convolution to 12 channels, any function of it, and a mean over all places."""

    def __init__(self, function: Any, *parts: nn.Module) -> None:
        super().__init__()
        self.a, self.parts, self.function = nn.Conv2d(3, 12, 1), nn.ModuleList(parts), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.a(x), *self.parts)


def arguments(module: nn.Module, removed: list[int], operator: str) -> list[Any]:
    """The first call of ``operator`` after indices of the first dim are cut, which must obey the law."""
    torch.manual_seed(0)
    graph = capture(module.eval(), (torch.randn(2, 3, 4, 4),))
    axes = analyze(graph)
    dim = next(d for d in axes.prunable())
    keep = {dim.name: np.array([i not in removed for i in range(dim.size)])}
    cut = cut_of(graph, axes, keep)
    assert masking_error(graph, cut, axes, keep, *graph.example) <= 1e-6
    return list(next(n for n in cut.module.graph.nodes if op_name(n) == operator).args)


def cut_of(graph: Graph, axes: Any, keep: Any) -> Graph:
    rewriter = Rewriter(graph.copy())
    cut_channels(rewriter, axes, keep)
    return rewriter.finish()


def test_groups_count_those_that_are_left() -> None:
    module = Lambda(lambda x, f, g: g(f(x)), nn.Conv2d(12, 12, 1, groups=12), nn.Conv2d(12, 2, 1))
    args = arguments(module, [0, 5, 7], "aten.conv2d")
    assert args[6:] == []  # the first convolution has no groups to speak of
    torch.manual_seed(0)
    graph = capture(module, (torch.randn(2, 3, 4, 4),))
    axes = analyze(graph)
    dim = axes.prunable()[0]
    cut = cut_of(graph, axes, {dim.name: np.arange(12) >= 3})
    groups = [n.args[6] for n in cut.module.graph.nodes if op_name(n) == "aten.conv2d" and len(n.args) > 6]
    assert groups == [9]


def test_views_repeat_the_result() -> None:
    module = Lambda(lambda x, f: f(x.reshape(x.shape[0], 192)), nn.Linear(192, 2))
    shape = arguments(module, [1, 2], "aten.view")[1]
    assert shape[1] == 160


def test_a_view_of_minus_one_stays() -> None:
    module = Lambda(lambda x, f: f(torch.ops.aten.view.default(x, [2, -1])), nn.Linear(192, 2))
    graph = capture(module, (torch.randn(2, 3, 4, 4),))
    axes = analyze(graph)
    cut = cut_of(graph, axes, {axes.prunable()[0].name: np.arange(12) > 0})
    views = [n.args[1] for n in cut.module.graph.nodes if op_name(n) == "aten.view"]
    assert views == [[2, -1]]


def test_a_split_becomes_the_sizes_that_are_left() -> None:
    module = Lambda(lambda x, f: f(torch.cat(x.split([5, 7], 1)[::-1], 1)), nn.Conv2d(12, 2, 1))
    assert arguments(module, [0, 1], "aten.split_with_sizes")[1] == [3, 7]
    chunks = Lambda(lambda x, f: f(x.chunk(2, 1)[0] + x.chunk(2, 1)[1]), nn.Conv2d(6, 2, 1))
    assert arguments(chunks, [0, 1], "aten.split_with_sizes")[1] == [4, 4]


@pytest.mark.parametrize(
    ("start", "stop", "removed"),
    [(4, 9, [0, 2]), (-4, 12, [0, 2]), (4, 2**63 - 1, [0, 2, 3])],
)
def test_slices_count_what_is_left_before_them(start: int, stop: int, removed: list[int]) -> None:
    taken = len(range(12)[start:stop])
    mask = np.array([i not in removed for i in range(12)])
    assert place_after_cut(start, mask) == mask[: start % 12].sum()
    assert len(range(int(mask.sum()))[place_after_cut(start, mask) : place_after_cut(stop, mask)]) == int(
        mask[start:stop].sum()
    )
    module = Lambda(lambda x, f: f(x[:, start:stop]), nn.Conv2d(taken, 2, 1))
    graph = capture(module, (torch.randn(2, 3, 4, 4),))
    axes = analyze(graph)
    keep = {d.name: np.arange(d.size) % 2 == 0 for d in axes.prunable()}
    cut = cut_of(graph, axes, keep)
    assert masking_error(graph, cut, axes, keep, *graph.example) <= 1e-6


def test_the_default_attention_scale_is_pinned() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qk, self.v = nn.Linear(3, 16), nn.Linear(3, 4)
            self.out = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = x.flatten(2).transpose(1, 2)
            q, k = self.qk(t).chunk(2, -1)
            return self.out(F.scaled_dot_product_attention(q[:, None], k[:, None], self.v(t)[:, None]))

    torch.manual_seed(0)
    graph = capture(Attention(), (torch.randn(2, 3, 4, 4),))
    axes = analyze(graph)
    dim = next(d for d in axes.prunable() if d.size == 8)
    keep = {dim.name: np.arange(8) < 5}
    cut = cut_of(graph, axes, keep)
    (node,) = (n for n in cut.module.graph.nodes if op_name(n) == "aten.scaled_dot_product_attention")
    assert node.kwargs["scale"] == pytest.approx(8**-0.5)
    assert masking_error(graph, cut, axes, keep, *graph.example) <= 1e-6


def test_normalized_shapes_follow() -> None:
    module = Lambda(lambda x, norm, f: f(norm(x.permute(0, 2, 3, 1))), nn.LayerNorm(12), nn.Linear(12, 2))
    graph = capture(module, (torch.randn(2, 3, 4, 4),))
    axes = analyze(graph)
    (dim,) = axes.prunable()
    assert dim.normalized
    cut = cut_of(graph, axes, {dim.name: np.arange(12) < 7})
    (node,) = (n for n in cut.module.graph.nodes if op_name(n) == "aten.layer_norm")
    assert node.args[1] == [7]
    assert cut(*graph.example)[0].shape == (2, 4, 4, 2)


def test_a_stale_literal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule for reshapes the cut graph cannot run: the tests above have teeth."""
    monkeypatch.delitem(RULES, "aten.view")
    module = Lambda(lambda x, f: f(x.reshape(x.shape[0], 192)), nn.Linear(192, 2))
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        arguments(module, [1, 2], "aten.view")
