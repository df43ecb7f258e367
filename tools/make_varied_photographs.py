"""Make more, and more different, photographs for EfficientNet-Lite0, and other kinds to judge it on.

What limits the label-free repair of an image classifier is the variety of the pictures, not the number of
crops (24 photographs come in wheels). Debian's packages have more; they are fetched once, into --packages,
and no picture is copied into this repository. Into the output folder (default ``data/varied_photographs``) go

* ``calib.npz``: crops of the 24 photographs (half as many as ``make_efficientnet_lite0.py`` makes), stamps of
  tuxpaint (photographs of animals, fruit, tools, vehicles, cut out) put on crops of other pictures, and crops
  of the backgrounds of two desktops; those of one picture follow each other;
* ``wall.npz``: crops of photographs that three other packages have as wallpapers: landscapes, mostly;
* ``examples.npz``: crops of the photographs among OpenCV's examples: things, animals, streets.

Each is ``image`` (n, 3, 224, 224) without labels, with the number of each row's picture in
``NAME.groups.npy``. Nothing in the last two is in any calibration set.

    python tools/make_varied_photographs.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from debian_files import unpacked
from photographs import CALIBRATION, SIDE, Images, crops_of, normalize, random_crop
from PIL import Image
from row_groups import save_groups

LARGEST = 1024
"""Pictures are kept this large: a crop of a quarter of one is still larger than SIDE."""
OPAQUE = 250
SMALLEST_STAMP = 100
STAMP_SHARE = (0.5, 0.95)
"""Of the crop's side, the longer side of a stamp."""

STAMPS = ("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps")
DRAWN = ("cartoon", "symbols", "seasonal", "roadsigns", "flags", "clothes", "_mirror")
"""Parts of the paths of stamps that are drawings, or another stamp mirrored."""

BACKGROUNDS = {
    "mate-backgrounds": "usr/share/backgrounds/mate",
    "gnome-backgrounds": "usr/share/backgrounds/gnome",
}
SAME_PICTURE = ("Elephants_", "Ubuntu-Mate-Radioactive", "Ubuntu-Mate-Warm", "Ubuntu-Mate-Cold")
"""Beginnings of the names of backgrounds that are another one at another size or in other colors."""
PICTURES = (".jpg", ".jpeg", ".png", ".webp")

# Fixed for good, as the lists of photographs.py are. Drawings and renderings are left out.
WALL = {
    "lomiri-wallpapers-16.04": [
        f"usr/share/backgrounds/{name}.jpg"
        for name in (
            "Bridge_by_Sander_Klootwijk",
            "Dragonfly_by_Bolly",
            "Picture_0B_by_freespace",
            "Picture_1A_by_freespace",
            "Wine_by_Jakkub_Mede",
            "aitzgorri_by_Aitzol_Berasategi",
            "free_by_Peter_Nerlich",
            "friends_by_Aitzol_Berasategi",
            "greentock_by_Peter_Nerlich",
            "life_by_Aitzol_Berasategi",
            "picosdeeuropa_by_Aitzol_Berasategi",
            "seeding_by_Clements_Engelhardt",
            "sunset_by_Aitzol_Berasategi",
        )
    ],
    "lomiri-wallpapers-20.04": ["usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg"],
    "plasma-workspace-wallpapers": [
        f"usr/share/wallpapers/{name}/contents/images/{size}.jpg"
        for name, size in (
            ("BytheWater", "2560x1600"),
            ("ColdRipple", "2560x1600"),
            ("ColorfulCups", "2560x1600"),
            ("DarkestHour", "2560x1600"),
            ("EveningGlow", "2560x1600"),
            ("FallenLeaf", "2560x1600"),
            ("Gray", "2560x1600"),
            ("Kite", "2560x1600"),
            ("OneStandsOut", "2560x1600"),
            ("Path", "2560x1600"),
            ("summer_1am", "2560x1600"),
        )
    ],
}
EXAMPLES = {
    "opencv-doc": [
        f"usr/share/doc/opencv-doc/examples/data/{name}"
        for name in (
            "aero1.jpg",
            "aloeL.jpg",
            "apple.jpg",
            "baboon.jpg",
            "basketball1.png",
            "board.jpg",
            "box_in_scene.png",
            "building.jpg",
            "butterfly.jpg",
            "chicky_512.png",
            "ela_original.jpg",
            "fruits.jpg",
            "graf1.png",
            "home.jpg",
            "left.jpg",
            "leuvenA.jpg",
            "licenseplate_motion.jpg",
            "messi5.jpg",
            "orange.jpg",
            "rubberwhale1.png",
            "smarties.png",
            "squirrel_cls.jpg",
            "stuff.jpg",
            "sudoku.png",
        )
    ]
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("data/varied_photographs"))
    parser.add_argument("--packages", type=Path, default=Path("data/debian"), help="where they are unpacked")
    parser.add_argument("--photographs", type=int, default=192, help="crops of the 24 photographs")
    parser.add_argument("--stamps", type=int, default=412, help="stamps on other pictures")
    parser.add_argument("--backgrounds", type=int, default=184, help="crops of backgrounds")
    parser.add_argument("--wall", type=int, default=300, help="crops of wallpapers, for the test")
    parser.add_argument("--examples", type=int, default=288, help="crops of OpenCV's examples, for the test")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    photographs = [photograph.open() for photograph in CALIBRATION]
    backgrounds = opened(background_files(options.packages))
    stamps = opened_stamps(unpacked(STAMPS[0], options.packages) / STAMPS[1])
    parts = [
        crops_of(photographs, options.photographs, options.seed),
        stamped(stamps, [*photographs, *backgrounds], options.stamps, options.seed + 1),
        crops_of(backgrounds, options.backgrounds, options.seed + 2),
    ]
    save(options.out / "calib.npz", parts)
    for name, listed, count in (("wall", WALL, options.wall), ("examples", EXAMPLES, options.examples)):
        files = [unpacked(package, options.packages) / file for package in listed for file in listed[package]]
        save(options.out / f"{name}.npz", [crops_of(opened(files), count, options.seed + 3)])


