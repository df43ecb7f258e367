"""The unit of damage: zero for equal outputs, the textbook KL for classifiers, relative L2 for the rest."""

from __future__ import annotations

import math

import pytest
import torch

from otgraph.calibrate.divergence import is_classifier, output_divergence
from otgraph.errors import UsageError


def test_equal_outputs_have_none() -> None:
    logits = torch.randn(5, 4)
    found = output_divergence([(logits,)], [(logits.clone(),)])
    assert (found.relative_l2, found.kl, found.agreement, found.rows) == (0.0, 0.0, 1.0, 5)


def test_kl_is_that_of_torch_over_all_batches() -> None:
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    found = output_divergence(list(zip(a.split(4), strict=True)), list(zip(b.split(4), strict=True)))
    expected = torch.nn.functional.kl_div(
        b.log_softmax(1).double(), a.log_softmax(1).double(), log_target=True, reduction="batchmean"
    )
    assert found.kl == pytest.approx(float(expected), rel=1e-5)
    assert found.damage == found.kl
    assert found.agreement == pytest.approx(float((a.argmax(1) == b.argmax(1)).float().mean()))


def test_probabilities_are_not_softened_again() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    found = output_divergence([(p,)], [(q,)])
    assert found.kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75), rel=1e-6)
    assert output_divergence([(p,)], [(torch.tensor([[0.0, 1.0]]),)]).kl < 20  # finite


def test_rows_of_sequences_count_each() -> None:
    logits = torch.randn(2, 7, 5)
    for rows, task in (
        (logits.softmax(-1), "auto"),
        (logits.log_softmax(-1), "auto"),
        (logits, "classifier"),
    ):
        assert output_divergence([(rows,)], [(rows,)], task).rows == 14


def test_regression_is_relative() -> None:
    ref = torch.randn(3, 2, 4, 4)
    found = output_divergence([(ref,)], [(ref * 1.1,)])
    assert found.kl is None and found.agreement is None
    assert found.damage == pytest.approx(0.1, rel=1e-5)
    assert output_divergence([(torch.zeros(2, 1),)], [(torch.ones(2, 1),)]).damage == math.inf


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ((torch.randn(2, 3),), True),
        ((torch.randn(2, 3, 4).softmax(-1),), True),
        ((torch.randn(2, 3, 4).log_softmax(-1),), True),
        ((torch.randn(2, 3, 4),), False),  # a feature map, by its look
        ((torch.randn(2, 1),), False),
        ((torch.randn(2, 3, 4, 5),), False),
        ((torch.ones(2, 3, dtype=torch.int64),), False),
        ((torch.randn(2, 3), torch.randn(2, 3)), False),
    ],
)
def test_classifiers_are_known_by_their_look(outputs: tuple[torch.Tensor, ...], expected: bool) -> None:
    assert is_classifier([outputs]) is expected


def test_a_stated_task_overrides_the_look() -> None:
    scores, features = [(torch.randn(2, 3),)], [(torch.randn(2, 3, 4),)]
    assert is_classifier(scores, "classifier") and is_classifier(features, "classifier")
    assert not is_classifier(scores, "regression")
    found = output_divergence(scores, [(scores[0][0] * 1.1,)], "regression")
    assert found.kl is None and found.damage == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("outputs", [(torch.randn(2, 3, 4, 5),), (torch.randn(2, 3), torch.randn(2, 3))])
def test_a_classifier_without_class_scores_is_refused(outputs: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(UsageError, match=r"^task classifier: needs one .*; use --task regression$"):
        output_divergence([outputs], [outputs], "classifier")
