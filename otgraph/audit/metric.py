"""The user's own metric, ``package.module:callable``, called as ``metric(outputs, labels) -> float``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from otgraph.data import Array
from otgraph.errors import UsageError

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
    module_name, colon, attribute = text.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(f"metric '{text}': write it as package.module:callable")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"metric '{text}': cannot import {module_name} ({error})") from error
    found: Any = getattr(module, attribute, None)
    if not callable(found):
        raise UsageError(f"metric '{text}': {module_name} has no callable '{attribute}'")
    return cast(Metric, found)


def evaluate(metric: Metric, name: str, outputs: Mapping[str, Array], labels: Array | None) -> float:
    """One value; raises ``UsageError`` when the metric does not give a number."""
    value = metric(outputs, labels)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"metric '{name}': gave {value!r}, a number is wanted") from error
