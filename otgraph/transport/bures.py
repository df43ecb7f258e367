"""Optimal transport between Gaussians: the Bures distance, its map, and the lower bound it gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otgraph.transport.cost import FloatArray
from otgraph.transport.rounding import GROWTH


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A mean (n,) and a covariance (n, n), float64."""

    mean: FloatArray
    covariance: FloatArray

    @staticmethod
    def of(samples: FloatArray) -> Gaussian:
        """The moments of samples (m, n), each of mass 1/m."""
        mean = samples.mean(0)
        centered = samples - mean
        return Gaussian(mean, centered.T @ centered / len(samples))


def gelbrich(one: Gaussian, other: Gaussian) -> float:
    """``|m1 − m2|² + tr(S1 + S2 − 2 (S1^½ S2 S1^½)^½)``, the squared W₂ of the two Gaussians.

    For *any* two distributions with these moments it is at most their W₂² (Gelbrich 1990), hence at most
    E|x − y|² of any pairing, empirical ones included: among the couplings with given covariances the cross
    term tr Cov(x, y) is largest at tr (S1^½ S2 S1^½)^½, because [S1 C; Cᵀ S2] must be positive.
    """
    root = _root(one.covariance)
    # tr (S1^½ S2 S1^½)^½ is the nuclear norm of S1^½ S2^½, which loses no digits to squaring.
    cross = float(np.linalg.svd(root @ _root(other.covariance), compute_uv=False).sum())
    spread = float(np.trace(one.covariance) + np.trace(other.covariance))
    shift = one.mean - other.mean
    return max(0.0, float(shift @ shift) + spread - 2 * cross)


def gelbrich_of(x: FloatArray, y: FloatArray) -> float:
    """``gelbrich`` of the moments of two samples (m, n) of equal size.

    With centered rows X and Y the cross term is the nuclear norm of X Yᵀ / m, since S1 = XᵀX / m and
    S2 = YᵀY / m: a matrix of m rows in the place of one of n columns, where those are fewer.
    """
    if len(x) >= x.shape[1]:
        return gelbrich(Gaussian.of(x), Gaussian.of(y))
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    cross = float(np.linalg.svd(x @ y.T, compute_uv=False).sum())
    spread = float(np.square(x).sum() + np.square(y).sum())
    shift = mean_x - mean_y
    return max(0.0, float(shift @ shift) + (spread - 2 * cross) / len(x))


def gaussian_transport(source: Gaussian, target: Gaussian, floor: float = 1e-6) -> FloatArray:
    """The matrix A, symmetric and positive, with x → m2 + A (x − m1) the optimal map between the Gaussians.

    A = S1^-½ (S1^½ S2 S1^½)^½ S1^-½. Directions in which the source varies less than ``floor`` times its
    largest variance cannot be scaled up to the target's: there A is the identity. In none does A exceed
    ``GROWTH`` times the ratio of the largest deviations, or ``GROWTH`` where the target's is the smaller one.
    """
    values, vectors = np.linalg.eigh(source.covariance)
    alive = values > floor * max(float(values[-1]), 1e-300)
    basis, scale = vectors[:, alive], np.sqrt(values[alive])
    inner = (basis * scale).T @ target.covariance @ (basis * scale)
    middle = _root(inner) / scale[:, None] / scale[None, :]
    largest = np.linalg.eigvalsh(target.covariance)[-1] / max(float(values[-1]), 1e-300)
    middle = _clipped(middle, GROWTH * float(np.sqrt(max(largest, 1.0))))
    return basis @ middle @ basis.T + vectors[:, ~alive] @ vectors[:, ~alive].T


def rank_floor(target: FloatArray, rank: int) -> float:
    """Σ of all but the ``rank`` largest eigenvalues of the covariance ``target`` (n, n).

    The least that any affine map of ``rank`` numbers leaves of E|y − T(x)|², however x is distributed: T(x)
    lies in an affine subspace of that dimension, and none is nearer to y on average than the one through
    its mean and principal directions (Eckart and Young 1936).
    """
    values = np.linalg.eigvalsh(target)
    return float(np.maximum(values[: max(0, len(values) - rank)], 0.0).sum())


def rank_floor_of(samples: FloatArray, rank: int) -> float:
    """``rank_floor`` of the covariance of samples (m, n), from their Gram matrix where rows are fewer."""
    centered = samples - samples.mean(0)
    m, n = centered.shape
    gram = centered @ centered.T if m < n else centered.T @ centered
    return rank_floor(gram / m, rank)


def _clipped(matrix: FloatArray, limit: float) -> FloatArray:
    """A symmetric matrix with no eigenvalue above ``limit``; as it is where none was."""
    if not len(matrix) or float(np.linalg.norm(matrix)) <= limit:
        return matrix
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.minimum(values, limit)) @ vectors.T


def _root(matrix: FloatArray) -> FloatArray:
    """The positive square root; negative eigenvalues, which only rounding makes, count zero."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
