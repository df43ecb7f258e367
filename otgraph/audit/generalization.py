"""Figures on the inputs that a network was fitted on beside those on inputs that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from otgraph.audit.fidelity import Fidelity

RATIO = 1.5
"""Damage on unseen inputs that is so many times that on fitted ones, and no chance, is a gap."""

Network = Literal["measured", "refitted"]
"""Which network is handed over: the one that was measured, or one that was fitted again on more inputs."""


@dataclass(frozen=True)
class Generalization:
    """``fitted``: figures on the inputs that repairs were fitted on, ``unseen``: on others. ``unseen.source``
    says which: kept apart from everything (*held-out*), from ``folds`` refits in turn (*cross-fitted*: each
    repaired without the inputs it is judged on, under the one plan, which all of them decided on), or *data*
    given for the audit. ``network`` is handed over."""

    fitted: Fidelity
    unseen: Fidelity
    folds: int = 0
    network: Network = "measured"

    @property
    def ratio(self) -> float | None:
        """Drift on unseen inputs over that on fitted ones; None where that is zero or not finite."""
        fitted, unseen = self.fitted.drift, self.unseen.drift
        return unseen / fitted if 0 < fitted < float("inf") and unseen < float("inf") else None

    @property
    def large(self) -> bool:
        """Unseen inputs fare worse than chance explains, and by enough to matter: the interval of the unseen
        figure lies beyond that of the fitted one, and their ratio beyond ``RATIO``."""
        fitted, unseen = self.fitted.drift_interval, self.unseen.drift_interval
        if fitted is None or unseen is None or self.ratio is None:
            return False
        return unseen[0] > fitted[1] and self.ratio > RATIO

    @property
    def advice(self) -> str:
        """What to do about a large gap; nothing where there is none."""
        if not self.large or self.ratio is None:
            return ""
        return (
            f"{self.unseen.drift_name} on unseen inputs is {self.ratio:.1f} times that on the inputs of the"
            " repair: give more calibration inputs, and above all more different ones (other sources, scenes,"
            " speakers); what limits is their variety, not their number"
        )

    @property
    def network_text(self) -> str:
        """Which network the figures belong to."""
        if self.unseen.source == "cross-fitted":
            return (
                f"the unseen figures are of {self.folds} refits, each judged on the inputs that its repair"
                " left out; the plan, decided on all inputs, stays the same. The network handed over is"
                " fitted on all"
            )
        if self.network == "refitted":
            return (
                f"the figures belong to the network fitted on {self.fitted.samples:,} inputs; the one handed"
                " over is the same plan refitted on all, which nothing is left to judge"
            )
        return "the figures belong to the network handed over"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name, what follows from them included."""
        return {
            "fitted": self.fitted.to_json(),
            "unseen": self.unseen.to_json(),
            "folds": self.folds,
            "network": self.network,
            "ratio": self.ratio,
            "large": self.large,
            "advice": self.advice,
        }
