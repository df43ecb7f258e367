"""The embedded sample: a trained digit classifier as ONNX, calibration inputs, a labeled test set.

Made by ``tools/train_sample.py``. Images are float32 (n, 1, 28, 28) in [0, 1]; the model's input is ``image``
(dynamic batch), its output ``logits`` (n, 10).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def model_path() -> Path:
    """``digits_resnet20.onnx``: a ResNet-20 (widths 16/32/64) with its batch norms as nodes."""
    return _file("digits_resnet20.onnx")


def calibration_path() -> Path:
    """``calibration.npz``: ``image``, 256 images of the training split, without labels."""
    return _file("calibration.npz")


def test_path() -> Path:
    """``test.npz``: ``image`` and ``labels`` of the 1,000 held-out images."""
    return _file("test.npz")


def _file(name: str) -> Path:
    # a pip-installed package always lies in a folder, so a resource is a path; no copy is made
    return Path(str(resources.files(__name__) / name))
