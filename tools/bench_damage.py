"""How far a network is from the original on unseen inputs, input by input, with an interval over photographs.

Plain ONNX Runtime on both files. The figures are those of ``otgraph audit`` (KL, agreement, accuracy,
relative L2); what it has not is the interval: crops of one photograph resemble each other, so it is
photographs that are drawn again, a thousand times, not rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from row_groups import groups_of

from otgraph.audit.classify import SMALLEST
from otgraph.audit.metric import Metric, load_metric
from otgraph.data_sources import load_data
from otgraph.task import Rows, may_be_scores, read_outputs

Floats = npt.NDArray[np.float64]
Outputs = Mapping[str, npt.NDArray[Any]]

BATCH = 16
DRAWS = 1000
FIGURES = ("KL", "agreement", "relative L2", "accuracy", "metric")


@dataclass(frozen=True)
class Sums:
    """Per input (first axis) what the figures are quotients of; ``figures`` of any rows, repeated or not.

    ``terms``: figure → numerator and denominator, each (inputs,); of the relative L2 the squares, one pair
    for each output, under ``relative L2/NAME``.
    """

    terms: Mapping[str, tuple[Floats, Floats]]

    def figures(self, weights: Floats) -> dict[str, float]:
        """With each input counted so often; of several outputs the worst counts."""
        found: dict[str, float] = {}
        for name, (above, below) in self.terms.items():
            total = weights @ below
            value = float(weights @ above / total) if total > 0 else float("nan")
            figure, squared, _ = name.partition("/")
            value = float(np.sqrt(value)) if squared else value
            found[figure] = max(value, found.get(figure, value))
        return found


def damage(
    original: Path, result: Path, data: Path, metric: str | None = None, seed: int = 0
) -> dict[str, Any]:
    """The figures of ``result`` on all of ``data``, each with ``NAME low`` and ``NAME high`` (95 %), the
    original's ``accuracy`` and ``metric``, and the number of ``groups``."""
    ours = sums(original, result, data, None if metric is None else load_metric(metric))
    count = len(next(iter(ours["b"].terms.values()))[0])
    groups = groups_of(data, count)
    row: dict[str, Any] = {"inputs": count, "groups": len(np.unique(groups))}
    for name, (value, low, high) in intervals(ours["b"], groups, seed).items():
        row |= {name: value, f"{name} low": low, f"{name} high": high}
    before = ours["a"].figures(np.ones(count))
    return row | {f"{name} before": before[name] for name in before}


def intervals(found: Sums, groups: npt.NDArray[np.int64], seed: int) -> dict[str, tuple[float, float, float]]:
    """Each figure, and the 2.5 and 97.5 % points of it over ``DRAWS`` draws of the groups."""
    names, member = np.unique(groups, return_inverse=True)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    draws = [found.figures(counts[member].astype(np.float64)) for counts in drawn]
    whole = found.figures(np.ones(len(member)))
    limits = {name: np.nanquantile([draw[name] for draw in draws], (0.025, 0.975)) for name in whole}
    return {name: (value, float(limits[name][0]), float(limits[name][1])) for name, value in whole.items()}


def sums(original: Path, result: Path, data: Path, metric: Metric | None) -> dict[str, Sums]:
    """Of the original (``a``: accuracy and metric only) and of ``result`` (``b``)."""
    parts: dict[str, list[dict[str, tuple[Floats, Floats]]]] = {"a": [], "b": []}
    rows: Rows | None = None
    scores = ""
    for a, b, labels in _outputs(original, result, data):
        if not parts["a"]:
            found = read_outputs([a], "classifier" if may_be_scores(a) else "auto")  # all of ours classify
            scores, rows = found.output or "", found.rows
        parts["b"].append(_distances(a, b) | ({} if rows is None else _classes(a[scores], b[scores], rows)))
        parts["a"].append({})
        for side, outputs in (("a", a), ("b", b)):
            known = {} if rows is None or labels is None else _accuracy(outputs[scores], labels)
            parts[side][-1].update(known | _metric(metric, outputs, labels))
    return {side: Sums(_joined(terms)) for side, terms in parts.items()}


