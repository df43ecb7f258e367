"""Fidelity figures against direct computation, on sessions that return given arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from otgraph.audit.fidelity import Fidelity, fidelity, look
from otgraph.data import Array, Chunk, Data
from otgraph.data_check import Shape, TensorSpec
from otgraph.engines.engine import NodeTime, Session
from otgraph.errors import DataError, ModelError, UsageError

DRAW = np.random.default_rng(0)
FLOAT = np.dtype(np.float32)


class Lookup(Session):
    """Input ``x`` holds sample numbers; each output is the row of a table at that number."""

    def __init__(self, batch: int | str = "n", **tables: Array) -> None:
        self.tables = tables
        shape: Shape = (batch,)
        self.inputs = (TensorSpec("x", np.dtype(np.int64), shape),)
        self.outputs = tuple(TensorSpec(name, table.dtype, ()) for name, table in tables.items())
        self.batch = batch

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        index = np.asarray(feeds["x"], np.int64)
        assert len(index) == (1 if isinstance(self.batch, str) else self.batch)
        return {name: table[index] for name, table in self.tables.items()}

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        return []


def numbers(count: int, labels: Array | None = None) -> Data:
    return Data((Chunk({"x": np.arange(count)}, labels),), "test")


def compare(a: Array, b: Array, labels: Array | None = None, batch: int | str = "n") -> Fidelity:
    return fidelity(Lookup(batch, y=a), Lookup(batch, y=b), numbers(len(a), labels), None, "")


def test_figures_are_those_of_all_samples_together() -> None:
    a = DRAW.normal(size=(20, 3, 4, 4)).astype(np.float32)
    b = a + 0.1 * DRAW.normal(size=a.shape).astype(np.float32)
    (found,) = compare(a, b).outputs
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    assert found.relative_l2 == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x))
    assert found.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert found.max_abs == pytest.approx(np.abs(y - x).max())
    assert compare(a, b).drift == found.relative_l2
    assert compare(a, b).drift_name == "relative L2"


def test_equal_outputs_have_no_drift_and_a_perturbed_one_has() -> None:
    a = DRAW.normal(size=(5, 3, 2, 2)).astype(np.float32)
    assert compare(a, a).drift == 0
    b = a.copy()
    b[3, 0, 0, 0] += 1e-3
    assert compare(a, b).drift > 1e-5


@pytest.mark.parametrize("batch", [3, 4, 7, 10])
def test_a_fixed_batch_counts_each_sample_once(batch: int) -> None:
    a = DRAW.normal(size=(10, 3, 2, 2)).astype(np.float32)
    b = a + DRAW.normal(size=a.shape).astype(np.float32)
    whole, fixed = compare(a, b), compare(a, b, batch=batch)
    assert fixed.samples == 10
    assert fixed.drift == pytest.approx(whole.drift, rel=1e-12)


def test_a_dynamic_batch_follows_the_other_models_fixed_one() -> None:
    a = DRAW.normal(size=(10, 3, 2, 2)).astype(np.float32)

    class Any4(Lookup):
        def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
            assert len(feeds["x"]) == 4
            return {"y": a[np.asarray(feeds["x"], np.int64)]}

    found = fidelity(Any4(y=a), Lookup(4, y=a), numbers(10), None, "")
    assert (found.samples, found.drift) == (10, 0)


@pytest.mark.parametrize("rows", ["logits", "probabilities", "log-probabilities"])
def test_kl_and_agreement_however_the_scores_are_given(rows: str) -> None:
    logits_a, logits_b = DRAW.normal(size=(2, 30, 5)) * 3
    give = {
        "logits": lambda z: z,
        "probabilities": lambda z: softmax(z, -1),
        "log-probabilities": lambda z: log_softmax(z, -1),
    }
    found = compare(give[rows](logits_a).astype(np.float32), give[rows](logits_b).astype(np.float32))
    assert found.classification is not None
    p, log_p, log_q = softmax(logits_a, -1), log_softmax(logits_a, -1), log_softmax(logits_b, -1)
    assert found.classification.rows == rows
    assert found.classification.kl == pytest.approx((p * (log_p - log_q)).sum(-1).mean(), rel=1e-4)
    assert found.classification.top1_agreement == pytest.approx(
        (logits_a.argmax(-1) == logits_b.argmax(-1)).mean()
    )
    assert found.drift == found.classification.kl
    assert found.drift_name == "KL divergence"


def test_kl_is_of_b_from_a_and_not_the_other_way_round() -> None:
    a, b = np.array([[0.9, 0.1]], np.float32), np.array([[0.5, 0.5]], np.float32)
    found = compare(a, b).classification
    assert found is not None
    assert found.kl == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2), rel=1e-5)
    assert found.kl != pytest.approx(0.5 * np.log(1 / 1.8) + 0.5 * np.log(5), rel=1e-2)


def test_sequences_of_distributions_are_compared_per_position() -> None:
    a = softmax(DRAW.normal(size=(4, 6, 9)), -1).astype(np.float32)
    b = a.copy()
    b[1, 2] = np.roll(b[1, 2], 1)
    found = compare(a, b).classification
    assert found is not None
    assert found.per_position
    assert found.top1_agreement == pytest.approx(23 / 24)


def test_feature_maps_and_single_columns_are_no_classifiers() -> None:
    for outputs in (DRAW.normal(size=(4, 6, 9)), np.ones((4, 1)), np.ones((4, 3), np.int64)):
        rows = outputs if outputs.dtype.kind == "i" else outputs.astype(np.float32)
        assert compare(rows, rows).classification is None


def test_two_float_outputs_are_no_classifier() -> None:
    a = DRAW.normal(size=(4, 3)).astype(np.float32)
    found = fidelity(Lookup(y=a, z=a), Lookup(y=a, z=a + 1), numbers(4), None, "")
    assert found.classification is None
    assert found.drift == found.outputs[1].relative_l2
    assert found.drift > 0


def test_accuracy_of_both_with_labels() -> None:
    a = np.eye(4, dtype=np.float32)
    b = np.eye(4, dtype=np.float32)[[0, 1, 3, 2]]
    found = compare(a, b, np.array([0, 1, 2, 0])).classification
    assert found is not None
    assert (found.accuracy_a, found.accuracy_b) == (0.75, 0.5)


def test_any_of_several_labels_counts_and_padding_does_not() -> None:
    a = np.eye(4, dtype=np.float32)
    labels = np.array([[0, -1], [3, 1], [0, 1], [-1, -1]])
    found = compare(a, np.roll(a, 1, 1), labels).classification
    assert found is not None
    assert found.accuracy_a == pytest.approx(2 / 3)
    assert found.accuracy_b == pytest.approx(0)


def test_float_labels_give_no_accuracy() -> None:
    a = np.eye(4, dtype=np.float32)
    found = compare(a, a, np.zeros(4)).classification
    assert found is not None
    assert found.accuracy_a is None


def test_a_label_that_is_no_class_is_a_data_error() -> None:
    a = np.eye(4, dtype=np.float32)
    with pytest.raises(DataError, match=r"labels: 7 is no class of output 'y' \(4 classes\)"):
        compare(a, a, np.array([0, 1, 2, 7]))


def test_non_finite_outputs_are_infinite_drift() -> None:
    a = DRAW.normal(size=(5, 3, 2, 2)).astype(np.float32)
    b = a.copy()
    b[2, 0, 0, 0] = np.nan
    found = compare(a, b)
    assert found.outputs[0].non_finite == 1
    assert found.outputs[0].relative_l2 == 0
    assert found.drift == float("inf")


def test_integer_outputs_are_compared_by_equality() -> None:
    a = np.arange(8)
    (found,) = compare(a, np.where(a == 3, 0, a)).outputs
    assert (found.equal, found.relative_l2) == (7 / 8, None)


def test_figures_have_intervals_over_samples() -> None:
    a = 3 * DRAW.normal(size=(60, 5)).astype(np.float32)
    b = a + DRAW.normal(size=a.shape).astype(np.float32)
    found = compare(a, b, np.argmax(a, 1) % 5)
    scores, (output,) = found.classification, found.outputs
    assert scores is not None and scores.accuracy_a is not None and scores.accuracy_b is not None
    for value, interval in (
        (scores.kl, scores.kl_interval),
        (scores.top1_agreement, scores.top1_agreement_interval),
        (scores.accuracy_b - scores.accuracy_a, scores.accuracy_change_interval),
        (output.relative_l2, output.relative_l2_interval),
        (output.cosine, output.cosine_interval),
    ):
        assert interval is not None and value is not None and interval[0] < value < interval[1]
    assert found.drift_interval == scores.kl_interval
    wide = compare(a[:12], b[:12]).drift_interval
    assert wide is not None and found.drift_interval is not None
    assert wide[1] - wide[0] > found.drift_interval[1] - found.drift_interval[0]
    assert compare(a[:3], b[:3]).drift_interval is None


def test_integer_outputs_have_one_too() -> None:
    a = DRAW.integers(0, 3, (50, 4))
    b = np.where(DRAW.random(a.shape) < 0.2, 9, a)
    found = compare(a, b)
    interval = found.outputs[0].equal_interval
    assert interval is not None and interval[0] < found.outputs[0].equal < interval[1]
    assert found.drift_interval == (1 - interval[1], 1 - interval[0])


def test_outputs_without_a_sample_axis_count_by_batch() -> None:
    a = DRAW.normal(size=(12, 1)).astype(np.float32)

    class Mean(Lookup):
        def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
            return {"y": super().run(feeds)["y"].mean(0)}

    found = fidelity(Mean(y=a), Mean(y=a + 1), numbers(12), None, "")
    assert found.samples == 12 and found.drift > 0


def test_zero_reference_is_no_drift_only_if_b_is_zero_too() -> None:
    nothing = np.zeros((3, 1), np.float32)
    assert compare(nothing, nothing).drift == 0
    assert compare(nothing, nothing + 1).drift == float("inf")


def test_renamed_outputs_are_paired_by_position() -> None:
    a = DRAW.normal(size=(4, 1)).astype(np.float32)
    found = fidelity(Lookup(y=a), Lookup(other=a + 1), numbers(4), None, "")
    assert found.outputs[0].name == "y"
    assert found.drift > 0


def test_outputs_that_do_not_match_are_a_model_error() -> None:
    a = np.ones((4, 2), np.float32)
    with pytest.raises(
        ModelError, match="outputs: A has y and B has y, z; compare models of the same outputs"
    ):
        fidelity(Lookup(y=a), Lookup(y=a, z=a), numbers(4), None, "")
    with pytest.raises(
        ModelError,
        match=r"output 'y': A gives shape \(1, 2\) and B \(1, 3\); compare models of the same outputs",
    ):
        compare(a, np.ones((4, 3), np.float32))


def mean_of_first(outputs: Mapping[str, Array], labels: Array | None) -> float:
    assert labels is not None
    assert len(labels) == len(outputs["y"])
    return float(np.mean(np.asarray(outputs["y"], np.float64)) + labels.sum())


def test_the_users_metric_sees_whole_chunks_and_is_weighted_by_samples() -> None:
    a = np.arange(6, dtype=np.float32).reshape(6, 1)
    chunks = (Chunk({"x": np.arange(2)}, np.zeros(2, int)), Chunk({"x": np.arange(2, 6)}, np.zeros(4, int)))
    found = fidelity(Lookup(y=a), Lookup(y=a + 1), Data(chunks), mean_of_first, "m").metric
    assert found is not None
    assert (found.a, found.b) == pytest.approx((2.5, 3.5))


def test_a_metric_must_give_a_number() -> None:
    a = np.ones((2, 1), np.float32)
    metric: Any = lambda outputs, labels: "good"  # noqa: E731
    with pytest.raises(UsageError, match=r"metric 'm': gave 'good'; return a number"):
        fidelity(Lookup(y=a), Lookup(y=a), numbers(2), metric, "m")


def test_outputs_are_read_by_all_that_is_looked_at_and_not_by_the_first_sample() -> None:
    rows = np.concatenate([np.eye(4, dtype=np.float32), 5 * DRAW.normal(size=(20, 4)).astype(np.float32)])
    found = compare(rows, rows)
    assert found.classification is not None and found.classification.rows == "logits"
    unit = DRAW.normal(size=(20, 64)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert compare(unit, -unit).drift == pytest.approx(2) and compare(unit, unit).drift_name == "relative L2"


def test_a_reading_is_followed() -> None:
    features = DRAW.normal(size=(4, 6, 9)).astype(np.float32)
    session = Lookup(y=features)
    assert look(session, numbers(4)).task == "regression"
    asked = look(session, numbers(4), "classifier")
    found = fidelity(session, session, numbers(4), None, "", asked)
    assert found.classification is not None and found.classification.per_position
    assert found.task_asked == "classifier" and found.to_json()["task_why"] == "as asked"


def test_a_task_that_does_not_suit_the_outputs_is_refused() -> None:
    session = Lookup(y=np.ones((2, 3, 4, 5), np.float32))
    message = r"^task classifier: .* the model gives y \(1, 3, 4, 5\); use --task regression"
    with pytest.raises(UsageError, match=message):
        look(session, numbers(2), "classifier")


def test_outputs_that_cannot_be_scores_are_not_run_again_to_be_looked_at() -> None:
    runs: list[int] = []

    class Counted(Lookup):
        def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
            runs.append(1)
            return super().run(feeds)

    assert look(Counted(y=np.ones((9, 3, 4, 5), np.float32)), numbers(9)).task == "regression"
    assert len(runs) == 1
