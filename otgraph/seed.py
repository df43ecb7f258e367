"""Seeds: what every generator of random numbers that is used here can be started with."""

from __future__ import annotations

from otgraph.errors import UsageError

MAX_SEED = 2**31 - 1
"""Solvers take 32 bits with a sign; torch and NumPy more."""


def check_seed(seed: int, where: str = "seed") -> None:
    """Raise ``UsageError``, naming ``where``, unless ``seed`` is a whole number from 0 to ``MAX_SEED``."""
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"{where}: {seed} is no seed; give a whole number from 0 to {MAX_SEED}")
