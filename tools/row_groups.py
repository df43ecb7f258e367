"""Which rows of a data set belong together, as the crops of one photograph do.

An interval has to draw groups again, not rows, and what is held out has to be whole groups. The numbers lie
in a file beside the data, not in it, for every array of a data set is an input of the model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

Groups = npt.NDArray[np.int64]


def groups_of(data: Path, count: int) -> Groups:
    """The group of each of the ``count`` rows of ``data``; each its own where nothing is said."""
    beside = groups_file(data)
    return np.load(beside) if beside.is_file() else np.arange(count)


def save_groups(data: Path, groups: Groups) -> None:
    """Say it."""
    np.save(groups_file(data), groups)


def groups_file(data: Path) -> Path:
    """Where it is said: ``test.groups.npy`` beside ``test.npz``."""
    return data.with_suffix(".groups.npy")
