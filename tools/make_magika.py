"""Make the magika benchmark: the ONNX model of the magika wheel and files of known type found on this disk.

Into the output folder (default ``data/magika``) go

* ``magika.onnx``: the file as magika ships it (bytes of a file -> 214 types);
* ``calib.npz``: ``bytes`` (n, 2048) int32, no labels;
* ``test.npz``: ``bytes`` and ``labels``, files of other folders; a label is the type that the
  extension says;
* ``files.txt``: which file each row of both came from, since the choice depends on what is installed.

    python tools/make_magika.py
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from plain_onnxruntime import first_output
from wheel_files import package_folder

MODEL = Path("models/standard_v3_3")
SIDE = 1024
BLOCK = 4096
PADDING = 256
SMALLEST = 64
# extensions that say the type without much doubt; '.h', '.pl', '.txt', '.md' and the like do not
TYPES = {
    ".bmp": "bmp",
    ".c": "c",
    ".cmake": "cmake",
    ".cpp": "cpp",
    ".css": "css",
    ".csv": "csv",
    ".f": "fortran",
    ".f90": "fortran",
    ".gif": "gif",
    ".gz": "gzip",
    ".html": "html",
    ".ico": "ico",
    ".ipynb": "ipynb",
    ".java": "java",
    ".jpg": "jpeg",
    ".js": "javascript",
    ".json": "json",
    ".lua": "lua",
    ".npy": "npy",
    ".npz": "npz",
    ".onnx": "onnx",
    ".pdf": "pdf",
    ".png": "png",
    ".po": "po",
    ".proto": "proto",
    ".py": "python",
    ".pyc": "pythonbytecode",
    ".rst": "rst",
    ".sh": "shell",
    ".so": "elf",
    ".svg": "svg",
    ".tif": "tiff",
    ".toml": "toml",
    ".ts": "typescript",
    ".ttf": "ttf",
    ".wav": "wav",
    ".xml": "xml",
    ".xsl": "xml",
    ".xz": "xz",
    ".yaml": "yaml",
    ".zip": "zip",
}


def features(content: bytes) -> npt.NDArray[np.int32]:
    """The first and last SIDE bytes, white space at the ends stripped, padded with PADDING: (2 * SIDE,).

    As ``magika.Magika._extract_features_from_seekable`` computes them.
    """
    start, end = content[:BLOCK].lstrip()[:SIDE], content[-BLOCK:].rstrip()[-SIDE:]
    row = np.full(2 * SIDE, PADDING, np.int32)
    row[: len(start)] = list(start)
    row[2 * SIDE - len(end) :] = list(end)
    return row


def find_files(per_type: int, seed: int) -> dict[str, list[Path]]:
    """Up to ``per_type`` files of each type and side, ``calib`` or ``test``.

    A folder's files are all on one side, so that near copies do not straddle the two.
    """
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in _candidates():
        side = "test" if zlib.crc32(path.parent.name.encode()) % 2 else "calib"
        found[side, TYPES[path.suffix]].append(path)
    random = np.random.default_rng(seed)
    chosen: dict[str, list[Path]] = {"calib": [], "test": []}
    for (side, _), paths in sorted(found.items()):
        rows = random.permutation(len(paths))[:per_type]
        chosen[side] += [paths[row] for row in sorted(rows)]
    return chosen


def _candidates() -> Iterator[Path]:
    """Files of a known extension in site-packages, the standard library and /usr/share, in a fixed order."""
    site = package_folder("magika").parent
    roots = dict.fromkeys(
        (site, Path(json.__file__).parents[1], Path("/usr/share"), Path(sys.prefix) / "share")
    )
    seen: set[Path] = set()
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.suffix in TYPES and path not in seen and not path.is_symlink() and path.is_file():
                seen.add(path)
                if path.stat().st_size >= SMALLEST:
                    yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("data/magika"))
    parser.add_argument("--per-type", type=int, default=20, help="most files per type and side")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    model = options.out / "magika.onnx"
    source = package_folder("magika") / MODEL
    shutil.copyfile(source / "model.onnx", model)
    types: list[str] = json.loads((source / "config.min.json").read_text())["target_labels_space"]
    files = find_files(options.per_type, options.seed)
    rows = {side: np.stack([features(path.read_bytes()) for path in paths]) for side, paths in files.items()}
    labels = np.array([types.index(TYPES[path.suffix]) for path in files["test"]])
    np.savez(options.out / "calib.npz", bytes=rows["calib"])
    np.savez(options.out / "test.npz", bytes=rows["test"], labels=labels)
    listed = [f"{side} {row} {path}\n" for side, paths in files.items() for row, path in enumerate(paths)]
    (options.out / "files.txt").write_text("".join(listed))
    print(f"{model}: {len(rows['calib'])} calibration files, {len(rows['test'])} test files")

    best = first_output(model, rows["test"]).argmax(1)
    print(f"test.npz: accuracy {(best == labels).mean():.4f} over {len(set(labels.tolist()))} types")
    wrong = Counter(
        (types[label], types[top]) for label, top in zip(labels, best, strict=True) if label != top
    )
    for (label, top), count in wrong.most_common(8):
        print(f"  {label} taken for {top}: {count}")


if __name__ == "__main__":
    main()