def save(path: Path, parts: Sequence[tuple[Images, npt.NDArray[np.int64]]]) -> None:
    """The crops of all parts, those of a picture together, and the picture of each beside them."""
    images, groups, counts = [], [], []
    first = 0
    for crops, sources in parts:
        order = np.argsort(sources, kind="stable")
        images.append(crops[order])
        groups.append(sources[order] + first)
        first += int(sources.max()) + 1
        counts.append(f"{len(crops)} of {len(np.unique(sources))} pictures")
    np.savez(path, image=np.concatenate(images))
    save_groups(path, np.concatenate(groups))
    print(f"{path.name}: {', '.join(counts)}")


def background_files(packages: Path) -> list[Path]:
    """Each picture once, whatever it shows: that a stripe pattern is no landscape is variety too."""
    found: list[Path] = []
    for package, inside in BACKGROUNDS.items():
        files = sorted((unpacked(package, packages) / inside).rglob("*"))
        found += [
            file for file in files if file.suffix in PICTURES and not file.name.startswith(SAME_PICTURE)
        ]
    return found


def opened(files: Sequence[Path]) -> list[Image.Image]:
    """As RGB, no larger than is of use; without those that are transparent and would be white."""
    pictures = [_small(file) for file in files]
    return [picture.convert("RGB") for picture in pictures if np.asarray(picture)[..., 3].mean() > OPAQUE]


def opened_stamps(folder: Path) -> list[Image.Image]:
    """The photographic stamps with their transparency, without their empty margins."""
    found: list[Image.Image] = []
    for file in sorted(folder.rglob("*.png")):
        if any(part in file.relative_to(folder).as_posix() for part in DRAWN):
            continue
        stamp = _small(file)
        box = stamp.getchannel("A").getbbox()
        if box is not None and max(box[2] - box[0], box[3] - box[1]) >= SMALLEST_STAMP:
            found.append(stamp.crop(box))
    return found


def stamped(
    stamps: Sequence[Image.Image], behind: Sequence[Image.Image], count: int, seed: int
) -> tuple[Images, npt.NDArray[np.int64]]:
    """``count`` stamps, each in turn, on random crops of random pictures; and which stamp each is of."""
    random = np.random.default_rng(seed)
    sources = np.arange(count) % len(stamps)
    crops = np.empty((count, 3, SIDE, SIDE), np.float32)
    for row, source in enumerate(sources.tolist()):
        canvas = random_crop(behind[int(random.integers(len(behind)))], random)
        stamp = _sized(stamps[source], round(random.uniform(*STAMP_SHARE) * SIDE))
        left, top = (int(random.integers(SIDE - side + 1)) for side in stamp.size)
        if random.random() < 0.5:
            stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        canvas.paste(stamp, (left, top), stamp)
        crops[row] = normalize(canvas)
    return crops, sources


def _sized(image: Image.Image, side: int) -> Image.Image:
    """With ``side`` pixels on its longer side."""
    scale = side / max(image.size)
    width, height = (min(max(round(scale * length), 1), side) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _small(file: Path) -> Image.Image:
    with Image.open(file) as image:
        image.thumbnail((LARGEST, LARGEST))
        return image.convert("RGBA")


if __name__ == "__main__":
    main()
