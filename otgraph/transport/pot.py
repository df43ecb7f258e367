"""The part of POT (Python Optimal Transport) that is used, with types; nothing else imports it."""

# POT ships neither stubs nor a py.typed marker.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

from typing import cast

import numpy as np
import ot

from otgraph.transport.cost import FloatArray


def exact_plan(source: FloatArray, target: FloatArray, ground: FloatArray) -> FloatArray:
    """The optimal plan (n, m) between two measures of equal mass, (n,) and (m,), under ``ground`` (n, m)."""
    return cast(FloatArray, ot.emd(source, target, ground))


def entropic_barycenter(histograms: FloatArray, ground: FloatArray, entropy: float) -> FloatArray:
    """The barycenter (bins,) of histograms (n, bins), by iterative Bregman projections (Benamou, 2015)."""
    center = cast(FloatArray, ot.bregman.barycenter(histograms.T, ground, entropy, warn=False))
    center = np.maximum(center, 0.0)
    return center / center.sum()


def line_distance(support: FloatArray, one: FloatArray, other: FloatArray) -> float:
    """``W₂²`` between two histograms (bins,) on one support (bins,) of the line; exact."""
    return float(cast(float, ot.emd2_1d(support, support, one, other, metric="sqeuclidean")))
