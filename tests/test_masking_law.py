"""The masking law on hard structures written small, and on the model families of torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.axes.legal import legalize
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.masking import mask_graph, relative_error
from otgraph.rewrite.rewriter import Rewriter


def randomized(module: nn.Module) -> nn.Module:
    """Statistics, biases and scales that are not those of a fresh network, so that each matters."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            low = 0.3 if name.endswith("weight") else -1.0
            parameter.data.uniform_(low, 1.3)
        elif "layer_scale" in name:
            parameter.data.uniform_(0.2, 1)
        elif not parameter.data.any():
            parameter.data.normal_(0, 0.02)
    return module.eval()


def halves(axes: AxisMap, seed: int = 0) -> Keep:
    """A random half of every dim that may be cut without changing statistics."""
    random = np.random.default_rng(seed)
    keep = {}
    for dim in axes.prunable():
        if not dim.normalized:
            keep[dim.name] = np.zeros(dim.size, bool)
            keep[dim.name][random.permutation(dim.size)[: dim.size // 2]] = True
    return legalize(axes, keep)


def size(graph: Graph) -> int:
    return sum(tensor.numel() for tensor in graph.tensors().values())


@dataclass(frozen=True)
class Outcome:
    """How far the cut network is from the masked one, what cutting changed, and what is left."""

    error: float
    power: float
    left: float
    graph: Graph


def outcome(module: nn.Module, x: torch.Tensor) -> Outcome:
    original = capture(randomized(module), (x,))
    assert not original.remarks, [str(remark) for remark in original.remarks]
    axes = analyze(original)
    assert not axes.remarks, [str(remark) for remark in axes.remarks]
    keep = halves(axes)
    rewriter = Rewriter(original.copy())
    cut_channels(rewriter, axes, keep)
    cut = rewriter.finish()
    before = original(*original.example)
    masked = mask_graph(original, axes, keep)(*original.example)
    error = relative_error(masked, cut(*original.example))
    return Outcome(error, relative_error(before, masked), size(cut) / size(original), cut)


def check(found: Outcome, left: float) -> None:
    assert found.error <= 1e-5
    assert found.power >= 1e-3
    assert found.left <= left
    (example,) = found.graph.example
    for batch in (1, 3):
        results = found.graph(torch.cat([example, example])[:batch])
        assert [len(result) for result in results] == [batch] * len(results)


# small networks, one per structure


class GroupedQueryAttention(nn.Module):
    """Two key heads serve four query heads, copied out by ``repeat_interleave``."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, 4, 4).transpose(1, 2)
        k, v = (f(x).view(n, t, 2, 4).transpose(1, 2).repeat_interleave(2, 1) for f in (self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 16))


class MultiHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.out = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x + self.attention(x, x, x, need_weights=False)[0])


class WindowBias(nn.Module):
    """Attention by hand, with a learnt bias that is looked up in a table, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 3)
        self.table = nn.Parameter(torch.randn(9, 2))
        self.register_buffer("places", torch.arange(25) % 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.places].view(5, 5, 2).permute(2, 0, 1).unsqueeze(0)
        scores = (q * 4**-0.5) @ k.transpose(-2, -1) + bias
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))


class ShuffleUnit(nn.Module):
    """As in ShuffleNet: after a shuffle by three a chunk cuts the product in the middle."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.stem, self.branch, self.out = nn.Conv2d(3, 12, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(12, 3, 1)

    def shuffled(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.shuffled(torch.relu(self.stem(x))).chunk(2, 1)
        x = self.shuffled(torch.cat([left, torch.relu(self.branch(right))], 1))
        return self.out(x).mean((2, 3))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * k, 4, 3, padding=1) for k in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * k) for k in range(4))
        self.out = nn.Linear(15 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = torch.cat([x, layer(torch.relu(norm(x)))], 1)
        return self.out(torch.relu(self.norms[3](x)).flatten(1))


class Inverted(nn.Module):
    """An inverted residual with squeeze-and-excite gates and a hard sigmoid, which is not zero at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 1)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.a, self.b = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.down, self.out = nn.Conv2d(12, 6, 1), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = F.hardswish(self.norm(self.depth(F.relu6(self.up(x)))))
        y = y * F.hardsigmoid(self.b(torch.relu(self.a(F.adaptive_avg_pool2d(y, 1)))))
        return self.out((x + self.down(y)).mean((2, 3)))


