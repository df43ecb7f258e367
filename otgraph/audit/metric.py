"""The user's own metric, ``package.module:callable``, called as ``metric(outputs, labels) -> float``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from otgraph.data import Array
from otgraph.errors import UsageError
from otgraph.named_callable import describe, import_callable, is_named_callable

Metric = Callable[[Mapping[str, Array], Array | None], float]


@dataclass(frozen=True)
class MetricResult:
    """The metric's value on both models' outputs."""

    name: str
    a: float
    b: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


def load_metric(text: str) -> Metric:
    """Import ``package.module:callable``. Raises ``UsageError`` when that is not what ``text`` names."""
    if not is_named_callable(text):
        raise UsageError(f"metric '{text}': write it as package.module:callable")
    return import_callable(text, UsageError)


def evaluate(metric: Metric, name: str, outputs: Mapping[str, Array], labels: Array | None) -> float:
    """One value; raises ``UsageError`` when the metric does not give a number."""
    try:
        value = metric(outputs, labels)
    except Exception as error:
        text = f"metric '{name}': raised {describe(error)}; mend it: it is called with (outputs, labels)"
        raise UsageError(text) from error
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"metric '{name}': gave {value!r}; return a number") from error
