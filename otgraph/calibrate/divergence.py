"""How far two sets of model outputs lie apart: the unit of damage of plans and repairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from otgraph.errors import UsageError

Outputs = Sequence[torch.Tensor]

Task = Literal["auto", "classifier", "regression"]
"""How outputs are to be read: by their look, as class scores, or as values."""


@dataclass(frozen=True)
class Divergence:
    """Distance of outputs from a reference.

    ``relative_l2``: ‖new − ref‖ / ‖ref‖ over all outputs. ``kl``: mean over rows of KL(ref ‖ new) in nats,
    and ``agreement``: the share of rows with the same top-1 class; both None unless the model is a
    classifier. ``rows``: how many rows those means are over.
    """

    relative_l2: float
    kl: float | None = None
    agreement: float | None = None
    rows: int = 0

    @property
    def damage(self) -> float:
        """The one number that plans and repairs minimise: KL for classifiers, else relative L2."""
        return self.relative_l2 if self.kl is None else self.kl


def output_divergence(
    reference: Sequence[Outputs], outputs: Sequence[Outputs], task: Task = "auto"
) -> Divergence:
    """Compare two models' outputs, given as one tuple of tensors per batch.

    ``task``: whether they are class scores; rows that are non-negative and sum to 1 are then taken as
    probabilities, all others as logits.

    Raises:
        UsageError: ``task`` says that they are, and they have no such shape.
    """
    error = norm = 0.0
    for ref, new in zip(reference, outputs, strict=True):
        for r, o in zip(ref, new, strict=True):
            error += float((o.double() - r.double()).square().sum())
            norm += float(r.double().square().sum())
    relative = (error / norm) ** 0.5 if norm > 0 else (0.0 if error == 0 else float("inf"))
    if not is_classifier(reference, task):
        return Divergence(relative)
    probabilities = all(_are_probabilities(ref[0]) for ref in reference)
    kl = agree = 0.0
    rows = 0
    for ref, new in zip(reference, outputs, strict=True):
        p, q = (_log_probabilities(x[0], probabilities=probabilities) for x in (ref, new))
        kl += float((p.exp() * (p - q)).sum())
        agree += float((p.argmax(-1) == q.argmax(-1)).sum())
        rows += len(p)
    return Divergence(relative, max(kl / rows, 0.0), agree / rows, rows)


def is_classifier(outputs: Sequence[Outputs], task: Task = "auto") -> bool:
    """Whether these are the outputs of a classifier.

    That is one floating-point output of shape (N, C) or (N, T, C), C ≥ 2. A feature map has three axes too,
    so by look alone three are class scores only where each row is a distribution, or the logarithm of one.

    Raises:
        UsageError: ``task`` says so, and the outputs have another shape.
    """
    if task == "regression":
        return False
    could_be = bool(outputs) and all(
        len(batch) == 1
        and batch[0].is_floating_point()
        and batch[0].dim() in (2, 3)
        and batch[0].shape[-1] >= 2
        and batch[0].numel() > 0
        for batch in outputs
    )
    if task == "classifier" and not could_be:
        raise UsageError(
            "task classifier: needs one floating-point output (samples, [positions,] classes ≥ 2);"
            " use --task regression"
        )
    return could_be and (task == "classifier" or all(_looks_like_scores(batch[0]) for batch in outputs))


def _looks_like_scores(values: torch.Tensor) -> bool:
    if values.dim() == 2 or _are_probabilities(values):
        return True
    sums = values.double().exp().sum(-1)
    return bool((values <= 1e-6).all()) and bool(((sums - 1).abs() < 2e-3).all())


def _are_probabilities(values: torch.Tensor) -> bool:
    return bool((values >= 0).all()) and bool(((values.double().sum(-1) - 1).abs() < 1e-3).all())


def _log_probabilities(values: torch.Tensor, *, probabilities: bool) -> torch.Tensor:
    rows = values.double().reshape(-1, values.shape[-1])
    if not probabilities:
        return rows.log_softmax(-1)
    logs = rows.clamp_min(_FLOOR).log()
    return logs - logs.logsumexp(-1, keepdim=True)


_FLOOR = 1e-12
"""Probabilities below this are rounding: without a floor one zero makes the divergence infinite."""
