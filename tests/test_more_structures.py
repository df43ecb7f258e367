"""More structures that are hard to cut, one small network each: as in ``test_hard_structures``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from otgraph.graph.axes.algebra import Axis, resolve
from otgraph.graph.axes.rules import RULES
from otgraph.graph.axes.tracker import Tracked, Tracker


def _sibling(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


hard: Any = _sibling("test_hard_structures")


class ChannelShuffle(nn.Module):
    """Two units of ShuffleNet: half the channels pass, half are convolved, and both are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(8, 8, 1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 8, 3, padding=1, groups=8),
                nn.Conv2d(8, 8, 1),
            )
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for branch in self.branches:
            left, right = x.chunk(2, 1)
            x = torch.cat([left, branch(right)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.out(x)


class GroupShuffle(nn.Module):
    """The unit of the first ShuffleNet: grouped, shuffled, grouped otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 18, 1), nn.Conv2d(18, 18, 1, groups=3)
        self.shuffle, self.b, self.out = (
            nn.ChannelShuffle(3),
            nn.Conv2d(18, 18, 1, groups=3),
            nn.Conv2d(18, 3, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shuffle(torch.relu(self.a(torch.relu(self.stem(x)))))
        return self.out(torch.relu(self.b(x)))


class SqueezeExcite(nn.Module):
    """A depthwise convolution whose channels are weighed by a narrow net over their means, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.depth = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 24, 1),
            nn.Conv2d(24, 24, 3, 1, 1, 1, 24),
        )
        self.squeeze, self.excite, self.down = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1), nn.Conv2d(24, 8, 1)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = F.silu(self.depth(F.silu(self.up(x))))
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.out(x + self.down(y * scale))


class Dense(nn.Module):
    """Each layer reads all that were before it, as in DenseNet; a transition, and a second block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.layers = nn.ModuleList(self._layer(6 + 4 * k) for k in range(3))
        self.transition = self._layer(18, 9)
        self.last, self.out = self._layer(9), nn.Conv2d(13, 3, 1)

    def _layer(self, width: int, growth: int = 4) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, growth, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        x = F.avg_pool2d(self.transition(x), 2)
        return self.out(torch.relu(torch.cat([self.last(x), x], 1)))


class Attention(nn.Module):
    """Self-attention of four heads of width 4, its projections fused or apart, its products fused or not."""

    def __init__(self, *, together: bool, fused: bool) -> None:
        super().__init__()
        self.together, self.fused = together, fused
        self.into, self.out = nn.Linear(8, 12), nn.Linear(16, 3)
        if together:
            self.qkv = nn.Linear(12, 48)
        else:
            self.q, self.k, self.v = (nn.Linear(12, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.into(x))
        n, t, _ = x.shape
        if self.together:
            q, k, v = self.qkv(x).reshape(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (f(x).unflatten(-1, (4, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * 4**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class GroupedQueries(nn.Module):
    """Six query heads share two key heads: the operator's way, by repeating, or by expanding."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.into = way, nn.Linear(8, 12)
        self.q, self.k, self.v, self.out = (
            nn.Linear(12, 24),
            nn.Linear(12, 8),
            nn.Linear(12, 8),
            nn.Linear(24, 3),
        )

    def more(self, x: torch.Tensor) -> torch.Tensor:
        if self.way == "repeat":
            return x.repeat_interleave(3, 1)
        n, h, t, d = x.shape
        return x[:, :, None].expand(n, h, 3, t, d).reshape(n, 3 * h, t, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.into(x))
        n, t, _ = x.shape
        q = self.q(x).view(n, t, 6, 4).transpose(1, 2)
        k, v = (f(x).view(n, t, 2, 4).transpose(1, 2) for f in (self.k, self.v))
        if self.way == "operator":
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            y = F.scaled_dot_product_attention(q, self.more(k), self.more(v))
        return self.out(y.transpose(1, 2).reshape(n, t, 24))


