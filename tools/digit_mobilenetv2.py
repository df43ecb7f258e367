"""A MobileNetV2 for the digits: inverted residuals with and without a shortcut, ReLU6."""

from __future__ import annotations

from torch import Tensor, nn

STAGES = ((16, 2, 1), (32, 3, 2), (56, 3, 2))
"""Width, blocks and first stride of each stage: 28, 14 and 7 pixels a side."""


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection without an activation; a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = _convolution(inputs, inner, 1)
        self.depthwise = _convolution(inner, inner, 3, stride, inner)
        self.project = nn.Sequential(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        update = self.project(self.depthwise(self.expand(x)))
        return x + update if self.shortcut else update


class MobileNetV2(nn.Module):
    """The network of Sandler et al. (2018), small, on one input channel."""

    def __init__(
        self,
        stages: tuple[tuple[int, int, int], ...] = STAGES,
        expansion: int = 4,
        head: int = 192,
        classes: int = 10,
    ) -> None:
        super().__init__()
        inputs = stages[0][0]
        self.stem = _convolution(1, inputs, 3)
        blocks: list[nn.Module] = []
        for width, count, stride in stages:
            for block in range(count):
                blocks.append(InvertedResidual(inputs, width, stride if block == 0 else 1, expansion))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.last = _convolution(inputs, head, 1)
        self.head = nn.Linear(head, classes)

    def forward(self, image: Tensor) -> Tensor:
        features = self.last(self.blocks(self.stem(image)))
        return self.head(features.mean((2, 3)))


def _convolution(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    weights = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(weights, nn.BatchNorm2d(outputs), nn.ReLU6())
