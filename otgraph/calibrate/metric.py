"""``OutputMetric``: how a small change of the outputs is measured, and probes with that covariance.

A change δ of the outputs f(x) does the damage ``δᵀ M_x δ``. For values M is the identity over each output's
own energy, so the damage is the squared relative distance; for class scores it is half the Fisher matrix of
the softmax, ``½ (diag(p) − ppᵀ)``, to which the KL divergence comes down for small δ (Amari, 1998). A probe v
with ``E[v vᵀ] = M_x`` makes the damage of any linear change a mean of squares: ``E[⟨v, δ⟩²] = δᵀ M_x δ``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from otgraph.calibrate.divergence import Outputs

Form = Literal["values", "logits", "probabilities"]

LEAST_PROBABILITY = 1e-4
"""A class less likely than this is taken to be this likely: the metric of probabilities divides by them."""


@dataclass(frozen=True)
class OutputMetric:
    """``form``: how outputs are read. ``energies``: the mean squared norm of each output per sample, over the
    inputs that it was made from (1 for outputs that are not floating point, which are left out)."""

    form: Form
    energies: tuple[float, ...]

    @staticmethod
    def of(outputs: Sequence[Outputs], form: Form = "values") -> OutputMetric:
        """From the outputs of a network, one tuple per batch."""
        energies: list[float] = []
        for parts in zip(*outputs, strict=True):
            if not parts[0].is_floating_point():
                energies.append(1.0)
                continue
            samples = sum(max(len(part), 1) if part.dim() else 1 for part in parts)
            energies.append(sum(float(part.double().square().sum()) for part in parts) / samples)
        return OutputMetric(form, tuple(energies))

    def probe(self, outputs: Outputs, generator: torch.Generator) -> list[torch.Tensor | None]:
        """One draw of v for every sample, of the shape of each output; None for one that has no gradient."""
        found: list[torch.Tensor | None] = []
        for output, energy in zip(outputs, self.energies, strict=True):
            if not output.is_floating_point():
                found.append(None)
                continue
            value = output.detach()
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            if self.form == "values":
                found.append(noise / max(energy, 1e-30) ** 0.5)
                continue
            rows = max(value[0].numel() // value.shape[-1], 1)
            found.append(self._fisher(value, noise) / (2 * rows) ** 0.5)
        return found

    def _fisher(self, value: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """√p ∘ u − p (√p · u): its covariance is diag(p) − ppᵀ. For changes of p itself: u / √p."""
        if self.form == "probabilities":
            return noise / value.clamp_min(LEAST_PROBABILITY).sqrt()
        p = value.softmax(-1)
        scaled = p.sqrt() * noise
        return scaled - p * scaled.sum(-1, keepdim=True)

    def damage(self, reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> float:
        """What the change from ``reference`` does, as the mean over samples of ``δᵀ M_x δ``.

        For values with several outputs their squared relative distances are added up. For class scores it is
        the KL divergence itself, which is ``δᵀ M_x δ`` where δ is small and stays finite where it is not.
        """
        totals, samples = [0.0] * len(self.energies), 0
        for ref, new in zip(reference, outputs, strict=True):
            samples += len(ref[0]) if ref[0].dim() else 1
            for at, (r, o) in enumerate(zip(ref, new, strict=True)):
                if r.is_floating_point():
                    totals[at] += self._distance(r.double(), o.double(), self.energies[at])
        return sum(totals) / max(samples, 1)

    def _distance(self, reference: torch.Tensor, new: torch.Tensor, energy: float) -> float:
        if self.form == "values":
            return float((new - reference).square().sum()) / max(energy, 1e-30)
        if self.form == "probabilities":
            p, q = (value.clamp_min(1e-12).log() for value in (reference, new))
            p, q = p - p.logsumexp(-1, keepdim=True), q - q.logsumexp(-1, keepdim=True)
        else:
            p, q = reference.log_softmax(-1), new.log_softmax(-1)
        rows = max(reference[0].numel() // reference.shape[-1], 1)
        return max(float((p.exp() * (p - q)).sum()) / rows, 0.0)


def form_of(outputs: Sequence[Outputs], wanted: Literal["values", "scores"]) -> Form:
    """How the outputs of a classifier are read when their ``scores`` are to count; else as ``values``."""
    if wanted == "values":
        return "values"
    rows = torch.cat([batch[0].detach().double().reshape(-1, batch[0].shape[-1]) for batch in outputs])
    likely = bool((rows >= 0).all()) and bool(((rows.sum(-1) - 1).abs() < 1e-3).all())
    return "probabilities" if likely else "logits"
