"""What outputs are taken for: classifiers stay classifiers, and what no softmax fits is regression."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from otgraph.audit.fidelity import look
from otgraph.calibrate.divergence import is_classifier
from otgraph.calibrate.reading import read_graph
from otgraph.data import Array, Data
from otgraph.data_sources import load_data
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import UsageError
from otgraph.graph.specs import bind
from otgraph.load import load_model
from otgraph.sample import calibration_path, model_path
from otgraph.task import LENGTH, OutputReading, check_task, read_outputs

N = 64


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, *shape))


def trained(classes: int, *, steps: int = 400, spread: float = 3.0, decay: float = 1e-3) -> np.ndarray:
    """Logits of a softmax regression, trained by cross-entropy on noisy blobs from a random start."""
    rng = np.random.default_rng(classes)
    labels = np.arange(N) % classes
    x = rng.normal(size=(classes, 16))[labels] * spread / 4 + rng.normal(size=(N, 16))
    x = np.concatenate([x, np.ones((N, 1))], 1)
    weight = rng.uniform(-1, 1, size=(17, classes)) / 4
    for _ in range(steps):
        p = np.exp(x @ weight - (x @ weight).max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        weight -= 0.3 * (x.T @ (p - np.eye(classes)[labels]) / N + decay * weight)
    return x @ weight


def thousand() -> np.ndarray:
    """What an ImageNet network gives: zero on average, a few related classes far above the rest."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(N, 1000))
    for row in rows:
        row[rng.permutation(1000)[:8]] += rng.uniform(3, 9, size=8)
    return rows - rows.mean(1, keepdims=True)


