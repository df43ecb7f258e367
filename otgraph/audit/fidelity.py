"""How far B's outputs are from A's, over all data, streamed batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otgraph.audit.classify import Classification, ClassTally, Task, class_scores
from otgraph.audit.metric import Metric, MetricResult, evaluate
from otgraph.data import Array, Data
from otgraph.engines.engine import Session
from otgraph.engines.feeds import Batch, batches
from otgraph.errors import ModelError


@dataclass(frozen=True)
class OutputFidelity:
    """One output of B against A's: relative L2 is ‖b − a‖ / ‖a‖ over all samples together.

    Elements where either is NaN or infinite are left out of the figures and counted in ``non_finite``.
    ``equal`` is the share of equal elements. Integer outputs have only that. ``cosine`` is ``None`` when
    either side is all zero, ``relative_l2`` is infinite when only A is.
    """

    name: str
    relative_l2: float | None
    cosine: float | None
    max_abs: float | None
    equal: float
    non_finite: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Fidelity:
    """All outputs; ``classification`` when the model has one output and it reads as class scores.

    ``task_asked`` is what the user said about that.
    """

    samples: int
    outputs: tuple[OutputFidelity, ...]
    classification: Classification | None
    metric: MetricResult | None
    task_asked: Task = "auto"

    @property
    def task(self) -> Task:
        """How the outputs were read: ``classifier`` or ``regression``."""
        return "regression" if self.classification is None else "classifier"

    @property
    def drift_name(self) -> str:
        """Which figure ``--max-drift`` limits: KL for classifiers, else the worst output's relative L2."""
        return "relative L2" if self.classification is None else "KL divergence"

    @property
    def drift(self) -> float:
        """That figure; infinite when an output has NaN or infinite values."""
        if any(output.non_finite for output in self.outputs):
            return float("inf")
        if self.classification is not None:
            return self.classification.kl
        return max((_drift(output) for output in self.outputs), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name, ``drift`` included."""
        return {
            "samples": self.samples,
            "task": self.task,
            "task_asked": self.task_asked,
            "drift": self.drift,
            "drift_name": self.drift_name,
            "outputs": [output.to_json() for output in self.outputs],
            "classification": None if self.classification is None else self.classification.to_json(),
            "metric": None if self.metric is None else self.metric.to_json(),
        }


def _drift(output: OutputFidelity) -> float:
    return 1 - output.equal if output.relative_l2 is None else output.relative_l2


def fidelity(
    a: Session, b: Session, data: Data, metric: Metric | None, metric_name: str, task: Task = "auto"
) -> Fidelity:
    """Run both on all of ``data``, checked before.

    Raises ``ModelError`` when the outputs do not match, ``UsageError`` when they do not suit ``task``.
    """
    names = paired_outputs(a, b)
    tallies = {name: _Tally() for name in names}
    classes: ClassTally | None = None
    scores = _MetricTally(metric, metric_name)
    samples = 0
    for batch in batches(data, (*a.inputs, *b.inputs)):
        out_a, out_b = _run(a, batch), _run(b, batch)
        out_b = {name: out_b[other] for name, other in names.items()}
        _check_shapes(out_a, out_b)
        for name, tally in tallies.items():
            tally.add(out_a[name], out_b[name])
        if samples == 0:
            classes = _class_tally(out_a, task)
        if classes is not None:
            classes.add(out_a[classes.output], out_b[classes.output], batch.labels)
        scores.add(batch, out_a, out_b)
        samples += batch.count
    return Fidelity(
        samples=samples,
        outputs=tuple(tally.result(name) for name, tally in tallies.items()),
        classification=None if classes is None else classes.result(),
        metric=scores.result(),
        task_asked=task,
    )


def paired_outputs(a: Session, b: Session) -> dict[str, str]:
    """A's output names → B's: by name, or by position when the names differ (exporters rename)."""
    names_a, names_b = [spec.name for spec in a.outputs], [spec.name for spec in b.outputs]
    if len(names_a) != len(names_b):
        what = f"outputs: A has {', '.join(names_a)} and B has {', '.join(names_b)}"
        raise ModelError(f"{what}; compare models of the same outputs")
    if set(names_a) == set(names_b):
        return {name: name for name in names_a}
    return dict(zip(names_a, names_b, strict=True))


def _run(session: Session, batch: Batch) -> dict[str, Array]:
    return {name: batch.real(array) for name, array in session.run(batch.feeds).items()}


def _check_shapes(a: Mapping[str, Array], b: Mapping[str, Array]) -> None:
    for name in a:
        if a[name].shape != b[name].shape:
            what = f"output '{name}': A gives shape {a[name].shape} and B {b[name].shape}"
            raise ModelError(f"{what}; compare models of the same outputs")


def _class_tally(outputs: Mapping[str, Array], task: Task) -> ClassTally | None:
    found = class_scores(outputs, task)
    if found is None:
        return None
    name, rows = found
    return ClassTally(name, rows, outputs[name].shape[-1], per_position=outputs[name].ndim == 3)


class _Tally:
    """Sums of squares and products of one output, in float64."""

    def __init__(self) -> None:
        self._aa = self._bb = self._ab = self._dd = self._max = 0.0
        self._equal = self._elements = self._non_finite = 0
        self._float = False

    def add(self, a: Array, b: Array) -> None:
        self._equal += int((a == b).sum())
        self._elements += a.size
        if a.dtype.kind != "f" or b.dtype.kind != "f":
            return
        self._float = True
        x: npt.NDArray[np.float64] = np.asarray(a, np.float64).ravel()
        y: npt.NDArray[np.float64] = np.asarray(b, np.float64).ravel()
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            self._non_finite += int((~finite).sum())
            x, y = x[finite], y[finite]
        gap = y - x
        self._aa += float(x @ x)
        self._bb += float(y @ y)
        self._ab += float(x @ y)
        self._dd += float(gap @ gap)
        self._max = max(self._max, float(np.abs(gap).max(initial=0)))

    def result(self, name: str) -> OutputFidelity:
        equal = self._equal / max(self._elements, 1)
        if not self._float:
            return OutputFidelity(name, None, None, None, equal, 0)
        relative = np.sqrt(self._dd / self._aa) if self._aa > 0 else (0.0 if self._dd == 0 else np.inf)
        scale = np.sqrt(self._aa) * np.sqrt(self._bb)
        cosine = float(np.clip(self._ab / scale, -1, 1)) if scale > 0 else None
        return OutputFidelity(name, float(relative), cosine, self._max, equal, self._non_finite)


class _MetricTally:
    """Keeps all outputs of a chunk, since a metric sees whole chunks; averages over chunks by their size."""

    def __init__(self, metric: Metric | None, name: str) -> None:
        self._metric, self._name = metric, name
        self._kept: dict[int, list[tuple[Batch, Mapping[str, Array], Mapping[str, Array]]]] = {}

    def add(self, batch: Batch, a: Mapping[str, Array], b: Mapping[str, Array]) -> None:
        if self._metric is not None:
            self._kept.setdefault(batch.chunk, []).append((batch, a, b))

    def result(self) -> MetricResult | None:
        if self._metric is None:
            return None
        total, weight = np.zeros(2), 0
        for kept in self._kept.values():
            known = [batch.labels for batch, _, _ in kept if batch.labels is not None]
            labels = np.concatenate(known) if len(known) == len(kept) else None
            count = sum(batch.count for batch, _, _ in kept)
            sides = [a for _, a, _ in kept], [b for _, _, b in kept]
            for index, side in enumerate(sides):
                outputs = {name: np.concatenate([item[name] for item in side]) for name in side[0]}
                total[index] += count * evaluate(self._metric, self._name, outputs, labels)
            weight += count
        return MetricResult(self._name, float(total[0] / weight), float(total[1] / weight))
