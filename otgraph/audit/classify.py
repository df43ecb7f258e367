"""Outputs that are class scores: divergence, agreement and accuracy of one network against another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otgraph.audit.intervals import Figure, Interval, at_least_zero, intervals, kin, share_interval
from otgraph.data import Array
from otgraph.errors import DataError
from otgraph.task import Rows, log_softmax

Floats = npt.NDArray[np.float64]

SMALLEST = 1e-12
"""Probabilities are kept above this, as a float32 softmax may round them to zero."""


@dataclass(frozen=True)
class Classification:
    """``kl`` is the mean of KL(A ‖ B) in nats over samples (and positions, for sequences).

    ``top1_agreement`` is the share of samples (or positions) where both choose the same class. Accuracies
    are ``None`` without integer labels. ``rows`` says how the outputs were read. Intervals are of 95 %, over
    samples; that of the accuracies is of their difference, B's less A's, sample by sample.
    """

    output: str
    rows: Rows
    classes: int
    per_position: bool
    kl: float
    top1_agreement: float
    accuracy_a: float | None
    accuracy_b: float | None
    kl_interval: Interval | None = None
    top1_agreement_interval: Interval | None = None
    accuracy_change_interval: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


class ClassTally:
    """Adds up batches, sample by sample; ``result`` gives the means."""

    def __init__(self, output: str, rows: Rows, classes: int, *, per_position: bool) -> None:
        self.output, self._classes, self._per_position = output, classes, per_position
        self._rows: Rows = rows
        self._sums: list[Floats] = []

    def add(self, a: Array, b: Array, labels: Array | None) -> None:
        """Scores of both models for the same samples, (samples, [positions,] classes)."""
        log_a, log_b = self._logs(a), self._logs(b)
        kl = np.maximum((np.exp(log_a) * (log_a - log_b)).sum(-1), 0)
        agree = (a.argmax(-1) == b.argmax(-1)).astype(np.float64)
        sums = np.zeros((len(a), 6))
        sums[:, 0] = kl.reshape(len(a), -1).sum(1)
        sums[:, 1] = agree.reshape(len(a), -1).sum(1)
        sums[:, 2] = kl.size // len(a)
        if labels is not None and labels.dtype.kind in "iu" and a.ndim == 2 and labels.ndim in (1, 2):
            sums[:, 3:] = self._score(a, b, np.asarray(labels, np.int64).reshape(len(labels), -1))
        self._sums.append(sums)

    def result(self, seed: int = 0) -> Classification:
        """The means so far."""
        sums = np.concatenate(self._sums)
        kl, agree, rows, right_a, right_b, labeled = (float(value) for value in sums.sum(0))
        found = intervals(sums, {"kl": _mean(0), "agreement": _mean(1)}, seed)
        agreement = share_interval(found["agreement"], agree / rows, len(sums), kin(sums[:, 1] / sums[:, 2]))
        return Classification(
            output=self.output,
            rows=self._rows,
            classes=self._classes,
            per_position=self._per_position,
            kl=kl / rows,
            top1_agreement=agree / rows,
            accuracy_a=right_a / labeled if labeled else None,
            accuracy_b=right_b / labeled if labeled else None,
            kl_interval=at_least_zero(found["kl"]),
            top1_agreement_interval=agreement,
            accuracy_change_interval=intervals(sums, {"change": _change}, seed)["change"]
            if labeled
            else None,
        )

    def _logs(self, scores: Array) -> Floats:
        rows = np.asarray(scores, np.float64)
        if self._rows == "probabilities":
            return np.log(np.maximum(rows, SMALLEST))
        return log_softmax(rows)

    def _score(self, a: Array, b: Array, labels: npt.NDArray[np.int64]) -> Floats:
        """Whether A is right, whether B is, and whether a label is known, sample by sample. ``labels`` is
        (samples, k): any of a row's labels counts as right; -1 is padding."""
        if int(labels.max(initial=-1)) >= self._classes:
            worst = int(labels.max())
            what = f"labels: {worst} is no class of output '{self.output}' ({self._classes} classes)"
            raise DataError(f"{what}; number them from 0")
        known = (labels >= 0).any(1)
        right = [(labels == scores.argmax(-1)[:, None]).any(1) & known for scores in (a, b)]
        return np.stack([*right, known], 1).astype(np.float64)


def _mean(column: int) -> Figure:
    """A sum over rows, divided by their number."""
    return lambda sums: sums[..., column] / sums[..., 2]


def _change(sums: Floats) -> Floats:
    """B's accuracy less A's; a sample of which no label is drawn says nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums[..., 4] - sums[..., 3]) / sums[..., 5]
