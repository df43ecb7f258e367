"""Make the PP-OCRv4 text recognition benchmark: the ONNX model of the rapidocr wheel and rendered lines.

Into the output folder (default ``data/ppocr_rec``) go

* ``ppocr_rec.onnx``: the file as rapidocr ships it;
* ``calib.npz``: ``x`` (n, 3, 48, 320), rendered lines, no labels;
* ``test.npz``: ``x`` and ``labels``, lines in other faces; a label is the text as classes of the recognizer's
  dictionary (0 is CTC's blank), padded with -1. ``ppocr_metric.py`` reads them.

    python tools/make_ppocr_rec.py
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from plain_onnxruntime import first_output
from ppocr_metric import character_accuracy, greedy_ctc
from text_lines import CALIBRATION_FACES, TEST_FACES, Line, render_lines, to_tensor
from wheel_files import package_folder

WIDTH = 320
MODEL = "models/ch_PP-OCRv4_rec_infer.onnx"


def dictionary(model: Path) -> list[str]:
    """The character of each class: the blank, what the model's metadata lists, and the space."""
    metadata = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    return ["", *metadata["character"].splitlines(), " "]


def label_rows(lines: list[Line], characters: list[str]) -> npt.NDArray[np.int64]:
    """The texts as rows of class indices, padded with -1; ``KeyError`` for a character the model lacks."""
    index = {character: number for number, character in enumerate(characters)}
    rows = np.full((len(lines), max(len(line.text) for line in lines)), -1, np.int64)
    for row, line in zip(rows, lines, strict=True):
        row[: len(line.text)] = [index[character] for character in line.text]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("data/ppocr_rec"))
    parser.add_argument("--calibration", type=int, default=256, help="lines for calibration")
    parser.add_argument("--test", type=int, default=300, help="lines for the test")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    model = options.out / "ppocr_rec.onnx"
    shutil.copyfile(package_folder("rapidocr_onnxruntime") / MODEL, model)
    characters = dictionary(model)

    calibration = render_lines(options.calibration, CALIBRATION_FACES, options.seed)
    np.savez(options.out / "calib.npz", x=np.stack([to_tensor(line.image, WIDTH) for line in calibration]))
    test = render_lines(options.test, TEST_FACES, options.seed + 1)
    x, labels = np.stack([to_tensor(line.image, WIDTH) for line in test]), label_rows(test, characters)
    np.savez(options.out / "test.npz", x=x, labels=labels)
    print(f"{model}: {len(characters)} classes; {len(calibration)} calibration lines, {len(test)} test lines")

    scores = first_output(model, x)
    readings = ["".join(characters[number] for number in reading) for reading in greedy_ctc(scores)]
    exact = np.mean([reading == line.text for reading, line in zip(readings, test, strict=True)])
    print(f"test.npz: character accuracy {character_accuracy(scores, labels):.4f}, exact lines {exact:.3f}")
    for face in TEST_FACES:
        rows = [number for number, line in enumerate(test) if line.face == face]
        print(f"  {face}: {character_accuracy(scores[rows], labels[rows]):.4f} on {len(rows)} lines")


if __name__ == "__main__":
    main()
