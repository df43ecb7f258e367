"""Correlated channels with what is needed to check their moments against the samples themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from otgraph.transport.cost import Reading


@dataclass(frozen=True)
class Channels:
    """A reading with the samples (m, n) and the weight (outputs, n) it was made of."""

    reading: Reading
    samples: np.ndarray
    weight: np.ndarray


MakeChannels = Callable[..., Channels]


@pytest.fixture
def make_channels() -> MakeChannels:
    """``make_channels(n, seed=0, centered=False, name="w", samples=400)``."""
    return _make


def _make(n: int, seed: int = 0, centered: bool = False, name: str = "w", samples: int = 400) -> Channels:
    rng = np.random.default_rng(seed)
    latents = max(1, n // 3)
    mixing = rng.normal(size=(latents, n)) * (rng.random((latents, n)) < 0.5)
    values = np.maximum(
        rng.normal(size=(samples, latents)) @ mixing + 0.3 * rng.normal(size=(samples, n)), 0.0
    )
    values *= rng.gamma(2.0, 0.5, size=n)
    weight = rng.normal(size=(7, n))
    moment = values.T @ values / samples
    reading = Reading(name, moment, weight.T @ weight, values.mean(axis=0), centered=centered)
    return Channels(reading, values, weight)
