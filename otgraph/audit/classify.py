"""Outputs that are class scores: divergence, agreement and accuracy of one network against another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from otgraph.data import Array
from otgraph.errors import DataError, UsageError

Floats = npt.NDArray[np.float64]
Rows = Literal["probabilities", "log-probabilities", "logits"]
Task = Literal["auto", "classifier", "regression"]
"""How outputs are to be read: by their look, as class scores, or as values."""

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


def check_task(task: str) -> Task:
    """``task`` as one of the three. Raises ``UsageError``."""
    if task not in get_args(Task):
        raise UsageError(f"task {task!r}: unknown; give {', '.join(get_args(Task))}")
    return cast(Task, task)


def class_scores(outputs: Mapping[str, Array], task: Task) -> tuple[str, Rows] | None:
    """The output that holds class scores, and how it reads; ``None`` where there is none.

    Raises ``UsageError`` when ``task`` says that there is one and the outputs have no such shape.
    """
    if task == "regression":
        return None
    scores = [(name, array) for name, array in outputs.items() if array.dtype.kind == "f"]
    if len(scores) == 1:
        name, array = scores[0]
        rows = rows_kind(array)
        if rows is None and task == "classifier" and _could_be_scores(array):
            rows = "logits"
        if rows is not None:
            return name, rows
    if task == "classifier":
        shapes = ", ".join(f"{name} {array.shape}" for name, array in scores) or "none of floating point"
        raise UsageError(
            "task classifier: needs one floating-point output (samples, [positions,] classes ≥ 2),"
            f" the model gives {shapes}; use --task regression"
        )
    return None


def rows_kind(output: Array) -> Rows | None:
    """How an output reads as class scores, or ``None`` when it does not look like them.

    (samples, classes ≥ 2): always, as logits unless each row is a distribution. (samples, positions,
    classes ≥ 2): only when each row is a distribution, or the logarithm of one, since a feature map has
    that shape as well.
    """
    if not _could_be_scores(output):
        return None
    rows = np.asarray(output, np.float64)
    if (rows >= 0).all() and np.allclose(rows.sum(-1), 1, atol=2e-3):
        return "probabilities"
    if (rows <= 1e-6).all() and np.allclose(np.exp(rows).sum(-1), 1, atol=2e-3):
        return "log-probabilities"
    return "logits" if output.ndim == 2 else None


def _could_be_scores(output: Array) -> bool:
    return output.dtype.kind == "f" and output.ndim in (2, 3) and output.shape[-1] >= 2 and output.size > 0


class ClassTally:
    """Adds up batches; ``result`` gives the means."""

    def __init__(self, output: str, rows: Rows, classes: int, *, per_position: bool) -> None:
        self.output, self._classes, self._per_position = output, classes, per_position
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
            output=self.output,
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
        return _log_softmax(rows)

    def _score(self, a: Array, b: Array, labels: npt.NDArray[np.int64]) -> None:
        """``labels`` is (samples, k): any of a row's labels counts as right; -1 is padding."""
        if int(labels.max(initial=-1)) >= self._classes:
            worst = int(labels.max())
            what = f"labels: {worst} is no class of output '{self.output}' ({self._classes} classes)"
            raise DataError(f"{what}; number them from 0")
        known = (labels >= 0).any(1)
        for index, scores in enumerate((a, b)):
            self._right[index] += int(((labels == scores.argmax(-1)[:, None]).any(1) & known).sum())
        self._labelled += int(known.sum())


def _log_softmax(rows: Floats) -> Floats:
    """Over the last axis. SciPy has it, but an audit must install on a device, and SciPy is 110 MB."""
    shifted = rows - rows.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
