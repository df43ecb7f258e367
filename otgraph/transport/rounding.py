"""What a calibration determines: below which part of its mean square a variance is rounding, and how far a
factor that is made of moments may go.

Both are relative to a channel's mean square, so they follow rescaled channels. *Rounding*: values computed in
a precision of unit ``eps`` come out right to some tens of units, so a channel whose deviation is below
``UNITS · eps`` of its root mean square is a constant that rounds. *Growth*: a factor f by which a channel i
stands for a channel j multiplies whatever happens to i, its rounding and what it does on inputs unlike the
calibration's; ``|f| · rms_i ≤ GROWTH · deviation_j`` keeps the first far below what single precision resolves
and the second to the order of j itself. A slope on a channel that varies less than ``1 / GROWTH`` of its root
mean square is therefore taken as if it varied that much.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

UNITS = 64.0
"""Rounding units by which a value of a deep network may be off: about √K of a sum of K = 4,096 terms."""

GROWTH = 32.0
"""Largest ratio of what a factor makes of its source's root mean square to the deviation that it is to
give: five of the 24 bits of single precision."""

FLOOR = 1.0 / GROWTH**2
"""The part of its mean square that a channel is at least taken to vary, where something is divided by it."""

CANCELLATION = 1e-12
"""The rounding of ``moment − mean meanᵀ`` in double precision, relative to the moment."""

SINGLE = 2.0**-23
"""The unit ``eps`` of single precision, in which networks are calibrated."""


def rounding_share(eps: float = SINGLE) -> float:
    """The part of its mean square below which the variance of a channel is rounding.

    ``eps``: the unit of the values. That of the sums plays no part: they are taken of deviations from a
    value near the mean (``calibrate.moments``), so their error is relative to the variance, however many
    there are. At most ``FLOOR``, so that in half precision too a channel that varies visibly is seen to.
    """
    return min(max((UNITS * eps) ** 2, CANCELLATION), FLOOR)


def summed_share(eps: float, block: int) -> float:
    """As ``rounding_share`` for variances that are differences of sums of *products as they are*, taken in a
    precision of unit ``eps`` by blocks of ``block`` terms: each sum is right to ``√block · eps``."""
    return min(max(rounding_share(eps), math.sqrt(block) * eps), FLOOR)


def floored(variance: npt.NDArray[np.float64], energy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``variance`` to divide by, at least ``FLOOR`` of the mean square ``energy``; 0 where it is 0."""
    return np.where(variance > 0.0, np.maximum(variance, FLOOR * energy), 0.0)
