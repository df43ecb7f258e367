"""Torch-Pruning as its documentation uses it, and whether what it made is the original with channels at zero.

It says nothing of what it computed, so its removals are recorded as they are made, group by group, as indices
of the original. The reference is the original with those at zero, where they are written and where they are
read, with the statistics of layer and group norms taken over what is kept and the temperature of
``nn.MultiheadAttention``, which follows from the width of a head, that of the cut network. Where channels
meet in other ways (a softmax or a norm of its own over them), the reference does not hold.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torchvision.models import VisionTransformer

from otgraph.errors import UsageError

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Place:
    """Where channels are removed: a module or parameter by name, and its side, ``out`` or ``in``; ``out`` is
    all there is of what has one width only. ``dim`` is that of a parameter."""

    name: str
    side: str
    dim: int = 0


@dataclass
class Pruned:
    """``module`` after the cut, the kept indices of the original by place, and CPU seconds per stage."""

    module: nn.Module
    kept: dict[Place, torch.Tensor]
    seconds: dict[str, float] = field(default_factory=dict[str, float])


def prune(module: nn.Module, example: torch.Tensor, fraction: float) -> Pruned:
    """Cut ``module`` in place by ``MagnitudePruner``; the last linear layer keeps its outputs.

    Raises whatever Torch-Pruning raises.
    """
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    ignored: list[nn.Module] = list(linear[-1:])
    start = time.process_time()
    pruner = torch_pruning.pruner.MagnitudePruner(
        module,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=1 - fraction,
        ignored_layers=ignored,
        num_heads=_heads(module),
        in_channel_groups={},  # its defaults are shared by all pruners, and grow
        out_channel_groups={},
    )
    built = time.process_time()
    names = {id(part): name for name, part in module.named_modules()}
    kept: dict[Place, torch.Tensor] = {}
    recording = 0.0
    groups: Iterable[Any] = pruner.step(interactive=True) or ()
    for group in groups:
        begun = time.process_time()
        for place, size, gone in _removals(pruner, group, module, names):
            left = kept.get(place, torch.arange(size))
            mask = torch.ones(len(left), dtype=torch.bool)
            mask[torch.as_tensor(gone)] = False
            kept[place] = left[mask]
        recording += time.process_time() - begun
        group.prune()
    spent = time.process_time() - built - recording
    return Pruned(module, kept, {"graph": built - start, "cut": spent})


def apply_documented_edits(module: nn.Module) -> None:
    """What its examples set by hand after a cut, where a model's code holds widths of its own."""
    for part in module.modules():
        qkv: Any = getattr(part, "qkv", None)
        heads: Any = getattr(part, "num_heads", None)
        known: Any = part
        if isinstance(part, VisionTransformer):
            known.hidden_dim = known.conv_proj.out_channels
        elif isinstance(qkv, nn.Linear) and isinstance(heads, int):
            known.head_dim = qkv.out_features // (3 * heads)
            if hasattr(part, "attn_dim"):
                known.attn_dim = heads * known.head_dim


@torch.no_grad()
def masked_outputs(whole: nn.Module, kept: dict[Place, torch.Tensor], example: torch.Tensor) -> Any:
    """What ``whole`` gives with everything that is not ``kept`` at zero.

    Raises:
        UsageError: a kind of module this reference is not written for was cut.
    """
    masked = copy.deepcopy(whole)
    parts: dict[str, Any] = {**dict(masked.named_modules()), **dict(masked.named_parameters())}
    norms: dict[int, torch.Tensor] = {}
    for place, left in kept.items():
        part = parts[place.name]
        if isinstance(part, (nn.LayerNorm, nn.GroupNorm)):
            norms[id(part.weight)] = left
        else:
            _mask(part, place, left)
    with _KeptStatistics(norms):
        return masked(example)


def _heads(module: nn.Module) -> dict[nn.Module, int]:
    heads: dict[nn.Module, int] = {}
    for part in module.modules():
        count: Any = getattr(part, "num_heads", None)
        qkv: Any = getattr(part, "qkv", None)
        if isinstance(part, nn.MultiheadAttention):
            heads[part] = part.num_heads
        elif isinstance(qkv, nn.Linear) and isinstance(count, int):
            heads[qkv] = count
    return heads


def _removals(
    pruner: Any, group: Any, module: nn.Module, names: dict[int, str]
) -> Iterator[tuple[Place, int, list[int]]]:
    """The places of one group with their present size and the present indices that go."""
    for dep, gone in group:
        target, graph = dep.target.module, pruner.DG
        if isinstance(target, nn.Parameter):
            name = next(name for name, parameter in module.named_parameters() if parameter is target)
            dim = dep.target.pruning_dim % target.dim()
            yield Place(name, "out", dim), target.shape[dim], list(gone)
        elif id(target) in names:
            out = graph.is_out_channel_pruning_fn(dep.handler)
            size = graph.get_out_channels(target) if out else graph.get_in_channels(target)
            if size is not None:
                yield Place(names[id(target)], "out" if out else "in"), size, list(gone)