def _outputs(
    original: Path, result: Path, data: Path
) -> Iterator[tuple[Outputs, Outputs, npt.NDArray[Any] | None]]:
    """The outputs of both, batch by batch, under the original's names, and the labels."""
    sessions = [_session(path) for path in (original, result)]
    names, theirs = ([output.name for output in session.get_outputs()] for session in sessions)
    asked = (names, names if set(names) == set(theirs) else theirs)  # else by position, as the audit does
    inputs = [node.name for node in sessions[0].get_inputs()]
    for batch in load_data(str(data)).named(inputs).batches(BATCH):
        feeds = {name: batch.arrays[name] for name in inputs}
        a, b = (
            dict(zip(names, map(np.asarray, session.run(order, feeds)), strict=True))
            for session, order in zip(sessions, asked, strict=True)
        )
        yield a, b, batch.labels


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _distances(a: Outputs, b: Outputs) -> dict[str, tuple[Floats, Floats]]:
    return {
        f"relative L2/{name}": (_energy(b[name].astype(np.float64) - a[name]), _energy(a[name]))
        for name in a
        if a[name].dtype.kind == "f"
    }


def _energy(array: npt.NDArray[Any]) -> Floats:
    rows = np.asarray(array, np.float64).reshape(len(array), -1)
    return np.einsum("ij,ij->i", rows, rows)


def _classes(a: npt.NDArray[Any], b: npt.NDArray[Any], rows: Rows) -> dict[str, tuple[Floats, Floats]]:
    """Divergence and agreement, summed over the positions of a sequence."""
    log_a, log_b = _logs(a, rows), _logs(b, rows)
    gap = np.maximum((np.exp(log_a) * (log_a - log_b)).sum(-1), 0).reshape(len(a), -1)
    same = (a.argmax(-1) == b.argmax(-1)).reshape(len(a), -1)
    positions = np.full(len(a), gap.shape[1], np.float64)
    return {"KL": (gap.sum(1), positions), "agreement": (same.sum(1).astype(np.float64), positions)}


def _logs(scores: npt.NDArray[Any], rows: Rows) -> Floats:
    values = np.asarray(scores, np.float64)
    if rows == "probabilities":
        return np.log(np.maximum(values, SMALLEST))
    shifted = values - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _accuracy(scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, tuple[Floats, Floats]]:
    """Any of a row's labels counts, -1 is padding; nothing where the labels are no classes of rows."""
    if scores.ndim != 2 or labels.dtype.kind not in "iu":
        return {}
    rows = labels.reshape(len(labels), -1)
    known = (rows >= 0).any(1)
    right = known & (rows == scores.argmax(1)[:, None]).any(1)
    return {"accuracy": (np.asarray(right, np.float64), np.asarray(known, np.float64))}


def _metric(
    metric: Metric | None, outputs: Outputs, labels: npt.NDArray[Any] | None
) -> dict[str, tuple[Floats, Floats]]:
    """Input by input, as a metric must be a mean over them for an interval to mean anything."""
    if metric is None:
        return {}
    count = len(next(iter(outputs.values())))
    values = [
        metric(
            {name: array[row : row + 1] for name, array in outputs.items()},
            None if labels is None else labels[row : row + 1],
        )
        for row in range(count)
    ]
    return {"metric": (np.asarray(values, np.float64), np.ones(count))}


def _joined(parts: list[dict[str, tuple[Floats, Floats]]]) -> dict[str, tuple[Floats, Floats]]:
    """One pair per figure over all batches."""
    pairs = {name: [part[name] for part in parts] for name in parts[0]}
    return {
        name: (np.concatenate([above for above, _ in both]), np.concatenate([below for _, below in both]))
        for name, both in pairs.items()
    }
