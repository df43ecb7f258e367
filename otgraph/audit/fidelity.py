"""How far B's outputs are from A's, over all data, streamed batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from otgraph.audit.classify import Classification, ClassTally
from otgraph.audit.intervals import Floats, Interval, at_least_zero, intervals, kin, share_interval
from otgraph.audit.metric import Metric, MetricResult, evaluate
from otgraph.data import Array, Data
from otgraph.data_check import TensorSpec
from otgraph.engines.feeds import FeedBatch, batches
from otgraph.errors import ModelError
from otgraph.task import LOOKED_AT, OutputReading, Task, may_be_scores, read_outputs

Source = Literal["data", "fitted", "held-out", "cross-fitted"]
"""What samples are to B: data that were given to compare on, those it was fitted on, or calibration inputs
that were kept apart: from B itself, or in turn from refits of it."""


class Network(Protocol):
    """What can be run: a session of an engine, or anything that does as one does."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]: ...


@dataclass(frozen=True)
class OutputFidelity:
    """One output of B against A's: relative L2 is ‖b − a‖ / ‖a‖ over all samples together.

    Elements where either is NaN or infinite are left out of the figures and counted in ``non_finite``.
    ``equal`` is the share of equal elements. Integer outputs have only that. ``cosine`` is ``None`` when
    either side is all zero, ``relative_l2`` is infinite when only A is. Intervals are of 95 %, over samples.
    """

    name: str
    relative_l2: float | None
    cosine: float | None
    max_abs: float | None
    equal: float
    non_finite: int
    relative_l2_interval: Interval | None = None
    cosine_interval: Interval | None = None
    equal_interval: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Fidelity:
    """All outputs; ``classification`` where one of them reads as class scores, and the ``reading`` that says
    so. ``source``: what the samples are to B, as far as that is known."""

    samples: int
    outputs: tuple[OutputFidelity, ...]
    classification: Classification | None
    metric: MetricResult | None
    reading: OutputReading | None = None
    source: Source = "data"

    @property
    def task(self) -> Task:
        """How the outputs were read: ``classifier`` or ``regression``."""
        return "regression" if self.classification is None else "classifier"

    @property
    def task_asked(self) -> Task:
        """What the user said about that."""
        return "auto" if self.reading is None else self.reading.asked

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

    @property
    def drift_interval(self) -> Interval | None:
        """Its 95 % interval over samples; None where there are too few, or it is not finite."""
        if any(output.non_finite for output in self.outputs):
            return None
        if self.classification is not None:
            return self.classification.kl_interval
        worst = max(self.outputs, key=_drift, default=None)
        if worst is None or worst.relative_l2 is not None or worst.equal_interval is None:
            return None if worst is None else worst.relative_l2_interval
        low, high = worst.equal_interval
        return 1 - high, 1 - low

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name, ``drift`` included."""
        return {
            "samples": self.samples,
            "source": self.source,
            "task": self.task,
            "task_asked": self.task_asked,
            "task_why": "" if self.reading is None else self.reading.why,
            "drift": self.drift,
            "drift_interval": self.drift_interval,
            "drift_name": self.drift_name,
            "outputs": [output.to_json() for output in self.outputs],
            "classification": None if self.classification is None else self.classification.to_json(),
            "metric": None if self.metric is None else self.metric.to_json(),
        }


def _drift(output: OutputFidelity) -> float:
    return 1 - output.equal if output.relative_l2 is None else output.relative_l2


def look(
    session: Network, data: Data, task: Task = "auto", specs: Sequence[TensorSpec] | None = None
) -> OutputReading:
    """Run ``session`` on some inputs drawn from all of ``data``, and read what comes out.

    ``specs``: inputs that decide on the size of a batch, where not the session's alone do.

    Raises ``UsageError`` when that does not suit ``task``.
    """
    if task == "regression":
        return read_outputs((), task)
    inputs: list[Mapping[str, Array]] = []
    outputs: list[Mapping[str, Array]] = []
    for batch in batches(data.take(LOOKED_AT, seed=0), specs or session.inputs):
        inputs.append({name: array[: batch.count] for name, array in batch.feeds.items()})
        outputs.append(_run(session, batch))
        if not may_be_scores(outputs[0]):
            break
    return read_outputs(outputs, task, inputs)


def fidelity(
    a: Network,
    b: Network,
    data: Data,
    metric: Metric | None,
    metric_name: str,
    reading: OutputReading | None = None,
    seed: int = 0,
) -> Fidelity:
    """Run both on all of ``data``, checked before. A's outputs are read as ``reading`` says, or by their
    look. ``seed``: of the intervals.

    Raises ``ModelError`` when the outputs do not match.
    """
    return pooled([(a, b, data)], metric, metric_name, reading, seed)


def pooled(
    parts: Sequence[tuple[Network, Network, Data]],
    metric: Metric | None,
    metric_name: str,
    reading: OutputReading | None = None,
    seed: int = 0,
) -> Fidelity:
    """As ``fidelity``, over several pairs of networks, each on its own part of the data, in their order."""
    first, other, data = parts[0]
    specs = (*first.inputs, *other.inputs)
    if reading is None:
        reading = look(first, data, specs=specs)
    elif reading.output not in (None, *(spec.name for spec in first.outputs)):  # the exporter renamed it
        reading = look(first, data, reading.task, specs)
    tallies = {name: _Tally() for name in paired_outputs(first, other)}
    classes: ClassTally | None = None
    scores = _MetricTally(metric, metric_name)
    samples = 0
    for part, (a, b, data) in enumerate(parts):
        names = paired_outputs(a, b)
        for batch in batches(data, (*a.inputs, *b.inputs)):
            out_a, out_b = _run(a, batch), _run(b, batch)
            out_b = {name: out_b[other] for name, other in names.items()}
            _check_shapes(out_a, out_b)
            for name, tally in tallies.items():
                tally.add(out_a[name], out_b[name], batch.count)
            if samples == 0:
                classes = _class_tally(out_a, reading)
            if classes is not None:
                classes.add(out_a[classes.output], out_b[classes.output], batch.labels)
            scores.add(part, batch, out_a, out_b)
            samples += batch.count
    return Fidelity(
        samples=samples,
        outputs=tuple(tally.result(name, seed) for name, tally in tallies.items()),
        classification=None if classes is None else classes.result(seed),
        metric=scores.result(),
        reading=reading,
    )


def paired_outputs(a: Network, b: Network) -> dict[str, str]:
    """A's output names → B's: by name, or by position when the names differ (exporters rename)."""
    names_a, names_b = [spec.name for spec in a.outputs], [spec.name for spec in b.outputs]
    if len(names_a) != len(names_b):
        what = f"outputs: A has {', '.join(names_a)} and B has {', '.join(names_b)}"
        raise ModelError(f"{what}; compare models of the same outputs")
    if set(names_a) == set(names_b):
        return {name: name for name in names_a}
    return dict(zip(names_a, names_b, strict=True))


def _run(session: Network, batch: FeedBatch) -> dict[str, Array]:
    return {name: batch.real(array) for name, array in session.run(batch.feeds).items()}


def _check_shapes(a: Mapping[str, Array], b: Mapping[str, Array]) -> None:
    for name in a:
        if a[name].shape != b[name].shape:
            what = f"output '{name}': A gives shape {a[name].shape} and B {b[name].shape}"
            raise ModelError(f"{what}; compare models of the same outputs")


def _class_tally(outputs: Mapping[str, Array], reading: OutputReading) -> ClassTally | None:
    name, rows = reading.output, reading.rows
    if name is None or rows is None:
        return None
    return ClassTally(name, rows, outputs[name].shape[-1], per_position=outputs[name].ndim == 3)


class _Tally:
    """Sums of squares and products of one output, in float64: a row per sample, or per batch where samples do
    not lie along its first axis."""

    def __init__(self) -> None:
        self._sums: list[Floats] = []
        self._max = 0.0
        self._equal: list[Floats] = []
        self._non_finite = 0
        self._float = False

    def add(self, a: Array, b: Array, samples: int) -> None:
        rows = samples if a.shape[:1] == (samples,) else 1
        same = np.asarray(a == b, np.float64).reshape(rows, -1)
        self._equal.append(np.stack([same.sum(1), np.full(rows, same.shape[1], np.float64)], 1))
        if a.dtype.kind != "f" or b.dtype.kind != "f":
            return
        self._float = True
        x: Floats = np.asarray(a, np.float64).reshape(rows, -1)
        y: Floats = np.asarray(b, np.float64).reshape(rows, -1)
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            self._non_finite += int((~finite).sum())
            x, y = np.where(finite, x, 0), np.where(finite, y, 0)
        gap = y - x
        self._sums.append(np.stack([(u * v).sum(1) for u, v in ((x, x), (y, y), (x, y), (gap, gap))], 1))
        self._max = max(self._max, float(np.abs(gap).max(initial=0)))

    def result(self, name: str, seed: int) -> OutputFidelity:
        counts = np.concatenate(self._equal)
        equal = float(counts[:, 0].sum() / max(counts[:, 1].sum(), 1))
        if not self._float:
            found = intervals(counts, {"equal": _share}, seed)["equal"]
            between = share_interval(found, equal, len(counts), kin(counts[:, 0]))
            return OutputFidelity(name, None, None, None, equal, 0, equal_interval=between)
        sums = np.concatenate(self._sums)
        relative, cosine = float(_relative(sums.sum(0))), float(_cosine(sums.sum(0)))
        found = intervals(sums, {"relative": _relative, "cosine": _cosine}, seed)
        return OutputFidelity(
            name=name,
            relative_l2=relative,
            cosine=cosine if np.isfinite(cosine) else None,
            max_abs=self._max,
            equal=equal,
            non_finite=self._non_finite,
            relative_l2_interval=at_least_zero(found["relative"]),
            cosine_interval=_within_one(found["cosine"]),
        )


def _share(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def _relative(sums: Floats) -> Floats:
    """‖b − a‖ / ‖a‖ of sums (aa, bb, ab, dd); infinite where only A is zero, zero where both are."""
    aa, dd = sums[..., 0], sums[..., 3]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(aa > 0, np.sqrt(dd / aa), np.where(dd == 0, 0.0, np.inf))


def _cosine(sums: Floats) -> Floats:
    """a · b / ‖a‖ ‖b‖ of the same sums; NaN where either is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(sums[..., 2] / (np.sqrt(sums[..., 0]) * np.sqrt(sums[..., 1])), -1, 1)


def _within_one(found: Interval | None) -> Interval | None:
    return None if found is None else (max(found[0], -1.0), min(found[1], 1.0))


class _MetricTally:
    """Keeps all outputs of a chunk, since a metric sees whole chunks; averages over chunks by their size."""

    def __init__(self, metric: Metric | None, name: str) -> None:
        self._metric, self._name = metric, name
        self._kept: dict[
            tuple[int, int], list[tuple[FeedBatch, Mapping[str, Array], Mapping[str, Array]]]
        ] = {}

    def add(self, part: int, batch: FeedBatch, a: Mapping[str, Array], b: Mapping[str, Array]) -> None:
        if self._metric is not None:
            self._kept.setdefault((part, batch.chunk), []).append((batch, a, b))

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
