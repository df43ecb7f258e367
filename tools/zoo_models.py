"""Public architectures by name, with random weights on which every part of the network matters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

SIZES = {"inception_v3": 299, "swin_v2_t": 256, "swin_v2_s": 256, "swin_v2_b": 256}
"""Input sizes of torchvision models that are not 224, as their documentation gives them."""


def read_names(given: list[str]) -> list[str]:
    """Names as they are, files as the names in them: one a line, ``#`` begins a comment."""
    names: list[str] = []
    for item in given:
        if Path(item).is_file():
            lines = (line.partition("#")[0].strip() for line in Path(item).read_text().splitlines())
            names += [line for line in lines if line]
        else:
            names.append(item)
    return names


def build(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """The network ``family/architecture``, and an input of batch 2 of the size it was made for.

    Families: ``torchvision``, ``torchvision-segmentation``, ``torchvision-video``, ``timm``. Nothing is
    downloaded.

    Raises:
        ValueError: no such family or architecture.
    """
    torch.manual_seed(seed)
    family, _, architecture = name.partition("/")
    makers = {
        "torchvision": _torchvision,
        "torchvision-segmentation": _segmentation,
        "torchvision-video": _video,
        "timm": _timm,
    }
    if family not in makers or not architecture:
        raise ValueError(f"{name}: no such model; write family/architecture, of {', '.join(makers)}")
    module, shape = makers[family](architecture)
    example = torch.randn(2, *shape)
    return randomize(module, example), example


def randomize(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """Weights that are not those of a fresh network: no scale or bias is constant, no layer is switched off,
    and running statistics are those of ``example``."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            _randomize_parameter(name, parameter)
        _estimate_statistics(module, example)
    return module.eval()


def _torchvision(architecture: str) -> tuple[nn.Module, tuple[int, ...]]:
    import torchvision  # noqa: PLC0415  (only where asked for)

    options: dict[str, Any] = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    size = SIZES.get(architecture, 224)
    return torchvision.models.get_model(architecture, weights=None, **options), (3, size, size)


def _segmentation(architecture: str) -> tuple[nn.Module, tuple[int, ...]]:
    import torchvision  # noqa: PLC0415

    module = torchvision.models.get_model(architecture, weights=None, weights_backbone=None)
    return module, (3, 224, 224)


def _video(architecture: str) -> tuple[nn.Module, tuple[int, ...]]:
    import torchvision.models.video  # noqa: PLC0415

    size = 224 if architecture in ("s3d", "mvit_v1_b", "mvit_v2_s") else 112
    return torchvision.models.get_model(architecture, weights=None), (3, 16, size, size)


def _timm(architecture: str) -> tuple[nn.Module, tuple[int, ...]]:
    import timm  # noqa: PLC0415

    module: Any = timm.create_model(architecture, pretrained=False)
    return module, tuple(module.pretrained_cfg["input_size"])


def _randomize_parameter(name: str, parameter: torch.Tensor) -> None:
    if parameter.numel() == 1 and float(parameter) == 0:
        parameter.fill_(0.7)  # a gain that begins at nothing
    elif parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
        constant = float(parameter.flatten()[0])
        if parameter.dim() <= 1 and name.endswith("bias"):
            parameter.normal_(0, 0.1)
        elif constant == 0 and parameter.dim() >= 2 and parameter.shape[0] > 1:
            parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()))
        elif constant == 0:
            parameter.normal_(0, 0.1)
        else:  # a scale: of a norm, of a layer
            parameter.uniform_(0.5, 1.5)
    elif parameter.dim() <= 1 and name.endswith("bias"):
        parameter.normal_(0, 0.1)


def _estimate_statistics(module: nn.Module, example: torch.Tensor) -> None:
    """One run in which only batch norms train; their averages become those of this input."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    module.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None
        norm.reset_running_stats()
    try:
        if norms:
            module(example)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
    for norm in norms:
        if norm.running_var is not None and norm.running_mean is not None:
            norm.running_var.clamp_(min=1e-2)
            norm.running_mean.add_(torch.randn_like(norm.running_mean) * 0.05)
