"""Make the PP-OCR orientation benchmark: is a line of text upright or upside down?

Into the output folder (default ``data/ppocr_cls``) go

* ``ppocr_cls.onnx``: the file as rapidocr ships it;
* ``calib.npz``: ``x`` (n, 3, 48, 192), rendered lines, half of them turned by 180 degrees, no labels;
* ``test.npz``: ``x`` and ``labels`` (0 upright, 1 turned), lines in other faces.

    python tools/make_ppocr_cls.py
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from plain_onnxruntime import first_output
from text_lines import CALIBRATION_FACES, TEST_FACES, render_lines, to_tensor
from wheel_files import package_folder

WIDTH = 192
MODEL = "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"


def oriented_lines(
    count: int, faces: tuple[str, ...], seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """``count`` lines (count, 3, 48, WIDTH), the odd ones turned by 180 degrees, and which were turned."""
    turned = np.arange(count) % 2
    tensors: list[npt.NDArray[np.float32]] = []
    # each text is used once, upright or turned, so that no pair gives the answer away
    for line, turn in zip(render_lines(count, faces, seed), np.roll(turned, count // 2), strict=True):
        image = line.image.transpose(Image.Transpose.ROTATE_180) if turn else line.image
        tensors.append(to_tensor(image, WIDTH))
    return np.stack(tensors), np.roll(turned, count // 2).astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("data/ppocr_cls"))
    parser.add_argument("--calibration", type=int, default=256, help="lines for calibration")
    parser.add_argument("--test", type=int, default=400, help="lines for the test")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    model = options.out / "ppocr_cls.onnx"
    shutil.copyfile(package_folder("rapidocr_onnxruntime") / MODEL, model)
    calibration, _ = oriented_lines(options.calibration, CALIBRATION_FACES, options.seed)
    np.savez(options.out / "calib.npz", x=calibration)
    x, labels = oriented_lines(options.test, TEST_FACES, options.seed + 1)
    np.savez(options.out / "test.npz", x=x, labels=labels)
    print(f"{model}: {len(calibration)} calibration lines, {len(x)} test lines")

    right = first_output(model, x).argmax(1) == labels
    print(f"test.npz: accuracy {right.mean():.4f} (upright {right[labels == 0].mean():.4f})")


if __name__ == "__main__":
    main()
