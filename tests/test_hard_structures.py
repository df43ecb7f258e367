"""One small network per structure that is hard to cut: half of everything goes, and the masking law holds.

Norms take their statistics over what is kept. ``left`` bounds the parameters that remain, so that a law that
is kept by cutting nothing does not pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.axes.legal import legalize
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.save import to_model
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.kept_statistics import keep_statistics
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.masking import mask_graph, relative_error
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.rewrite.rewriter import Rewriter

Inputs = tuple[torch.Tensor, ...]


def halves(axes: AxisMap) -> Keep:
    random = np.random.default_rng(0)
    keep = {dim.name: np.zeros(dim.size, bool) for dim in axes.prunable()}
    for mask in keep.values():
        mask[random.permutation(len(mask))[: (len(mask) + 1) // 2]] = True
    return legalize(axes, keep)


def size(graph: Graph) -> int:
    return sum(t.numel() for t in graph.tensors().values() if t.is_floating_point())


@dataclass(frozen=True)
class Outcome:
    error: float
    power: float
    left: float
    axes: AxisMap
    graph: Graph


def outcome(original: Graph) -> Outcome:
    axes = analyze(original)
    keep = halves(axes)
    rewriter = Rewriter(original.copy())
    cut_channels(rewriter, axes, keep)
    cut = rewriter.finish()
    reference = keep_statistics(mask_graph(original, axes, keep), axes, keep)
    before, wanted, found = (g(*original.example) for g in (original, reference, cut))
    error, power = relative_error(wanted, found), relative_error(before, found)
    return Outcome(error, power, size(cut) / size(original), axes, cut)


def captured(make: Callable[[], nn.Module], inputs: Inputs) -> Graph:
    torch.manual_seed(0)
    module = make()
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.data.uniform_(0.4, 1.4)
    return capture(module.eval(), inputs)


class SplitAttention(nn.Module):
    """Two groups of channels weighed against each other by a softmax over the groups, as in ResNeSt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, groups=1), nn.BatchNorm2d(16)
        self.a, self.b, self.out = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 16, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        n, c, h, w = x.shape
        parts = x.reshape(n, 2, c // 2, h, w)
        gap = F.adaptive_avg_pool2d(parts.sum(1), 1)
        weights = self.b(torch.relu(self.a(gap))).view(n, 1, 2, c // 2).transpose(1, 2).softmax(1)
        return self.out((parts * weights.reshape(n, 2, c // 2, 1, 1)).sum(1))


class Multipliers(nn.Module):
    """Depthwise, grouped and transposed convolutions that make more channels than they take."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 12, 3, padding=1, groups=4)
        self.group, self.up = nn.Conv2d(12, 18, 1, groups=3), nn.ConvTranspose2d(18, 24, 2, 2, groups=6)
        self.out = nn.Conv2d(24, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.group(torch.relu(self.depth(self.stem(x)))))
        return self.out(torch.relu(self.up(x)))


class Rotary(nn.Module):
    """Pairs of channels turned by position, once interleaved and once by halves."""

    def __init__(self, interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved
        self.q, self.k, self.v, self.out = (nn.Linear(8, 16) for _ in range(4))
        self.out = nn.Linear(16, 3)
        angle = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.3, 0.1, 0.03]))
        angle = angle.repeat_interleave(2, 1) if interleaved else torch.cat([angle, angle], 1)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        if self.interleaved:
            other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        else:
            left, right = x.chunk(2, -1)
            other = torch.cat([-right, left], -1)
        return x * self.cos + other * self.sin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, 2, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
        return self.out(y.transpose(1, 2).reshape(n, t, 16))


class Tokens(nn.Module):
    """A class token, learnt positions, two blocks with norms before, fused qkv, layer scale."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 16, 2, 2), nn.Parameter(torch.randn(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 5, 16))
        self.norms = nn.ModuleList(norm(16) for _ in range(3))
        self.qkv, self.proj, self.scale = nn.Linear(16, 48), nn.Linear(16, 16), nn.Parameter(torch.ones(16))
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        n, t, _ = x.shape
        q, k, v = self.qkv(self.norms[0](x)).reshape(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 16)
        x = x + self.scale * self.proj(y)
        x = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x)[:, 0])


class Grouped(nn.Module):
    """A group norm after a convolution, whole groups and channels within each group."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(16, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.norm(self.a(x))))


class RootMeanSquare(nn.Module):
    """Written by hand, as language models do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-2) * self.weight


class ResponseNorm(nn.Module):
    """Global response normalization: the norm of a channel over places, by the mean of those norms."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 3)
        self.weight, self.bias = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 1, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.up(x))
        norm = x.norm(p=2, dim=1, keepdim=True)
        x = x + self.bias + self.weight * (x * (norm / (norm.mean(-1, keepdim=True) + 1e-6)))
        return self.down(x)


class Shared(nn.Module):
    """A module called twice, and a matrix that embeds as well as it scores."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 12)
        self.twice, self.up = nn.Linear(12, 12), nn.Linear(12, 24)
        self.down = nn.Linear(24, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.table(x)
        y = torch.tanh(self.twice(torch.tanh(self.twice(y))))
        y = y + self.down(torch.relu(self.up(y)))
        return F.linear(y, self.table.weight)


class TwoInTwoOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(6, 8)
        self.c, self.d = nn.Conv2d(8, 2, 1), nn.Linear(8, 3)

    def forward(self, image: torch.Tensor, words: torch.Tensor) -> dict[str, torch.Tensor]:
        y = torch.relu(self.a(image)) * torch.tanh(self.b(words))[:, :, None, None]
        return {"map": self.c(y), "class": self.d(y.amax((2, 3)))}


class Rearranged(nn.Module):
    """Windows and heads by einops, scores by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = nn.Conv2d(3, 12, 1), nn.Linear(12, 36), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = rearrange(self.stem(x), "n c (h p) (w q) -> (n h w) (p q) c", p=2, q=2)
        q, k, v = rearrange(self.qkv(x), "n t (three h d) -> three n h t d", three=3, h=3)
        scores = torch.einsum("nhtd,nhsd->nhts", q, k).softmax(-1)
        return self.out(rearrange(torch.einsum("nhts,nhsd->nhtd", scores, v), "n h t d -> n t (h d)"))


class Recurrent(nn.Module):
    """A recurrent layer in both directions, from states of zeros, and linear maps before and after it."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.before, self.into = nn.Linear(6, 32), nn.Linear(32, 8)
        self.cell = kind(8, 8, batch_first=True, bidirectional=True)
        self.after, self.out = nn.Linear(16, 32), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.into(torch.relu(self.before(x)))
        return self.out(torch.relu(self.after(self.cell(y)[0])))


class Branching(nn.Module):
    """Control flow that survives the export: nothing is known of it, and it is left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.after, self.out = nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(x)
        y = torch.cond(y.sum() > 0, lambda t: torch.relu(self.a(t)), lambda t: torch.tanh(self.b(t)), (y,))
        return self.out(torch.relu(self.after(y)))


class Standardized(nn.Module):
    """A convolution that normalizes its weight at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.randn(12, 3, 3, 3)), nn.Parameter(torch.ones(12))
        self.last = nn.utils.parametrizations.weight_norm(nn.Conv2d(12, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.reshape(1, 12, -1)
        weight = F.batch_norm(flat, None, None, weight=self.gain * 0.2, training=True).reshape(12, 3, 3, 3)
        return self.last(torch.relu(F.conv2d(x, weight, padding=1)))


MAP, WORDS = (torch.randn(2, 3, 4, 4),), (torch.randn(2, 5, 8),)
STRUCTURES: dict[str, tuple[Callable[[], nn.Module], Inputs, float]] = {
    "split attention": (SplitAttention, MAP, 0.6),
    "convolutions with multipliers": (Multipliers, MAP, 0.5),
    "rotary embedding, interleaved": (lambda: Rotary(True), WORDS, 0.6),
    "rotary embedding, by halves": (lambda: Rotary(False), WORDS, 0.6),
    "class token and positions": (Tokens, MAP, 0.4),
    "root mean square norms": (lambda: Tokens(nn.RMSNorm), MAP, 0.4),
    "root mean square norms by hand": (lambda: Tokens(RootMeanSquare), MAP, 0.4),
    "group norm": (Grouped, MAP, 0.5),
    "global response norm": (ResponseNorm, WORDS, 0.6),
    "tied and shared weights": (Shared, (torch.randint(0, 11, (2, 4)),), 0.5),
    "two inputs, two outputs": (TwoInTwoOut, (MAP[0], torch.randn(2, 6)), 0.7),
    "einops and einsum": (Rearranged, MAP, 0.5),
    "standardized weights": (Standardized, MAP, 0.7),
    "lstm": (lambda: Recurrent(nn.LSTM), (torch.randn(2, 5, 6),), 0.4),
    "gru": (lambda: Recurrent(nn.GRU), (torch.randn(2, 5, 6),), 0.4),
    "control flow": (Branching, (torch.randn(2, 6),), 0.8),
}
OPAQUE = {"control flow"}


@pytest.mark.parametrize("name", STRUCTURES)
def test_half_of_everything_is_cut(name: str) -> None:
    make, inputs, left = STRUCTURES[name]
    found = outcome(captured(make, inputs))
    assert found.error <= 1e-5
    assert found.power >= 1e-3
    assert found.left <= left
    assert bool(found.axes.remarks) == (name in OPAQUE), [str(remark) for remark in found.axes.remarks]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STRUCTURES if name not in ("control flow",)])
def test_the_same_through_onnx(name: str) -> None:
    make, inputs, left = STRUCTURES[name]
    graph = captured(make, inputs)
    found = outcome(import_model(to_model(graph), example=graph.example))
    assert found.error <= 1e-5
    assert found.left <= left + 0.25 and (found.power >= 1e-3 or found.left == 1)


def test_a_norm_over_the_width_is_cut_only_where_that_is_allowed() -> None:
    graph = captured(Tokens, MAP)
    by_default = PassManager(parse_pipeline("prune-channels{keep=0.5}")).run(graph).graph
    assert by_default.tensor("patch.weight").shape[0] == 16
    assert by_default.tensor("up.weight").shape == (16, 16)
    allowed = PassManager(parse_pipeline("prune-channels{keep=0.5 normalized=true}")).run(graph)
    assert allowed.graph.tensor("patch.weight").shape[0] == 8
    (record,) = allowed.records
    assert record.check is not None and record.check.claim == "masked" and record.spared == ()


def test_a_root_mean_square_norm_keeps_its_scale_exactly() -> None:
    """γ·√(D/K) and ε·D/K; nothing is added to the program."""
    original = captured(
        lambda: nn.Sequential(nn.Linear(4, 8), nn.RMSNorm(8, eps=0.5), nn.Linear(8, 3)), (torch.randn(2, 4),)
    )
    found = outcome(original)
    assert found.error <= 1e-6 and found.axes.dims["0"].blocked is None
    nodes = [n for n in found.graph.module.graph.nodes if n.op == "call_function"]
    assert len(nodes) == 3
    norm = nodes[1]
    assert norm.args[1] == [4] and norm.args[3] == 1.0


def test_standardized_weights_are_stored_as_they_are_used() -> None:
    graph = captured(Standardized, MAP)
    assert any("stored as they are used" in remark.message for remark in graph.remarks)
    weight = graph.tensor("weight").reshape(12, -1)
    assert float(weight.mean(1).abs().max()) < 1e-6
    torch.manual_seed(0)
    module = Standardized()
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.data.uniform_(0.4, 1.4)
    assert relative_error((module(*graph.example),), graph(*graph.example)) < 1e-6