class Scaled(nn.Module):
    """A ConvNeXt block: depthwise, layer norm over the last axis, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.layer_scale, self.out = nn.Parameter(torch.ones(8, 1, 1)), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(self.depth(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        return self.out((x + self.layer_scale * y).mean((2, 3)))


class Upsampled(nn.Module):
    """A small U-Net: transposed and pixel-shuffled upsampling, skip connections, group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, padding=1)
        self.up, self.c = nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(12, 16, 1)
        self.norm, self.d = nn.GroupNorm(4, 16), nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.a(x))
        b = F.interpolate(torch.relu(self.b(a)), scale_factor=2, mode="bilinear")
        up = self.up(F.max_pool2d(b, 2))
        return self.d(F.pixel_shuffle(torch.relu(self.norm(self.c(torch.cat([up, a], 1)))), 2))


class Recast(nn.Module):
    """Literals of many kinds: narrow, expand, unflatten, glu, flip, a learnt token, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.token = nn.Linear(8, 24), nn.Parameter(torch.randn(1, 1, 12))
        self.b, self.c = nn.Linear(12, 6), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.glu(self.a(x), -1)
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), y], 1).narrow(1, 0, 5)
        y = self.b(y).unflatten(-1, (2, 3)).flip(2).sum(2)
        return self.c(y + torch.ones(3))


class ChannelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.shuffle, self.b = (
            nn.Conv2d(3, 12, 1),
            nn.ChannelShuffle(3),
            nn.Conv2d(12, 12, 3, groups=6),
        )
        self.norm, self.c = nn.InstanceNorm2d(12, affine=True), nn.Conv2d(12, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.norm(self.b(self.shuffle(self.a(x))))))


class QueryGroups(nn.Module):
    """Grouped queries as PyTorch itself expands them, and ``einsum`` and ``tensor_split`` around them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(8, 16), nn.Linear(8, 16), nn.Parameter(torch.randn(4, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, 4, 4).transpose(1, 2)
        k, v = (y.reshape(n, t, 2, 4).transpose(1, 2) for y in torch.tensor_split(self.kv(x), 2, -1))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return torch.einsum("nhtd,hdo->nto", y, self.out)


PLACES, TOKENS = (2, 3, 4, 4), (2, 5, 8)
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "grouped-query attention": (GroupedQueryAttention, TOKENS, 0.7),
    "grouped queries inside": (QueryGroups, TOKENS, 0.7),
    "channel shuffle, instance norm": (ChannelShuffle, PLACES, 0.7),
    "multi-head attention": (MultiHead, (2, 5, 12), 0.7),
    "attention with a table of biases": (WindowBias, TOKENS, 0.8),
    "channel shuffle by 2": (lambda: ShuffleUnit(2), PLACES, 0.7),
    "channel shuffle by 3, cut in the middle": (lambda: ShuffleUnit(3), PLACES, 0.8),
    "dense": (Dense, PLACES, 0.7),
    "inverted residual": (Inverted, PLACES, 0.6),
    "layer scale": (Scaled, PLACES, 0.9),
    "upsampling": (Upsampled, PLACES, 0.7),
    "literals": (Recast, TOKENS, 0.8),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_structures(name: str) -> None:
    make, shape, left = SMALL[name]
    torch.manual_seed(1)
    check(outcome(make(), torch.randn(*shape)), left)


def test_a_wrong_cut_breaks_the_law() -> None:
    """The same network, one kept channel exchanged for another: the check has teeth."""
    torch.manual_seed(1)
    original = capture(randomized(Inverted()), (torch.randn(*PLACES),))
    axes = analyze(original)
    keep = halves(axes)
    rewriter = Rewriter(original.copy())
    cut_channels(rewriter, axes, keep)
    cut = rewriter.finish()
    name = max(keep, key=lambda n: len(keep[n]))
    other = {**keep, name: np.roll(keep[name], 1)}
    assert relative_error(mask_graph(original, axes, other)(*original.example), cut(*original.example)) > 1e-3


# torchvision

ZOO = {
    "alexnet": 224,
    "vgg11_bn": 224,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "densenet121": 64,
    "squeezenet1_0": 96,
    "shufflenet_v2_x1_0": 64,
    "mnasnet1_0": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mobilenet_v3_large": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "regnet_y_400mf": 64,
    "regnet_x_400mf": 64,
    "googlenet": 96,
    "inception_v3": 299,
    "convnext_tiny": 64,
    "vit_b_16": 224,
    "swin_t": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_torchvision(name: str) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module = getattr(torchvision.models, name)(**options)
    check(outcome(module, torch.randn(2, 3, ZOO[name], ZOO[name])), 0.6)
