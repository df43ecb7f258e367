"""Data bound to a model: named as its inputs, checked against them once, and trusted from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from otgraph.data import Data
from otgraph.data_check import TensorSpec, check_data
from otgraph.data_convert import convert_data


@dataclass(frozen=True)
class ModelData(Data):
    """Inputs that a model takes as they are: every chunk holds a usable array for each of ``specs``.

    ``of`` makes one. What is handed a ``ModelData`` neither names nor looks through the arrays again, and a
    part of one (``take``, ``split``, ``halves``) is one too. Arrays that no input asks for stay with it,
    unused.
    """

    specs: tuple[TensorSpec, ...] = ()

    @staticmethod
    def of(data: Data, specs: Sequence[TensorSpec]) -> ModelData:
        """``data`` bound to a model with these inputs; as it is where it is bound to such a one already.
        Arrays of another type are converted where no value is lost (see ``convert_data``).

        Raises:
            DataError: an array is missing, empty, of another kind or shape, or holds NaN, or what the wanted
                type cannot hold.
        """
        if isinstance(data, ModelData) and all(map(data.holds, specs)):
            return data
        named = convert_data(data.named([spec.name for spec in specs]), specs)
        check_data(named, specs)
        return ModelData(named.chunks, named.source, tuple(specs))

    def holds(self, wanted: TensorSpec) -> bool:
        """Whether arrays that were checked against ``specs`` suit an input ``wanted`` too.

        The first axis counts samples and is never held against a model; another is as good where it is fixed
        alike, or where ``wanted`` leaves it free.
        """
        return any(
            spec.name == wanted.name
            and spec.dtype == wanted.dtype
            and len(spec.shape) == len(wanted.shape)
            and all(
                isinstance(b, str) or a == b for a, b in zip(spec.shape[1:], wanted.shape[1:], strict=True)
            )
            for spec in self.specs
        )
