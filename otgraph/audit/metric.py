"""The user's own metric, ``package.module:callable``, called as ``metric(outputs, labels) -> float``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from otgraph.data import Array
from otgraph.errors import UsageError
from otgraph.foreign import LONGEST, ForeignFailure, run_foreign
from otgraph.named_callable import import_callable, is_named_callable

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
    """One value; raises ``UsageError`` when the metric fails, or does not give a number."""
    try:
        value = run_foreign(lambda: metric(outputs, labels))
    except ForeignFailure as failure:
        text = f"metric '{name}': raised {failure}; mend it: it is called with (outputs, labels)"
        raise UsageError(text) from failure.__cause__
    try:
        number = run_foreign(lambda: float(value))
    except ForeignFailure as failure:
        raise UsageError(f"metric '{name}': gave {_shown(value)}; return a number") from failure.__cause__
    if math.isnan(number):
        raise UsageError(f"metric '{name}': gave nan; return a number")
    return number


def _shown(value: object) -> str:
    """Short, and on one line: it may be a whole array, or something that cannot even be printed."""
    try:
        text = " ".join(run_foreign(lambda: repr(value)).split())
    except ForeignFailure:
        text = ""
    return text if 0 < len(text) <= LONGEST else f"a {type(value).__name__}"
