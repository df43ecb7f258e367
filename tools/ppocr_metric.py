"""Character accuracy of a CTC text recognizer, for ``--metric tools.ppocr_metric:character_accuracy``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BLANK = 0


def character_accuracy(outputs: Any, labels: npt.ArrayLike) -> float:
    """The mean over the lines of 1 - edit distance / length, after greedy CTC decoding.

    ``outputs``: scores (n, steps, classes) with class 0 the blank, or a mapping or sequence whose first entry
    they are. ``labels``: class indices (n, length), padded with -1. A line with more errors than
    characters counts 0, not less.
    """
    if isinstance(outputs, Mapping):
        outputs = next(iter(outputs.values()))
    elif isinstance(outputs, Sequence):
        outputs = outputs[0]
    targets = [row[row >= 0].tolist() for row in np.asarray(labels)]
    readings = greedy_ctc(np.asarray(outputs))
    scores = [
        max(0.0, 1 - edit_distance(reading, target) / len(target))
        for reading, target in zip(readings, targets, strict=True)
    ]
    return float(np.mean(scores))


def greedy_ctc(scores: npt.NDArray[np.generic]) -> list[list[int]]:
    """The best class of each step, repeats merged, then blanks dropped."""
    best = scores.argmax(2)
    changed = np.ones(best.shape, bool)
    changed[:, 1:] = best[:, 1:] != best[:, :-1]
    keep = changed & (best != BLANK)
    return [row[mask].tolist() for row, mask in zip(best, keep, strict=True)]


def edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and substitutions."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]
