"""Rendered lines of Latin text, for the text recognizer and the orientation classifier of PP-OCR.

Faces come from the matplotlib wheel, so that every machine renders the same lines. Calibration and test use
different faces and different seeds.
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from wheel_files import package_folder

FONTS = "mpl-data/fonts/ttf"
CALIBRATION_FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSerif"),
    *("DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralItalic", "cmr10", "cmtt10"),
)
TEST_FACES = (
    *("DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono-Bold", "DejaVuSerif-Bold"),
    *("DejaVuSerif-Italic", "STIXGeneralBol", "STIXGeneralBolIta", "cmss10", "cmb10", "cmti10"),
)
WORDS = (Path(__file__).parent / "words.txt").read_text().split()


@dataclass(frozen=True)
class Line:
    """A text, its picture (RGB) and the face it is set in."""

    text: str
    image: Image.Image
    face: str


def render_lines(count: int, faces: tuple[str, ...], seed: int) -> list[Line]:
    """``count`` different lines, the faces taken in turn; the same for the same arguments."""
    random = np.random.default_rng(seed)
    lines: list[Line] = []
    for number in range(count):
        face = faces[number % len(faces)]
        text = _text(random)
        lines.append(Line(text, _render(text, face, random), face))
    return lines


def to_tensor(image: Image.Image, width: int, height: int = 48) -> npt.NDArray[np.float32]:
    """``image`` as rapidocr feeds it: BGR in [-1, 1], set into (3, height, width), zeros to its right."""
    scaled = min(math.ceil(height * image.width / image.height), width)
    pixels = np.asarray(image.resize((scaled, height), Image.Resampling.BILINEAR), np.float32)
    tensor = np.zeros((3, height, width), np.float32)
    tensor[:, :, :scaled] = pixels[:, :, ::-1].transpose(2, 0, 1) / 127.5 - 1
    return tensor


def _text(random: np.random.Generator) -> str:
    """One to three pieces, at most 22 characters: words in any case, numbers, dates, prices, codes."""
    pieces = [_piece(random)]
    while random.random() < 0.6 and len(pieces) < 3:
        piece = _piece(random)
        if len(" ".join([*pieces, piece])) > 22:
            break
        pieces.append(piece)
    return " ".join(pieces)


def _piece(random: np.random.Generator) -> str:
    def digits(low: int, high: int) -> str:
        return "".join(random.choice(list(string.digits), random.integers(low, high + 1)))

    def word() -> str:
        return str(random.choice(WORDS))

    def letters(count: int) -> str:
        return "".join(random.choice(list(string.ascii_letters), count))

    kinds = (
        word,
        word,
        lambda: word().capitalize(),
        lambda: word().upper(),
        lambda: digits(1, 6),
        lambda: f"{random.integers(1, 29):02d}.{random.integers(1, 13):02d}.{random.integers(1950, 2040)}",
        lambda: f"${digits(1, 3)}.{digits(2, 2)}",
        lambda: f"{digits(1, 2)}%",
        lambda: f"{letters(2).upper()}-{digits(3, 5)}",
        lambda: letters(int(random.integers(3, 7))),
        lambda: f"{word()}@{word()}",
        lambda: f"{word().capitalize()},",
    )
    return kinds[random.integers(len(kinds))]()


def _render(text: str, face: str, random: np.random.Generator) -> Image.Image:
    """``text`` in two random colors of clear contrast, then tilted, blurred, shrunk and made noisy."""
    path = package_folder("matplotlib") / FONTS / f"{face}.ttf"
    font = ImageFont.truetype(str(path), int(random.integers(24, 44)))
    left, top, right, bottom = font.getbbox(text)
    margin = [int(value) for value in random.integers(2, 9, 4)]
    size = (math.ceil(right - left) + margin[0] + margin[1], math.ceil(bottom - top) + margin[2] + margin[3])
    paper, ink = _colors(random)
    image = Image.new("RGB", size, paper)
    ImageDraw.Draw(image).text((margin[0] - left, margin[2] - top), text, font=font, fill=ink)
    angle = float(random.normal(0, 0.8))
    image = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=paper)
    image = image.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1))))
    shrink = float(random.uniform(0.5, 1))
    small = image.resize((max(int(image.width * shrink), 8), max(int(image.height * shrink), 8)))
    noise = random.normal(0, random.uniform(0, 12), (small.height, small.width, 3))
    return Image.fromarray((np.asarray(small, np.float64) + noise).clip(0, 255).astype(np.uint8))


def _colors(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Paper and ink whose mean brightness differs by at least 70 of 255; either may be the darker."""
    while True:
        paper, ink = random.integers(0, 256, (2, 3))
        if abs(float(paper.mean() - ink.mean())) >= 70:
            return tuple(paper.tolist()), tuple(ink.tolist())