def _mask(part: Any, place: Place, left: torch.Tensor) -> None:
    """Zero what is not ``left`` in one module or parameter."""
    out = place.side == "out"
    if isinstance(part, nn.Parameter):
        _keep_only(part, place.dim, left)
    elif isinstance(part, nn.MultiheadAttention):
        _mask_attention(part, left)
    elif isinstance(part, nn.modules.batchnorm._BatchNorm) or (out and isinstance(part, (nn.Linear, *CONVS))):
        _keep_only(part.weight, 0, left)
        _keep_only(part.bias, 0, left)
    elif isinstance(part, CONVS):
        _mask_read(part, left)
    elif isinstance(part, nn.Linear):
        _keep_only(part.weight, 1, left)
    elif isinstance(part, TRANSPOSED) and part.groups == 1:
        _keep_only(part.weight, 1 if out else 0, left)
        _keep_only(part.bias if out else None, 0, left)
    elif isinstance(part, nn.Embedding):
        _keep_only(part.weight, 1, left)
    elif not isinstance(part, nn.PReLU):  # which leaves zero as it is
        raise UsageError(f"{place.name}: no reference for a cut {type(part).__name__}")


def _keep_only(tensor: torch.Tensor | None, dim: int, left: torch.Tensor) -> None:
    if tensor is not None:
        gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
        gone[left] = False
        tensor.index_fill_(dim, gone.nonzero().flatten(), 0)


def _mask_read(conv: Any, left: torch.Tensor) -> None:
    """``left`` are input channels over all groups; a filter holds those of its own group."""
    used = torch.zeros(conv.in_channels, dtype=torch.bool)
    used[left] = True
    per_group = used.reshape(conv.groups, 1, -1, *[1] * (conv.weight.dim() - 2))
    conv.weight.unflatten(0, (conv.groups, -1)).mul_(per_group)


def _mask_attention(part: nn.MultiheadAttention, left: torch.Tensor) -> None:
    width = part.embed_dim
    if part.in_proj_weight is None or part.in_proj_bias is None:
        raise UsageError("no reference for an attention with separate projections")
    rows = torch.cat([left, left + width, left + 2 * width])
    for tensor, dim, some in (
        (part.in_proj_weight, 0, rows), (part.in_proj_bias, 0, rows), (part.in_proj_weight, 1, left),
        (part.out_proj.weight, 0, left), (part.out_proj.bias, 0, left), (part.out_proj.weight, 1, left),
    ):  # fmt: skip
        _keep_only(tensor, dim, some)
    temperature = (width / len(left)) ** 0.5
    part.in_proj_weight[:width].mul_(temperature)
    part.in_proj_bias[:width].mul_(temperature)


class _KeptStatistics(TorchFunctionMode):
    """Layer and group norms, known by their scale, count only the kept channels and give zero elsewhere."""

    def __init__(self, kept: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.layer_norm and id(_argument(args, kwargs, 2, "weight")) in self._kept:
            return self._norm(*(_argument(args, kwargs, i, n) for i, n in enumerate(LAYER)), dim=-1, groups=1)
        if func is F.group_norm and id(_argument(args, kwargs, 2, "weight")) in self._kept:
            x, groups, *rest = (_argument(args, kwargs, i, n) for i, n in enumerate(GROUP))
            return self._norm(x, None, *rest, dim=1, groups=groups)
        return func(*args, **kwargs)

    def _norm(self, x: Any, _: Any, weight: Any, bias: Any, eps: Any, *, dim: int, groups: int) -> Any:
        mask = torch.zeros(x.shape[dim], dtype=x.dtype)
        mask[self._kept[id(weight)]] = 1
        last = x if dim == -1 else x.flatten(2).movedim(1, -1)  # N, positions, channels
        over = (-1,) if dim == -1 else (1, 3)
        split, counted = last.unflatten(-1, (groups, -1)), mask.unflatten(0, (groups, -1))
        counted = counted.expand(split.shape)
        number = counted.sum(over, keepdim=True)
        mean = (split * counted).sum(over, keepdim=True) / number
        variance = ((split - mean).square() * counted).sum(over, keepdim=True) / number
        normed = ((split - mean) / (variance + (1e-5 if eps is None else eps)).sqrt()).flatten(-2)
        result = (normed * weight + (0 if bias is None else bias)) * mask
        return result if dim == -1 else result.movedim(-1, 1).reshape(x.shape)


LAYER = ("input", "normalized_shape", "weight", "bias", "eps")
GROUP = ("input", "num_groups", "weight", "bias", "eps")


def _argument(args: Any, kwargs: Any, place: int, name: str) -> Any:
    return args[place] if place < len(args) else kwargs.get(name)
