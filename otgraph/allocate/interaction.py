"""``Interaction``: what candidates do to each other's damage, as vectors whose sum's square counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

Key = tuple[str, int] | str
"""A candidate: a dim at a width, or an option by its name."""


@dataclass(frozen=True, eq=False)
class Interaction:
    """The effect of each candidate on the outputs, sample by sample: ``vectors``, of shape (samples,), scaled
    so that the square of a candidate's vector is the damage that it does alone, as far as that is an effect
    that others can add to or undo. Candidates without a vector do their damage whatever else is chosen.

    Candidates ``c`` with damages ``d_c`` and vectors ``v_c`` do together

        ``Σ d_c + weight · (|Σ v_c|² − Σ |v_c|²)``

    that is, with ``weight`` 0 the sum of what each does alone, with 1 what the sum of their effects does, and
    in between as much of the products ``v_c · v_c'`` as is found to be true (the first-order effects of a cut
    are exact only for small ones, and a repair undoes some of what they have in common).
    """

    vectors: Mapping[Key, FloatArray]
    weight: float

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of an interaction is {self.weight:g}; it must be from 0 to 1")
        sizes = {vector.shape for vector in self.vectors.values()}
        if any(len(size) != 1 for size in sizes) or len(sizes) > 1:
            raise ValueError(f"the vectors of an interaction must have one length, not {sorted(sizes)}")
        for key, vector in self.vectors.items():
            if not np.isfinite(vector).all():
                raise ValueError(f"{title(key)}: its vector is not finite")

    @property
    def samples(self) -> int:
        """The length of the vectors."""
        return next((len(vector) for vector in self.vectors.values()), 0)

    def together(self, keys: Iterable[Key]) -> float:
        """``weight · (|Σ v|² − Σ |v|²)``: the damage that ``keys`` do beyond what each does alone."""
        vectors = [self.vectors[key].astype(np.float64) for key in keys if key in self.vectors]
        if len(vectors) < 2:
            return 0.0
        stack = np.stack(vectors)
        return self.weight * float(np.square(stack.sum(0)).sum() - np.square(stack).sum())

    def scaled(self, damages: Mapping[Key, float]) -> Interaction:
        """With the square of every vector that is not zero made the candidate's entry in ``damages``, where
        it has one."""
        vectors: dict[Key, FloatArray] = {}
        for key, vector in self.vectors.items():
            own = float(vector @ vector)
            vectors[key] = vector * math.sqrt(damages[key] / own) if key in damages and own > 0 else vector
        return replace(self, vectors=vectors)


class Effects:
    """The vectors of a problem's candidates as arrays, zero where there is none.

    ``dims``: of shape (dims, levels, samples), the levels padded to the most that a dim has; ``options``:
    (options, samples); ``dim_squares`` and ``option_squares``: ``|v|²`` of each.
    """

    def __init__(
        self,
        interaction: Interaction,
        widths: Sequence[tuple[str, tuple[int, ...]]],
        options: Sequence[str],
    ) -> None:
        most, vectors = max((len(each) for _, each in widths), default=1), interaction.vectors
        self.weight = interaction.weight
        self.dims = np.zeros((len(widths), most, interaction.samples))
        for row, (name, each) in enumerate(widths):
            for level, width in enumerate(each):
                if (name, width) in vectors:
                    self.dims[row, level] = vectors[name, width]
        self.options = np.zeros((len(options), interaction.samples))
        for row, name in enumerate(options):
            if name in vectors:
                self.options[row] = vectors[name]
        self.dim_squares = np.square(self.dims).sum(2)
        self.option_squares = np.square(self.options).sum(1)

    @cached_property
    def gram(self) -> FloatArray:
        """The products of the dims' vectors with each other, shape (dims · levels, dims · levels)."""
        flat = self.dims.reshape(-1, self.dims.shape[2])
        return flat @ flat.T


def title(key: Key) -> str:
    """A candidate in words."""
    return key if isinstance(key, str) else f"{key[0]} at {key[1]}"
