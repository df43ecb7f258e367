"""Outputs that are class scores: divergence, agreement and accuracy of one network against another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from otgraph.data import Array
from otgraph.errors import DataError

Floats = npt.NDArray[np.float64]
Rows = Literal["probabilities", "log-probabilities", "logits"]

SMALLEST = 1e-12
"""Probabilities are kept above this, as a float32 softmax may round them to zero."""


@dataclass(frozen=True)
class Classification:
    """``kl`` is the mean of KL(A ‖ B) in nats over samples (and positions, for sequences).

    ``top1_agreement`` is the share of samples (or positions) where both choose the same class. Accuracies
    are ``None`` without integer labels. ``rows`` says how the outputs were read.
    """

    output: str
    rows: Rows
    classes: int
    per_position: bool
    kl: float
    top1_agreement: float
    accuracy_a: float | None
    accuracy_b: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


def rows_kind(output: Array) -> Rows | None:
    """How an output reads as class scores, or ``None`` when it does not look like them.

    (samples, classes ≥ 2): always, as logits unless each row is a distribution. (samples, positions,
    classes ≥ 2): only when each row is a distribution, or the logarithm of one, since a feature map has
    that shape as well.
    """
    if output.dtype.kind != "f" or output.ndim not in (2, 3) or output.shape[-1] < 2 or output.size == 0:
        return None
    rows = np.asarray(output, np.float64)
    if (rows >= 0).all() and np.allclose(rows.sum(-1), 1, atol=2e-3):
        return "probabilities"
    if (rows <= 1e-6).all() and np.allclose(np.exp(rows).sum(-1), 1, atol=2e-3):
        return "log-probabilities"
    return "logits" if output.ndim == 2 else None


class ClassTally:
    """Adds up batches; ``result`` gives the means."""

    def __init__(self, output: str, rows: Rows, classes: int, *, per_position: bool) -> None:
        self._output, self._classes, self._per_position = output, classes, per_position
        self._rows: Rows = rows
        self._kl = self._agree = 0.0
        self._count = 0
        self._right = np.zeros(2)
        self._labelled = 0

    def add(self, a: Array, b: Array, labels: Array | None) -> None:
        """Scores of both models for the same samples, (samples, [positions,] classes)."""
        log_a, log_b = self._logs(a), self._logs(b)
        kl = (np.exp(log_a) * (log_a - log_b)).sum(-1)
        self._kl += float(np.maximum(kl, 0).sum())
        self._agree += float((a.argmax(-1) == b.argmax(-1)).sum())
        self._count += kl.size
        if labels is not None and labels.dtype.kind in "iu" and a.ndim == 2 and labels.ndim in (1, 2):
            self._score(a, b, np.asarray(labels, np.int64).reshape(len(labels), -1))

    def result(self) -> Classification:
        """The means so far."""
        right_a, right_b = (
            float(value) / self._labelled if self._labelled else None for value in self._right
        )
        return Classification(
            output=self._output,
            rows=self._rows,
            classes=self._classes,
            per_position=self._per_position,
            kl=self._kl / self._count,
            top1_agreement=self._agree / self._count,
            accuracy_a=right_a,
            accuracy_b=right_b,
        )

    def _logs(self, scores: Array) -> Floats:
        rows = np.asarray(scores, np.float64)
        if self._rows == "probabilities":
            return np.log(np.maximum(rows, SMALLEST))
        return log_softmax(rows, axis=-1)

    def _score(self, a: Array, b: Array, labels: npt.NDArray[np.int64]) -> None:
        """``labels`` is (samples, k): any of a row's labels counts as right; -1 is padding."""
        if int(labels.max(initial=-1)) >= self._classes:
            worst = int(labels.max())
            raise DataError(
                f"labels: {worst} is no class of output '{self._output}' ({self._classes} classes)"
            )
        known = (labels >= 0).any(1)
        for index, scores in enumerate((a, b)):
            self._right[index] += int(((labels == scores.argmax(-1)[:, None]).any(1) & known).sum())
        self._labelled += int(known.sum())
