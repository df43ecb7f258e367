"""Make the ResNet-50 benchmark: torchvision's network with random weights, and the photographs' crops.

It stands for what a network of that size costs to optimize; what it says means nothing, so agreement with the
original is its only figure. Fresh weights are no fair original: batch norms that know nothing of their
inputs, and a head whose logits hardly differ from picture to picture. So the running statistics are those of
some of the crops, and the head's logits have mean 0 and deviation LOGIT_DEVIATION over them. Into the output
folder (default ``data/resnet50``) go

* ``resnet50.onnx``: input ``image`` (batch, 3, 224, 224) float32, output ``logits`` (batch, 1000);
* ``calib.npz`` and ``test.npz``: ``image``, as of ``make_efficientnet_lite0.py``, the test without labels.

    python tools/make_resnet50.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torchvision
from make_efficientnet_lite0 import export
from photographs import CALIBRATION, HELD_OUT, random_crops
from plain_onnxruntime import first_output
from row_groups import save_groups
from torch import Tensor, nn

LOGIT_DEVIATION = 3.0
"""About that of a trained classifier's logits; fresh ones have 0.1, and a softmax that is flat."""


def make_net(images: Tensor, seed: int, architecture: str = "resnet50") -> nn.Module:
    """The network with random weights of ``seed``, its statistics and its head's scale fitted to
    ``images``."""
    torch.manual_seed(seed)
    net = torchvision.models.get_model(architecture, weights=None)
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean over the batches, not a decaying one
    net.train()
    with torch.no_grad():
        for batch in images.split(16):
            net(batch)
        net.eval()
        logits = torch.cat([net(batch) for batch in images.split(16)])
        scale = LOGIT_DEVIATION / logits.std(0)
        head = net.get_submodule("fc")
        assert isinstance(head, nn.Linear)
        head.weight.mul_(scale[:, None])
        head.bias.copy_((head.bias - logits.mean(0)) * scale)
    for norm in norms:
        norm.momentum = 0.1
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("data/resnet50"))
    parser.add_argument("--calibration", type=int, default=192, help="crops for calibration")
    parser.add_argument("--test", type=int, default=96, help="crops of held-out photographs")
    parser.add_argument("--statistics", type=int, default=48, help="of them, crops for the batch norms")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    crops, _ = random_crops(CALIBRATION, options.calibration, options.seed)
    net = make_net(torch.from_numpy(crops[: options.statistics]), options.seed)
    model = options.out / "resnet50.onnx"
    export(net, model, "dynamo")
    by_photograph = np.argsort(np.arange(options.calibration) % len(CALIBRATION), kind="stable")
    np.savez(options.out / "calib.npz", image=crops[by_photograph])
    test, _ = random_crops(HELD_OUT, options.test, options.seed + 1)
    np.savez(options.out / "test.npz", image=test)
    save_groups(options.out / "test.npz", np.arange(options.test) % len(HELD_OUT))
    print(f"calib.npz: {len(crops)} crops of {len(CALIBRATION)} photographs")
    print(f"test.npz: {len(test)} crops of {len(HELD_OUT)} others")

    scores = first_output(model, test)
    print(f"test.npz: deviation of a logit {scores.std(0).mean():.2f}, classes {len(set(scores.argmax(1)))}")


if __name__ == "__main__":
    main()