def softmax(rows: np.ndarray) -> np.ndarray:
    p = np.exp(rows - rows.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def read(rows: np.ndarray, inputs: np.ndarray | None = None, task: str = "auto") -> OutputReading:
    given = () if inputs is None else ({"x": inputs.astype(np.float32)},)
    return read_outputs([{"y": rows.astype(np.float32)}], check_task(task), given)


CLASSIFIERS: dict[str, tuple[np.ndarray, str]] = {
    "10 classes": (trained(10), "logits"),
    "2 classes": (trained(2), "logits"),
    "2 classes, hardly told apart": (trained(2, spread=1.0, steps=30), "logits"),
    "3 classes": (trained(3), "logits"),
    "100 classes": (trained(100), "logits"),
    "1000 classes": (thousand(), "logits"),
    "sure of itself": (6 * trained(10), "logits"),
    "a common shift": (trained(10) + draw(1), "logits"),
    "one class alone": (trained(2) * 0 + np.array([4.0, -4.0]) + 0.3 * draw(2), "logits"),
    "probabilities": (softmax(trained(10)), "probabilities"),
    "probabilities of 2": (softmax(trained(2)), "probabilities"),
    "log-probabilities": (np.log(softmax(trained(10))), "log-probabilities"),
    "one-hot": (np.eye(N), "probabilities"),
    "positions": (softmax(draw(5, 9)), "probabilities"),
    "positions, logarithms": (np.log(softmax(draw(5, 9))), "log-probabilities"),
}


def normalized(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


VALUES: dict[str, tuple[np.ndarray, str]] = {
    "unit length": (normalized(draw(384)), "y: rows have unit length, as embeddings have"),
    "unit length, few columns": (normalized(draw(3)), "rows have unit length"),
    "unit length, rounded": (normalized(draw(64)) * (1 + LENGTH * 0.9 * np.sign(draw(1))), "unit length"),
    "one length": (64 * normalized(draw(512)), r"all rows have the same length \(64\), as embeddings have"),
    "layer norm": (
        (lambda x: x / x.std(1, keepdims=True))(draw(96) - draw(96).mean(1, keepdims=True)),
        "same",
    ),
    "not normalized": (draw(384), r"softmax over the 384 columns would be nearly uniform \(0\.\d+ nats"),
    "not normalized, larger": (1.5 * draw(384), "nearly uniform"),
    "an outlier column": (draw(768) + 12 * np.eye(768)[7], "the same one of 768 columns is the largest"),
    "tanh": (np.tanh(draw(384)), "no value is beyond −1 and 1"),
    "tanh, saturated": (np.tanh(5 * draw(384)), "no value is beyond −1 and 1"),
    "rectified features": (np.maximum(3 * draw(512), 0), "no value is negative"),
    "boxes in pixels": (np.abs(100 * draw(4)), "no value is negative"),
    "a pose in degrees": (90 * draw(3), r"the largest column leads by \d+, which no logit does"),
    "sizes": (
        5 * draw(1) + 1.5 * draw(4, seed=1),
        "columns rise and fall together, which a softmax does not see",
    ),
    "small values": (0.1 * draw(4), "nearly uniform"),
    "several labels": (
        1 / (1 + np.exp(-3 * draw(20))),
        "values lie between 0 and 1 and rows do not sum to 1",
    ),
    "constant": (np.tile(draw(10)[:1] * 0.1, (N, 1)), "beyond|uniform"),
    "features at positions": (draw(5, 9), "rows at positions are no distributions"),
    "a map": (draw(3, 4, 5), r"y has shape \(…, 3, 4, 5\), no row of scores"),
    "one column": (draw(1), r"y has shape \(…, 1\)"),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifiers_stay_classifiers(kind: str) -> None:
    rows, look = CLASSIFIERS[kind]
    found = read(rows)
    assert (found.task, found.rows, found.classes) == ("classifier", look, rows.shape[-1]), found.why


@pytest.mark.parametrize("kind", VALUES)
def test_what_no_softmax_fits_is_regression(kind: str) -> None:
    rows, why = VALUES[kind]
    found = read(rows)
    assert found.task == "regression" and found.output is None
    assert re.search(why, found.why), found.why


@pytest.mark.parametrize("kind", [*CLASSIFIERS, *VALUES])
def test_plans_and_audits_read_alike_however_they_are_batched(kind: str) -> None:
    rows = {**CLASSIFIERS, **VALUES}[kind][0].astype(np.float32)
    whole = read(rows)
    tensors = [(part,) for part in torch.from_numpy(rows).split(16)]
    assert is_classifier(tensors) is (whole.task == "classifier")
    assert read_outputs([{"y": row[None]} for row in rows]) == whole


def test_an_autoencoder_is_known_by_its_input() -> None:
    x = 3 * draw(12)
    assert read(x + draw(12, seed=1), x).why == "y: gives back its input"
    assert read(3 * x + draw(12, seed=1), x.reshape(N, 3, 4)).task == "regression"
    assert read(trained(12), x).task == "classifier"  # as many columns, and not the input
    assert read(trained(12), draw(5)).task == "classifier"


def test_a_stated_task_overrides_the_look() -> None:
    embedding = normalized(draw(384))
    asked = read(embedding, task="classifier")
    assert (asked.task, asked.rows, asked.asked) == ("classifier", "logits", "classifier")
    assert read(trained(10), task="regression").task == "regression"
    assert read(draw(5, 9), task="classifier").classes == 9
    assert read(softmax(trained(10)), task="classifier").rows == "probabilities"


def test_a_few_inputs_are_enough_for_a_distribution_and_too_few_for_doubts() -> None:
    assert read(3 * draw(5)[:1]).task == "classifier" and read(softmax(draw(5))[:1]).rows == "probabilities"
    assert read(normalized(draw(384))[:1]).task == "regression"


def test_what_is_not_finite_is_left_out_of_the_look() -> None:
    rows = trained(10)
    rows[3, 2] = np.nan
    assert read(rows).task == "classifier"
    assert read(np.full((4, 3), np.inf)).why == "y: holds no finite row"


OUTPUTS: dict[str, tuple[Mapping[str, Array], str]] = {
    "two": (
        {"y": trained(3), "z": trained(3)},
        "the model has 2 floating-point outputs, class scores are one",
    ),
    "none": ({"y": np.ones((4, 3), np.int64)}, "the model has no floating-point outputs"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_other_outputs(kind: str) -> None:
    outputs, why = OUTPUTS[kind]
    assert read_outputs([outputs]).why.startswith(why)
    with pytest.raises(UsageError, match=r"^task classifier: needs one .*; use --task regression$"):
        read_outputs([outputs], "classifier")


def test_a_label_beside_the_scores_does_not_hide_them() -> None:
    found = read_outputs([{"label": np.zeros(N, np.int64), "scores": softmax(trained(3))}])
    assert (found.task, found.output) == ("classifier", "scores")


def test_the_text_says_what_why_and_what_overrides_it() -> None:
    assert read(trained(10)).text == (
        "classifier of 10 classes, damage is KL; y: rows look like logits;"
        " --task regression reads it as values"
    )
    assert read(normalized(draw(384))).text == (
        "regression, damage is relative L2; y: rows have unit length, as embeddings have;"
        " --task classifier reads them as class scores"
    )
    assert read(trained(10), task="classifier").text == "classifier of 10 classes, damage is KL; as asked"


def test_the_embedded_classifier_is_one_on_both_sides() -> None:
    graph = load_model(str(model_path()))
    data = bind(load_data(str(calibration_path())), graph)
    on_graph = read_graph(graph, data)
    on_file = look(OnnxRuntime().load(model_path(), threads=1), data)
    assert on_graph == on_file and (on_graph.task, on_graph.classes) == ("classifier", 10)
    few = Data.from_arrays(data.chunks[0].rows(slice(0, 2)).arrays)
    assert read_graph(graph, bind(few, graph)).task == "classifier"
