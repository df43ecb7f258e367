"""Lower bounds of the error of putting one value in another's place, from their distributions alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from otgraph.transport.bures import gelbrich_of
from otgraph.transport.cost import FloatArray
from otgraph.transport.max_sliced import max_sliced, sliced_sum


@dataclass(frozen=True)
class PairBounds:
    """Three lower bounds of W₂²(x, y), hence of E|x − y|² of every pairing of the two samples.

    ``axes``: Σ of the W₂² of the coordinates; ``bures``: Gelbrich's, of means and covariances;
    ``max_sliced``: of the best single direction that ascent found. None: not needed any more.
    """

    axes: float
    bures: float | None = None
    max_sliced: float | None = None

    @property
    def best(self) -> float:
        """The largest of them."""
        return max(self.axes, self.bures or 0.0, self.max_sliced or 0.0)


def pair_bounds(source: FloatArray, target: FloatArray, enough: float = math.inf) -> PairBounds:
    """The bounds between two samples (m, n) of equal size, cheapest first, until one exceeds ``enough``.

    All hold for the samples as they are, without statistical error: the rows of a pairing are one coupling of
    the two empirical measures, and none costs less than W₂². They bound the error of the *identity* only. A
    fitted linear map can have any covariance, so no distance between distributions bounds its error, but for
    its rank (``rank_floor``).
    """
    axes = sliced_sum(source, target)
    if axes > enough:
        return PairBounds(axes)
    bures = gelbrich_of(source, target)
    if bures > enough:
        return PairBounds(axes, bures)
    return PairBounds(axes, bures, max_sliced(source, target).value)


def hopeless(bound: float, energy: float, threshold: float = 1.0) -> bool:
    """Whether a map whose squared error is at least ``bound`` exceeds ``threshold`` times ``energy``.

    With the variance of the target as energy, 1 means: worse than a constant in the target's place.
    """
    return bound > threshold * energy
