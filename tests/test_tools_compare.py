"""The reference Torch-Pruning's networks are held against: a sound cut is equal to it, a shuffled one not."""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from otgraph.rewrite.masking import relative_error

TOOLS = Path(__file__).parents[1] / "tools"
pytest.importorskip("torch_pruning")
pytest.importorskip("torchvision")


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


class Mixed(nn.Module):
    """Convolutions (one grouped, one depthwise), batch, group and layer norm, a residual, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Sigmoid())
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, groups=4),
            nn.GroupNorm(4, 16),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.Conv2d(16, 16, 1),
        )
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.norm((x + self.block(x)).flatten(2).transpose(1, 2))
        return self.head((x + self.attention(x, x, x)[0]).mean(1))


@pytest.fixture
def cut(_scripts_are_importable: None) -> tuple[nn.Module, Any, torch.Tensor]:
    torch.manual_seed(0)
    whole = Mixed().eval()
    for parameter in whole.parameters():
        if parameter.dim() == 1:
            parameter.data.uniform_(0.4, 1.4)
    example = torch.randn(2, 3, 8, 8)
    prune = import_module("torch_pruning_peer").prune
    return whole, prune(copy.deepcopy(whole), example, 0.5), example


def law(whole: nn.Module, pruned: Any, example: torch.Tensor) -> float:
    reference = import_module("torch_pruning_peer").masked_outputs(whole, pruned.kept, example)
    with torch.no_grad():
        return relative_error((reference,), (pruned.module(example),))


def test_a_sound_cut_equals_the_masked_original(cut: tuple[nn.Module, Any, torch.Tensor]) -> None:
    whole, pruned, example = cut
    with torch.no_grad():
        changed = relative_error((whole(example),), (pruned.module(example),))
    assert changed > 1e-3
    assert law(whole, pruned, example) <= 1e-5


@pytest.mark.parametrize("name", ["stem.0", "block.1", "block.2", "norm", "attention.out_proj"])
def test_channels_in_another_order_are_told(cut: tuple[nn.Module, Any, torch.Tensor], name: str) -> None:
    whole, pruned, example = cut
    weight = pruned.module.get_parameter(f"{name}.weight").data
    weight[[0, 1]] = weight[[1, 0]]
    assert law(whole, pruned, example) > 2e-4