class ShiftedWindows(nn.Module):
    """Two blocks of Swin: windows of 2×2, the second shifted and masked, biases from a table by an index."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.out = nn.Conv2d(3, 16, 1), nn.LayerNorm(16), nn.Linear(16, 3)
        self.qkv = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.proj = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.tables = nn.ParameterList(torch.randn(9, 4) for _ in range(2))
        places = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None, :] + 1
        self.register_buffer("index", (apart[0] * 3 + apart[1]).flatten())
        areas = torch.zeros(1, 4, 4, 1)
        areas[:, :1], areas[:, :, :1] = 1, areas[:, :, :1] + 2
        areas = self.windows(torch.roll(areas, (-1, -1), (1, 2))).squeeze(-1)
        self.register_buffer("mask", (areas[:, None] != areas[:, :, None]) * -100.0)

    @staticmethod
    def windows(x: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        return x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)

    def attend(self, x: torch.Tensor, k: int) -> torch.Tensor:
        b, t, c = x.shape
        q, key, v = self.qkv[k](x).reshape(b, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q * 0.5 @ key.transpose(-2, -1)
        scores = scores + self.tables[k][self.index].view(t, t, -1).permute(2, 0, 1)
        if k:
            scores = (scores.view(-1, 4, 4, t, t) + self.mask[:, None]).view(-1, 4, t, t)
        return self.proj[k]((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        for k in range(2):
            n, h, w, c = x.shape
            y = torch.roll(self.norm(x), (-k, -k), (1, 2)) if k else self.norm(x)
            y = self.attend(self.windows(y), k).view(n, h // 2, w // 2, 2, 2, c)
            y = y.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
            x = x + (torch.roll(y, (k, k), (1, 2)) if k else y)
        return self.out(x.mean((1, 2)))


class Pixels(nn.Module):
    """Places become channels, and channels places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(24, 32, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pixel_unshuffle(torch.relu(self.a(x)), 2)
        return self.c(F.pixel_shuffle(torch.relu(self.b(x)), 2))


class Pyramid(nn.Module):
    """Three levels resized and added: to a size, by a factor; nearest, bilinear, bicubic."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 3, 1)
        self.levels = nn.ModuleList(nn.Conv2d(12, 12, 3, 2, 1) for _ in range(2))
        self.sides = nn.ModuleList(nn.Conv2d(12, 12, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.stem(x))
        b = torch.relu(self.levels[0](a))
        c = self.sides[2](torch.relu(self.levels[1](b)))
        b = self.sides[1](b) + F.interpolate(c, size=b.shape[-2:], mode="nearest")
        a = self.sides[0](a) + F.interpolate(b, scale_factor=2, mode="bilinear", align_corners=False)
        c = F.interpolate(c, size=(4, 4), mode="bicubic", align_corners=False)
        return self.out(torch.relu(a + c))


class Decoder(nn.Module):
    """Down and up again: transposed convolutions with output padding, strides, and a skip that is joined."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1)
        self.deep = nn.ConvTranspose2d(16, 16, 3, padding=1, groups=4)
        self.norm, self.out = nn.BatchNorm2d(16), nn.Conv2d(16, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.a(x))
        b = torch.relu(self.up(torch.relu(self.b(a))))
        return self.out(torch.relu(self.norm(self.deep(torch.cat([a, b], 1)))))


class Gymnastics(nn.Module):
    """Axes split, moved, chunked, gathered and merged again in every way there is a name for."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = (
            nn.Linear(8, 24),
            nn.Linear(12, 24),
            nn.Linear(24, 16),
            nn.Linear(16, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x)).unflatten(-1, (2, 3, 4))
        y = y.movedim(-1, 2).flatten(2, 3)
        one, two = y.flatten(-2).unflatten(-1, (4, 2, 3)).movedim(-2, 0).flatten(3, 4).unbind(0)
        y = torch.relu(self.b(torch.stack([one, two], 0).sum(0)))
        first, second, third = y.chunk(3, -1)
        y = torch.cat(
            [third.narrow(-1, 0, 8), first[..., :8], second.contiguous().swapaxes(0, 1).swapaxes(1, 0)], -1
        )
        y = torch.cat(torch.relu(self.c(y)).split(2, 1), 1)
        return self.out(y.squeeze().unsqueeze(1).squeeze(1))


class Signal(nn.Module):
    """Convolutions over one axis: dilated, grouped, gated."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv1d(3, 16, 3, padding=2, dilation=2), nn.BatchNorm1d(16)
        self.b, self.c, self.out = (
            nn.Conv1d(16, 24, 3, padding=1, groups=4),
            nn.Conv1d(12, 12, 1),
            nn.Linear(12, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.glu(self.b(F.max_pool1d(torch.relu(self.norm(self.a(x))), 2)), 1)
        return self.out(torch.relu(self.c(x)).mean(-1))


class Volume(nn.Module):
    """Convolutions over three axes, one of them factored into space and time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.space, self.time = (
            nn.Conv3d(8, 12, (1, 3, 3), padding=(0, 1, 1)),
            nn.Conv3d(12, 8, (3, 1, 1), padding=(1, 0, 0)),
        )
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = x + self.time(torch.relu(self.space(x)))
        return self.out(F.adaptive_avg_pool3d(F.max_pool3d(x, 2), 1).flatten(1))


class Bags(nn.Module):
    """Embeddings summed or averaged over bags of a size, added to those of a table; a narrow net."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.mean = nn.EmbeddingBag(11, 12, mode="sum"), nn.EmbeddingBag(11, 12, mode="mean")
        self.table, self.a, self.out = nn.Embedding(11, 12), nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.total(x) + self.mean(x) + self.table(x[:, 0])
        return self.out(torch.relu(self.a(y)))


class Translator(nn.Module):
    """The last state of an encoder begins a decoder; its outputs run over both, a residual and a norm."""

    def __init__(self, kind: type[nn.GRU] | type[nn.RNN]) -> None:
        super().__init__()
        self.encoder, self.bridge = kind(8, 12, 2, batch_first=True), nn.Linear(12, 12)
        self.into, self.decoder, self.out = nn.Linear(8, 12), kind(12, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.tanh(self.bridge(self.encoder(x)[1][-1]))
        y = self.into(x.flip(1))
        return self.out(y + self.decoder(y, state[None])[0])


class Learnt(nn.Module):
    """Recurrent in two directions from states that are learnt; the outputs of both are added."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.cell, self.out = (
            nn.Linear(8, 12),
            nn.LSTM(12, 8, 2, bidirectional=True),
            nn.Linear(8, 3),
        )
        self.h, self.c = (nn.Parameter(torch.randn(4, 1, 8)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = (state.expand(-1, x.shape[0], -1).contiguous() for state in (self.h, self.c))
        y, (last, _) = self.cell(torch.relu(self.into(x)).transpose(0, 1), (h, c))
        one, other = y.chunk(2, -1)
        return self.out((one + other).mean(0) + last[-1])


class MixedKernels(nn.Module):
    """Each sample is convolved, channel by channel, with its own mixture of four kernels, as in CondConv: the
    batch lies among the channels, and the number of groups is computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.route, self.out = nn.Conv2d(3, 12, 1), nn.Linear(12, 4), nn.Conv2d(12, 3, 1)
        self.kernels = nn.Parameter(torch.randn(4, 12 * 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        n, c, h, w = x.shape
        kernels = (torch.sigmoid(self.route(x.mean((2, 3)))) @ self.kernels).view(n * c, 1, 3, 3)
        y = F.conv2d(x.reshape(1, n * c, h, w), kernels, padding=1, groups=n * c)
        return self.out(torch.relu(y.reshape(n, c, h, w)))


class ConvNext(nn.Module):
    """Blocks of ConvNeXt: a norm over channels by permuting there and back, layer scale, a norm down."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norms = nn.Conv2d(3, 12, 1), nn.ModuleList(nn.LayerNorm(12) for _ in range(3))
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.up, self.down, self.scale = (
            nn.Linear(12, 24),
            nn.Linear(24, 12),
            nn.Parameter(torch.randn(12, 1, 1)),
        )
        self.lower, self.out = nn.Conv2d(12, 16, 2, 2), nn.Linear(16, 3)

    def norm(self, x: torch.Tensor, k: int) -> torch.Tensor:
        return self.norms[k](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x), 0)
        y = self.norms[1](self.depth(x).permute(0, 2, 3, 1))
        x = x + self.scale * self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
        return self.out(self.lower(self.norm(x, 2)).mean((2, 3)))


MAP, WORDS = (torch.randn(2, 3, 4, 4),), (torch.randn(2, 5, 8),)


class Vector(nn.Module):
    """A vector times a matrix and the reverse: torch gives the vector an axis and takes it away."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(8, 16)
        self.matrix, self.vector = nn.Parameter(torch.randn(16, 12)), nn.Parameter(torch.randn(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.relu(self.lift(x)).flatten(0, 1)
        pooled = torch.relu(rows.sum(0) @ self.matrix)
        return torch.relu(rows @ self.matrix) @ self.vector + pooled @ self.vector


STRUCTURES: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...], float]] = {
    "channel shuffle": (ChannelShuffle, MAP, 0.45),
    "channel shuffle between groups": (GroupShuffle, MAP, 0.5),
    "squeeze and excite": (SqueezeExcite, MAP, 0.4),
    "dense concatenation": (Dense, MAP, 0.4),
    "fused qkv": (lambda: Attention(together=True, fused=True), WORDS, 0.4),
    "fused qkv, products by hand": (lambda: Attention(together=True, fused=False), WORDS, 0.4),
    "separate q, k, v": (lambda: Attention(together=False, fused=True), WORDS, 0.4),
    "separate q, k, v, products by hand": (lambda: Attention(together=False, fused=False), WORDS, 0.4),
    "grouped queries by the operator": (lambda: GroupedQueries("operator"), WORDS, 0.4),
    "grouped queries by repeating": (lambda: GroupedQueries("repeat"), WORDS, 0.4),
    "grouped queries by expanding": (lambda: GroupedQueries("expand"), WORDS, 0.4),
    "shifted windows": (ShiftedWindows, MAP, 0.5),
    "pixel shuffle": (Pixels, MAP, 0.4),
    "resized levels": (Pyramid, MAP, 0.4),
    "transposed convolutions": (Decoder, MAP, 0.4),
    "axes split and merged": (Gymnastics, (torch.randn(2, 4, 8),), 0.4),
    "one axis": (Signal, (torch.randn(2, 3, 8),), 0.4),
    "three axes": (Volume, (torch.randn(2, 3, 4, 4, 4),), 0.4),
    "embedding bags": (Bags, (torch.randint(0, 11, (2, 4)),), 0.5),
    "a mixture of kernels per sample": (MixedKernels, MAP, 0.4),
    "states handed on, gru": (lambda: Translator(nn.GRU), WORDS, 0.4),
    "states handed on, rnn": (lambda: Translator(nn.RNN), WORDS, 0.4),
    "learnt states": (Learnt, WORDS, 0.4),
    "vectors times matrices": (Vector, WORDS, 0.4),
    "norms by permuting, layer scale": (ConvNext, MAP, 0.4),
}

LOOPS = {"embedding bags"}
"""What torch writes to ONNX as a loop over sequences, of which nothing is known."""
NOT_IN_ONNX = {"a mixture of kernels per sample"}
"""A number of groups that depends on the batch: an attribute there, so torch does not write it."""


@pytest.mark.parametrize("name", STRUCTURES)
def test_half_of_everything_is_cut(name: str) -> None:
    make, inputs, left = STRUCTURES[name]
    found = hard.outcome(hard.captured(make, inputs))
    assert found.error <= 1e-5
    assert found.power >= 1e-3
    assert found.left <= left
    assert not found.axes.remarks, [str(remark) for remark in found.axes.remarks]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STRUCTURES if name not in LOOPS | NOT_IN_ONNX])
def test_the_same_through_onnx(name: str) -> None:
    make, inputs, left = STRUCTURES[name]
    graph = hard.captured(make, inputs)
    found = hard.outcome(hard.import_model(hard.to_model(graph), example=graph.example))
    assert found.error <= 1e-5
    assert found.power >= 1e-3
    assert found.left <= left
    assert not found.axes.remarks, [str(remark) for remark in found.axes.remarks]


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_in_onnx_stays_and_is_named(name: str) -> None:
    make, inputs, _ = STRUCTURES[name]
    graph = hard.captured(make, inputs)
    found = hard.outcome(hard.import_model(hard.to_model(graph), example=graph.example))
    assert found.error <= 1e-5
    assert any("Loop has no axis rule" in str(remark) for remark in found.axes.remarks)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_heads_and_their_widths_are_both_cut(together: bool, fused: bool) -> None:
    """4 heads of width 4 → 2 of width 2, in the queries, keys and values; what scores keep their scale."""
    original = hard.captured(lambda: Attention(together=together, fused=fused), WORDS)
    found = hard.outcome(original)
    shapes = {name: tuple(t.shape) for name, t in found.graph.tensors().items()}
    if together:
        assert shapes["qkv.weight"] == (3 * 2 * 2, 6)
    else:
        assert [shapes[f"{name}.weight"] for name in "qkv"] == [(4, 6)] * 3
    assert shapes["out.weight"] == (3, 4)
    queries = "qkv" if together else "q"
    heads = [
        d for d in found.axes.prunable() if {p.tensor for p in d.ports} >= {"out.weight", f"{queries}.weight"}
    ]
    widths = [d for d in found.axes.prunable() if any(p.tensor == f"{queries}.weight" for p in d.ports)]
    assert {d.size for d in heads} == {4} and len(widths) >= 3


def test_a_key_head_takes_its_query_heads_with_it() -> None:
    """Of 2 key heads for 6 queries one stays, with the half of its 3 queries, of half the width."""
    for way in ("operator", "repeat", "expand"):
        found = hard.outcome(hard.captured(lambda way=way: GroupedQueries(way), WORDS))
        shapes = {name: tuple(t.shape) for name, t in found.graph.tensors().items()}
        assert shapes["q.weight"] == (1 * 2 * 2, 6)
        assert shapes["k.weight"] == shapes["v.weight"] == (1 * 2, 6)
        assert shapes["out.weight"] == (3, 1 * 2 * 2)


def test_group_norm_loses_whole_groups_or_equally_many_of_each() -> None:
    """Two dims: 4 groups, exact; 4 channels within each, which changes statistics."""
    graph = hard.captured(hard.Grouped, MAP)
    axes = hard.analyze(graph)
    groups, within = (axes.dims[name] for name in ("a", "a#2"))
    assert (groups.size, groups.normalized, within.size, within.normalized) == (4, False, 4, True)
    for name, left, count in (("a", 2, 8), ("a#2", 4, 8)):
        keep = hard.legalize(axes, {name: np.array([True, False, True, False])})
        rewriter = hard.Rewriter(graph.copy())
        hard.cut_channels(rewriter, axes, keep)
        cut = rewriter.finish()
        (norm,) = [n for n in cut.module.graph.nodes if "group_norm" in str(n.target)]
        assert norm.args[1] == left and cut.tensor("a.weight").shape[0] == count
        masked = hard.mask_graph(graph, axes, keep)
        wanted = hard.keep_statistics(masked, axes, keep) if name == "a#2" else masked
        assert hard.relative_error(wanted(*graph.example), cut(*graph.example)) <= 1e-6


def test_a_recurrent_layer_is_cut_inside() -> None:
    """Rows of all gates, both sides of the recurrent weight, and what reads both outputs."""
    found = hard.outcome(hard.captured(lambda: hard.Recurrent(nn.LSTM), (torch.randn(2, 5, 6),)))
    shapes = {name: tuple(t.shape) for name, t in found.graph.tensors().items()}
    for suffix in ("", "_reverse"):
        assert shapes[f"cell.weight_ih_l0{suffix}"] == (4 * 4, 4)
        assert shapes[f"cell.weight_hh_l0{suffix}"] == (4 * 4, 4)
        assert shapes[f"cell.bias_hh_l0{suffix}"] == (4 * 4,)
    assert shapes["after.weight"] == (16, 2 * 4)


@pytest.mark.parametrize("initial", [torch.ones, torch.zeros])
def test_a_state_that_does_not_begin_at_zero_keeps_the_hidden_size(
    initial: Callable[..., torch.Tensor],
) -> None:
    """A unit without weights would go on giving what it began with."""

    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.GRU(8, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.cell(x, initial(1, x.shape[1], 6))[0])

    axes = hard.analyze(hard.captured(Started, WORDS))
    assert axes.dims["cell.weight_ih_l0"].prunable == (initial is torch.zeros)


def test_zeros_that_are_written_into_are_zeros_no_more() -> None:
    tracker = Tracker(RULES)
    with tracker:
        blank, other = torch.zeros(3, 4), torch.zeros(3, 4)
        view = blank[:, 1:]
        view.add_(1.0)
    assert all(tracker.tracked(blank).dirty) and not any(tracker.tracked(other).dirty)


@pytest.mark.parametrize("name", ["t_", "transpose_", "squeeze_", "unsqueeze_"])
def test_what_reshapes_in_place_is_seen_with_the_axes_it_had(name: str) -> None:
    tracker = Tracker(RULES)
    with tracker:
        x = torch.ones(1, 3, 4) if name != "t_" else torch.ones(3, 4)
        first, last = tracker.tracked(x).axes[-2:]
        y = getattr(torch.ops.aten, name)(
            x, *((1, 2) if name == "transpose_" else () if name == "t_" else (0,))
        )
    expected = [last, first] if name in ("t_", "transpose_") else [first, last]
    found = tracker.tracked(y).axes
    assert [axis.size for axis in found] == list(y.shape)
    assert [resolve(axis) for axis in found[-2:]] == [resolve(axis) for axis in expected]
    assert not tracker.unknown


def test_an_operand_of_another_shape_than_was_recorded_blocks_and_does_not_crash() -> None:
    tracker = Tracker(RULES)
    with tracker:
        x = torch.ones(3, 4)
        tracker.register(x, Tracked([Axis(3), Axis(5)], [True, True]))
        torch.relu(x)
    assert [unknown.operator for unknown in tracker.unknown] == ["aten.relu"]


def test_a_tensor_may_be_called_like_an_operator() -> None:
    """What an exporter calls the results of ``index`` and ``linear`` is taken by tensors of the model."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.linear, self.relu_1 = (
                nn.Linear(8, 6),
                nn.Parameter(torch.randn(6)),
                nn.Parameter(torch.randn(6)),
            )
            self.table, self.into = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(6, 6))
            self.register_buffer("index", torch.tensor([2, 0, 1, 0, 2]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.a(x) + self.linear) @ self.into + self.relu_1 + self.table[self.index]

    graph = hard.captured(Named, WORDS)
    found = hard.import_model(hard.to_model(graph), example=graph.example)
    assert hard.relative_error(graph(*graph.example), found(*graph.example)) <= 1e-6
    assert {"linear", "index", "relu_1"} <= graph.tensors().keys()
