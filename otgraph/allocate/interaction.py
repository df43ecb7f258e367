"""Placeholder until allocate lands."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interaction:
    vectors: Any
    weight: float
