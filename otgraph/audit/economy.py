"""What the optimization cost, and after how many inferences it has paid for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from otgraph.errors import UsageError
from otgraph.latency.protocol import Comparison


@dataclass(frozen=True)
class Optimization:
    """What making B cost: CPU seconds over all threads, elapsed seconds, and where the figures come from."""

    cpu_seconds: float
    wall_seconds: float
    source: str

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Optimization:
        """From a mapping with exactly the fields' names. Raises ``UsageError``."""
        names = ("cpu_seconds", "wall_seconds", "source")
        if set(fields) != set(names):
            raise UsageError(
                f"optimization: has {', '.join(sorted(fields)) or 'nothing'}; want {', '.join(names)}"
            )
        cpu, wall = fields["cpu_seconds"], fields["wall_seconds"]
        if not all(isinstance(value, int | float) and value >= 0 for value in (cpu, wall)):
            raise UsageError(f"optimization: cpu_seconds={cpu!r}, wall_seconds={wall!r}; give numbers ≥ 0")
        return cls(float(cpu), float(wall), str(fields["source"]))


@dataclass(frozen=True)
class BreakEven:
    """``inferences`` until the time saved equals the CPU time spent; ``None`` when nothing is saved credibly.

    ``low`` and ``high`` follow from the interval of the latency ratio.
    """

    inferences: int | None
    low: int | None
    high: int | None
    text: str


def break_even(cost: Optimization, latency: Comparison) -> BreakEven:
    """CPU seconds spent / seconds saved per inference, where one inference takes ``latency.a_ms`` with A."""
    if not latency.credible_gain:
        return BreakEven(None, None, None, "never: B is not credibly faster, so nothing is paid back")
    best, low, high = (
        ceil(cost.cpu_seconds / (latency.a_ms / 1e3 * (1 - ratio)))
        for ratio in (latency.ratio, latency.low, latency.high)
    )
    text = f"after {best:,} inferences ({low:,} to {high:,}), {best * latency.a_ms / 1e3:,.0f} s of running A"
    return BreakEven(best, low, high, text)
