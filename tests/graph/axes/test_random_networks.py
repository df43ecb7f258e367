"""The masking law on networks made by hypothesis, and a planted wrong rule that it catches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.axes.call import Call
from otgraph.graph.axes.legal import legalize
from otgraph.graph.axes.rule import AxisRule
from otgraph.graph.axes.rules import RULES
from otgraph.graph.axes.rules.joining import cat
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.masking import mask_graph, relative_error
from otgraph.rewrite.rewriter import Rewriter

Pick = Callable[[str, list[int]], int]
SMOOTH = (F.relu, torch.tanh, F.silu, F.hardswish, F.gelu)
NOT_ZERO_AT_ZERO = (torch.sigmoid, torch.exp, torch.cos, lambda x: x + 1, lambda x: 1 - x)


class Step(nn.Module):
    """One layer: ``channels`` in, ``self.channels`` out, at the same spatial size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels


class Convolution(Step):
    def __init__(self, channels: int, pick: Pick) -> None:
        super().__init__(pick("width", [4, 6, 8, 12]))
        common = [g for g in (1, 2, 3, 4) if channels % g == 0 and self.channels % g == 0]
        groups = common[pick("groups", [0, 1, 2, 3]) % len(common)]
        kernel = pick("kernel", [1, 3])
        bias = bool(pick("bias", [0, 1]))
        self.body = nn.Conv2d(channels, self.channels, kernel, padding=kernel // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(self.channels) if pick("norm", [0, 1]) else nn.Identity()
        smooth = [*SMOOTH, *NOT_ZERO_AT_ZERO]
        self.act = smooth[pick("activation", list(range(len(smooth))))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.body(x)).clamp(-3, 3))


class Depthwise(Step):
    def __init__(self, channels: int, pick: Pick) -> None:
        super().__init__(channels * pick("multiplier", [1, 2]))
        self.body = nn.Conv2d(channels, self.channels, 3, padding=1, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(self.body(x))


class Residual(Step):
    def __init__(self, channels: int, pick: Pick) -> None:
        super().__init__(channels)
        inner = pick("inner", [3, 4, 6])
        self.a, self.b = nn.Conv2d(channels, inner, 3, padding=1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.a(x)))


class Branches(Step):
    """Two branches side by side, in one order or the other, or the input kept beside (dense)."""

    def __init__(self, channels: int, pick: Pick) -> None:
        first, second = pick("first", [3, 4]), pick("second", [2, 5])
        self_kept = pick("dense", [0, 1])
        super().__init__(first + second + self_kept * channels)
        self.dense = self_kept
        self.a, self.b = nn.Conv2d(channels, first, 1), nn.Conv2d(channels, second, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.b(x), *[x] * self.dense, torch.tanh(self.a(x))], 1)


class Gates(Step):
    """Squeeze and excite."""

    def __init__(self, channels: int, pick: Pick) -> None:
        super().__init__(channels)
        inner = pick("inner", [2, 4])
        self.a, self.b = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.b(torch.relu(self.a(F.adaptive_avg_pool2d(x, 1)))))


