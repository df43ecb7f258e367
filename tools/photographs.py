"""Photographs that come inside wheels, which of them calibrate and which are held out, and crops of them.

They are read from where the packages are installed and never copied into this repository: foolbox carries 20
photographs with their ImageNet class in the file name, scikit-image and scikit-learn a few more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from wheel_files import package_folder

Images = npt.NDArray[np.float32]
SIDE = 224
CENTER_SHARE = 0.875
MAX_LABELS = 3


@dataclass(frozen=True)
class Photograph:
    """One picture: the package and file it comes from, and the ImageNet classes that are right for it."""

    package: str
    file: str
    classes: tuple[int, ...] = ()

    def open(self) -> Image.Image:
        """The picture as RGB."""
        with Image.open(package_folder(self.package) / self.file) as image:
            return image.convert("RGB")


def _foolbox(*names: str) -> tuple[Photograph, ...]:
    """foolbox's files, whose names end in the class."""
    return tuple(
        Photograph("foolbox", f"data/imagenet_{name}.jpg", (int(name.split("_")[1]),)) for name in names
    )


def _skimage(file: str, *classes: int) -> Photograph:
    return Photograph("skimage", f"data/{file}", classes)


# Fixed for good: figures are comparable only while no photograph changes sides. The held-out dozen is natural
# scenes; calibration gets as many kinds as there are, textures and instruments included.
CALIBRATION = (
    *_foolbox("00_243", "01_559", "03_990", "04_949", "06_609", "07_609", "09_455", "10_541"),
    *_foolbox("12_741", "13_471", "15_99", "16_251", "18_317"),
    _skimage("rocket.jpg", 657, 744),
    _skimage("motorcycle_left.png"),
    _skimage("camera.png"),
    _skimage("coins.png"),
    _skimage("grass.png"),
    _skimage("gravel.png"),
    _skimage("hubble_deep_field.jpg"),
    _skimage("ihc.png"),
    _skimage("retina.jpg"),
    _skimage("moon.png"),
    Photograph("sklearn", "datasets/images/flower.jpg"),
)
HELD_OUT = (
    *_foolbox("02_438", "05_853", "08_915", "11_630", "14_129", "17_22", "19_305"),
    _skimage("chelsea.png", 281, 282, 285),
    _skimage("coffee.png", 967, 968, 504),
    _skimage("astronaut.png"),
    _skimage("brick.png"),
    Photograph("sklearn", "datasets/images/china.jpg"),
)
LABELED = tuple(photograph for photograph in (*CALIBRATION, *HELD_OUT) if photograph.classes)


def label_rows(photographs: tuple[Photograph, ...]) -> npt.NDArray[np.int64]:
    """The classes of each photograph as a row of MAX_LABELS, padded with -1."""
    rows = np.full((len(photographs), MAX_LABELS), -1, np.int64)
    for row, photograph in zip(rows, photographs, strict=True):
        row[: len(photograph.classes)] = photograph.classes
    return rows


def center_crops(photographs: tuple[Photograph, ...]) -> Images:
    """The middle of each photograph, as ImageNet models are evaluated: (n, 3, SIDE, SIDE)."""
    return np.stack([normalize(_center(photograph.open())) for photograph in photographs])


def random_crops(
    photographs: tuple[Photograph, ...], count: int, seed: int
) -> tuple[Images, npt.NDArray[np.int64]]:
    """``count`` random crops and flips, shared evenly among the photographs, and their label rows.

    A crop covers a quarter to all of the picture's area at an aspect ratio of 3/4 to 4/3, then is resized.
    The label is the photograph's: a small crop may not show what it names.
    """
    crops, sources = crops_of([photograph.open() for photograph in photographs], count, seed)
    return crops, label_rows(photographs)[sources]


def crops_of(pictures: Sequence[Image.Image], count: int, seed: int) -> tuple[Images, npt.NDArray[np.int64]]:
    """``count`` random crops and flips, shared evenly among the pictures, and which picture each is of."""
    random = np.random.default_rng(seed)
    sources = np.arange(count) % len(pictures)
    crops = np.empty((count, 3, SIDE, SIDE), np.float32)
    for row, source in enumerate(sources.tolist()):
        crops[row] = normalize(random_crop(pictures[source], random))
    return crops, sources


def random_crop(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A random part of a picture, SIDE pixels a side, flipped or not."""
    area = random.uniform(0.25, 1.0) * image.width * image.height
    ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
    width = min(round(math.sqrt(area * ratio)), image.width)
    height = min(round(math.sqrt(area / ratio)), image.height)
    left = int(random.integers(image.width - width + 1))
    top = int(random.integers(image.height - height + 1))
    crop = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else crop


def _center(image: Image.Image) -> Image.Image:
    side = CENTER_SHARE * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def normalize(image: Image.Image) -> Images:
    """EfficientNet-Lite's scaling, (x - 127) / 128, channels first."""
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)
    return (pixels - np.float32(127)) / np.float32(128)
