"""Make a classifier of made-up signals: six convolutions with kernels 512×1 and 64×1, and one dense layer.

Such nets (of raw sound, or of an EEG) are where latency budgets are hard to meet: all their time is in a few
wide kernels, one inference takes a millisecond or two, and there is nothing to collapse. A signal is a tone
whose frequency tells its class, under noise and beside a louder tone that says nothing; training takes two
CPU minutes. Into the output folder (default ``data/wide_convolutions``) go

* ``wide_convolutions.onnx``: input ``signal`` (batch, 1, 2048, 1) float32, output ``logits`` (batch, 8);
* ``calib.npz``: ``signal`` without labels; ``test.npz``: ``signal`` and ``labels``.

    python tools/make_wide_convolutions.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from make_efficientnet_lite0 import export
from plain_onnxruntime import first_output
from torch import nn

LENGTH, CLASSES = 2048, 8
NOISE, LOUD = 1.5, 2.0
"""Of a tone of amplitude 1: the deviation of the noise, the amplitude of the tone that says nothing."""


class WideConvolutions(nn.Sequential):
    """Six convolutions along time and one dense layer."""

    def __init__(self) -> None:
        def step(n: int, m: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
            padding = (kernel // 2, 0)
            return nn.Conv2d(n, m, (kernel, 1), (stride, 1), padding), nn.BatchNorm2d(m), nn.ReLU()

        super().__init__(
            *step(1, 16, 512, 8),
            *step(16, 32, 64, 1),
            *step(32, 32, 64, 2),
            *step(32, 48, 64, 1),
            *step(48, 48, 64, 2),
            *step(48, 64, 64, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, CLASSES),
        )


def signals(count: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """So many signals (count, 1, LENGTH, 1) and their classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    time = np.arange(LENGTH) / LENGTH
    told = 40 * 1.25 ** (labels + random.uniform(-0.3, 0.3, count))
    other = random.uniform(300, 600, count)
    phases = random.uniform(0, 2 * np.pi, (2, count, 1))
    x = np.sin(2 * np.pi * told[:, None] * time + phases[0])
    x += LOUD * np.sin(2 * np.pi * other[:, None] * time + phases[1])
    x += NOISE * random.standard_normal(x.shape)
    return x.astype(np.float32)[:, None, :, None], labels


def trained(steps: int, seed: int) -> nn.Module:
    """The net after so many batches of fresh signals."""
    torch.manual_seed(seed)
    net = WideConvolutions()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        x, labels = signals(32, 1000 * (seed + 1) + step)
        loss = nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("data/wide_convolutions"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = options.out / "wide_convolutions.onnx"
    export(trained(options.steps, options.seed), model, "dynamo", "signal", (1, LENGTH, 1))
    calibration, _ = signals(256, 1)
    np.savez(options.out / "calib.npz", signal=calibration)
    test, labels = signals(1000, 2)
    np.savez(options.out / "test.npz", signal=test, labels=labels)
    accuracy = float((first_output(model, test).argmax(1) == labels).mean())
    print(f"test.npz: accuracy {accuracy:.3f} over {len(labels)} signals")


if __name__ == "__main__":
    main()