class Shuffle(Step):
    """A channel shuffle: channels as (groups, rest), exchanged."""

    def __init__(self, channels: int, pick: Pick) -> None:
        super().__init__(channels)
        divisors = [g for g in (2, 3, 4) if channels % g == 0] or [1]
        self.groups = divisors[pick("groups", [0, 1, 2]) % len(divisors)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Halves(Step):
    """Split in two, one part goes on untouched, both come back together."""

    def __init__(self, channels: int, pick: Pick) -> None:
        super().__init__(channels)
        self.at = pick("at", [1, 2, 3]) % channels or 1
        self.a = nn.Conv2d(channels - self.at, channels - self.at, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x[:, : self.at], x[:, self.at :]
        return torch.cat([left, torch.relu(self.a(right))], 1)


class Attention(Step):
    """Multi-head attention over places, with queries, keys and values from one map or from three."""

    def __init__(self, channels: int, pick: Pick) -> None:
        super().__init__(channels)
        self.heads, self.width = pick("heads", [2, 3]), pick("head width", [2, 4])
        inner = self.heads * self.width
        self.together = bool(pick("together", [0, 1]))
        self.qkv = nn.Linear(channels, 3 * inner)
        self.parts = nn.ModuleList(nn.Linear(channels, inner) for _ in range(3))
        self.out = nn.Linear(inner, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        t = x.flatten(2).transpose(1, 2)
        maps = self.qkv(t).chunk(3, -1) if self.together else [part(t) for part in self.parts]
        q, k, v = (m.view(n, h * w, self.heads, self.width).transpose(1, 2) for m in maps)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, -1)
        return x + self.out(y).transpose(1, 2).reshape(n, c, h, w)


class Perceptron(Step):
    """A layer norm over channels (its dim is left out) and two linear maps."""

    def __init__(self, channels: int, pick: Pick) -> None:
        super().__init__(channels)
        inner = pick("inner", [4, 6])
        self.norm = nn.LayerNorm(channels)
        self.a, self.b = nn.Linear(channels, inner), nn.Linear(inner, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(F.gelu(self.a(self.norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)


class Pooling(Step):
    def __init__(self, channels: int, pick: Pick) -> None:
        super().__init__(channels)
        self.body = [nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.ZeroPad2d((1, -1, 0, 0))][
            pick("pool", [0, 1, 2])
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


STEPS = [Convolution, Convolution, Depthwise, Residual, Branches, Gates, Shuffle, Halves, Attention]
STEPS += [Perceptron, Pooling]


class Network(nn.Module):
    def __init__(self, steps: list[Step], channels: int, flat: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.steps = nn.ModuleList(steps)
        self.flat = flat
        self.head = nn.Linear(channels * (16 if flat else 1), 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for step in self.steps:
            x = step(x)
        return self.head(x.flatten(1) if self.flat else x.mean((2, 3)))


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, int]:
    seed = draw(st.integers(0, 2**16), label="seed")
    torch.manual_seed(seed)
    steps: list[Step] = []
    channels = 8
    for number, kind in enumerate(
        draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=5), label="steps")
    ):

        def pick(what: str, values: list[int], number: int = number, kind: type[Step] = kind) -> int:
            return draw(st.sampled_from(values), label=f"{number} {kind.__name__} {what}")

        steps.append(kind(channels, pick))
        channels = steps[-1].channels
    return randomized(Network(steps, channels, draw(st.booleans(), label="flat"))), seed


def randomized(module: nn.Module) -> nn.Module:
    """Statistics and biases that are not those of a fresh network, in float64, so that errors stand out."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.data.uniform_(-1, 1)
    return module.double().eval()


def halves(axes: AxisMap, seed: int) -> Keep:
    random = np.random.default_rng(seed)
    keep = {}
    for dim in axes.prunable():
        if not dim.normalized:
            mask = np.zeros(dim.size, bool)
            mask[random.permutation(dim.size)[: dim.size // 2]] = True
            keep[dim.name] = mask
    return legalize(axes, keep)


def cut_in_half(graph: Graph, axes: AxisMap, keep: Keep) -> Graph:
    rewriter = Rewriter(graph.copy())
    cut_channels(rewriter, axes, keep)
    return rewriter.finish()


def law(module: nn.Module, seed: int) -> tuple[float, float, int]:
    """(error of the law, power of the check, number of dims cut)."""
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    graph = capture(module, (x,))
    axes = analyze(graph)
    assert not axes.remarks, [str(remark) for remark in axes.remarks]
    keep = halves(axes, seed)
    other = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    cut = cut_in_half(graph, axes, keep)(other)
    masked = mask_graph(graph, axes, keep)(other)
    return relative_error(masked, cut), relative_error(graph(other), masked), len(keep)


def check(example: tuple[nn.Module, int]) -> None:
    error, power, dims = law(*example)
    assert error <= 1e-10
    assume(dims >= 1)
    assume(
        power >= 1e-3
    )  # where what was cut was dead, the example says nothing; all of them would be an error


COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@settings(max_examples=20, **COMMON)
@given(networks())
def test_random_networks_obey_the_masking_law(example: tuple[nn.Module, int]) -> None:
    check(example)


@pytest.mark.slow
@settings(
    max_examples=120, **(COMMON | {"derandomize": False, "phases": [Phase.generate]})
)  # shrinking takes minutes
@given(networks())
def test_many_random_networks_obey_the_masking_law(example: tuple[nn.Module, int]) -> None:
    check(example)


@pytest.mark.parametrize("at", [1, 2, 3, 7])
def test_a_shuffled_axis_is_cut_anywhere(at: int) -> None:
    """Of a part of one channel nothing can be removed: an axis of size 1 carries no dim."""

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8 - at, 6, 1), nn.Linear(6 + at, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, _, h, w = x.shape
            y = self.stem(x).view(n, 2, 4, h, w).transpose(1, 2).reshape(n, 8, h, w)
            return self.head(torch.cat([y[:, :at], torch.relu(self.a(y[:, at:]))], 1).mean((2, 3)))

    torch.manual_seed(0)
    module = randomized(Shuffled())
    for seed in range(6):
        error, power, _ = law(module, seed)
        assert error <= 1e-10 and power >= 1e-3


def test_a_planted_wrong_rule_breaks_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Concatenation in the wrong order: shapes still fit, the function does not."""

    def reversed_cat(call: Call) -> AxisRule | None:
        if len({tuple(t.shape) for t in call.operands}) > 1:
            return cat(call)
        parts = "+".join(f"p{k}" for k in reversed(range(len(call.operands))))
        return call.rule(", ".join(f"n p{k} h w" for k in range(len(call.operands))) + f" -> n {parts} h w")

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(12, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    torch.manual_seed(0)
    module = randomized(Two())
    assert law(module, 1)[0] <= 1e-10
    monkeypatch.setitem(RULES, "cat", reversed_cat)
    assert law(module, 1)[0] >= 1e-3


def test_a_sum_of_what_does_not_vanish_is_blocked() -> None:
    """A removed channel is worth one half after a sigmoid, not nothing; without the sigmoid it may be cut."""

    class Summed(nn.Module):
        def __init__(self, act: nn.Module) -> None:
            super().__init__()
            self.a, self.act, self.b = nn.Conv2d(3, 6, 1), act, nn.Conv2d(1, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.act(self.a(x)).sum(1, keepdim=True))

    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    blocked = analyze(capture(randomized(Summed(nn.Sigmoid())), (x,))).dims["a"].blocked
    assert blocked == "sum at sum_1 sums entries that do not vanish"
    assert law(randomized(Summed(nn.Tanh())), 1)[0] <= 1e-10
