"""How far two sets of model outputs lie apart: the unit of damage of plans and repairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from otgraph.data import Array
from otgraph.task import Rows, Task, read_outputs

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
        """The one number that plans and repairs minimize: KL for classifiers, else relative L2."""
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
    reading = read_outputs([arrays_of(batch) for batch in reference], task)
    if reading.output is None:
        return Divergence(relative)
    at = int(reading.output)
    kl = agree = 0.0
    rows = 0
    for ref, new in zip(reference, outputs, strict=True):
        p, q = (_log_probabilities(x[at], reading.rows) for x in (ref, new))
        kl += float((p.exp() * (p - q)).sum())
        agree += float((p.argmax(-1) == q.argmax(-1)).sum())
        rows += len(p)
    return Divergence(relative, max(kl / rows, 0.0), agree / rows, rows)


def is_classifier(outputs: Sequence[Outputs], task: Task = "auto") -> bool:
    """Whether these are read as the outputs of a classifier: see ``otgraph.task``.

    Raises:
        UsageError: ``task`` says so, and the outputs have another shape.
    """
    return read_outputs([arrays_of(batch) for batch in outputs], task).task == "classifier"


def arrays_of(tensors: Outputs, names: Sequence[str] = ()) -> dict[str, Array]:
    """Tensors as arrays by name, or by their place where there are no ``names``."""
    names = names or [str(place) for place in range(len(tensors))]
    return {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()
        for name, tensor in zip(names, tensors, strict=True)
    }


def _log_probabilities(values: torch.Tensor, kind: Rows | None) -> torch.Tensor:
    rows = values.double().reshape(-1, values.shape[-1])
    if kind != "probabilities":
        return rows.log_softmax(-1)
    logs = rows.clamp_min(_FLOOR).log()
    return logs - logs.logsumexp(-1, keepdim=True)


_FLOOR = 1e-12
"""Probabilities below this are rounding: without a floor one zero makes the divergence infinite."""
