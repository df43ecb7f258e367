"""How far two sets of model outputs lie apart: the unit of damage of plans and repairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Outputs = Sequence[torch.Tensor]


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


def output_divergence(reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> Divergence:
    """Compare two models' outputs, given as one tuple of tensors per batch.

    A classifier has one floating-point output of shape (N, C) or (N, T, C) with C ≥ 2; rows that are
    non-negative and sum to 1 are taken as probabilities, all others as logits.
    """
    error = norm = 0.0
    for ref, new in zip(reference, outputs, strict=True):
        for r, o in zip(ref, new, strict=True):
            error += float((o.double() - r.double()).square().sum())
            norm += float(r.double().square().sum())
    relative = (error / norm) ** 0.5 if norm > 0 else (0.0 if error == 0 else float("inf"))
    if not is_classifier(reference):
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


def is_classifier(outputs: Sequence[Outputs]) -> bool:
    """Whether these are the outputs of a classifier, by their number, type and shape."""
    return bool(outputs) and all(
        len(batch) == 1
        and batch[0].is_floating_point()
        and batch[0].dim() in (2, 3)
        and batch[0].shape[-1] >= 2
        and batch[0].numel() > 0
        for batch in outputs
    )


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
