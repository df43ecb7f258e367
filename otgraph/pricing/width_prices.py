"""What cutting a dim does to the outputs, for every width at once.

A reader whose input x loses channels gets the best linear re-expression x̂ of what is left, so its edge
changes by δ = x̂ − x. Channels are nested, so factor the moment along their order, ``S = L Lᵀ``: with the
innovations ``z = L⁻¹ x`` (what each channel says beyond those before it) keeping the first k channels leaves
``x − x̂ = Σ_{j≥k} L_j z_j``, and the effect on the outputs is ``t_k = −Σ_{j≥k} (Lᵀ g)_j z_j``: suffix sums of
one product give all widths. One triangular product per probe, and one per batch for z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from otgraph.calibrate.output_gain import input_edge
from otgraph.calibrate.probing import Probing
from otgraph.calibrate.pullback import Edge
from otgraph.calibrate.readers import Reader
from otgraph.calibrate.slot import Slot
from otgraph.calibrate.width import Width
from otgraph.transport.cost import Reading, reexpression_noise

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Site:
    """The readers of one dim that take the same value in the same way. ``inverse`` and ``factor``: L⁻¹ and
    Lᵀ on channels in the curve's order; ``mean``: what is subtracted first."""

    dim: str
    slot: Slot
    order: torch.Tensor
    inverse: torch.Tensor
    factor: torch.Tensor
    mean: torch.Tensor | None
    edges: tuple[Edge, ...]


class WidthPricer:
    """An ``Observer`` of the edges of ``widths``: accumulates, per dim, t of every width.

    ``candidates``: the widths to price, by dim; full ones cost nothing and are left out.
    """

    def __init__(
        self, widths: Mapping[str, Width], candidates: Mapping[str, Sequence[int]], probing: Probing
    ) -> None:
        self._probing = probing
        self._wanted = {
            name: np.array([k for k in candidates[name] if k < width.size], np.int64)
            for name, width in widths.items()
        }
        self._sites = [site for name, width in widths.items() for site in _sites(name, width)]
        self._innovations: list[torch.Tensor | None] = []
        self._parts = 1
        self._found: dict[str, list[Samples]] = {name: [] for name in widths}

    @property
    def edges(self) -> dict[str, frozenset[Edge]]:
        """The edges of each dim."""
        found: dict[str, frozenset[Edge]] = {}
        for site in self._sites:
            found[site.dim] = found.get(site.dim, frozenset()) | set(site.edges)
        return found

    def begin(self, values: Mapping[Edge, torch.Tensor], samples: int) -> None:
        self._parts = self._probing.parts(samples)
        self._innovations = []
        for site in self._sites:
            value = next((values[edge] for edge in site.edges if edge in values), None)
            self._innovations.append(None if value is None else self._innovation(site, value))

    def _innovation(self, site: _Site, value: torch.Tensor) -> torch.Tensor:
        x = site.slot.view(value).index_select(0, site.order)
        if site.mean is not None:
            x = x - site.mean[:, None]
        return site.inverse @ x

    def probe(self, gradients: Mapping[Edge, torch.Tensor]) -> None:
        sums: dict[str, torch.Tensor] = {}
        for site, z in zip(self._sites, self._innovations, strict=True):
            arrived = [gradients[edge] for edge in site.edges if edge in gradients]
            if z is None or not arrived:
                continue
            gradient = arrived[0] if len(arrived) == 1 else torch.stack(arrived).sum(0)
            g = site.slot.view(gradient).index_select(0, site.order)
            each = per_unit((site.factor @ g) * z, len(site.slot.positions), self._parts)
            sums[site.dim] = sums[site.dim] + each if site.dim in sums else each
        for name, found in self._found.items():
            each = sums.get(name)
            if each is None:
                found.append(np.zeros((len(self._wanted[name]), self._parts)))
                continue
            left = each.double().flip(0).cumsum(0).flip(0).numpy()  # row k: the sum over j ≥ k
            found.append(-left[self._wanted[name]])

    def effects(self, name: str) -> dict[int, Samples]:
        """t of every candidate width of a dim, one number per probe and unit."""
        found = self._found[name]
        both = np.concatenate(found, axis=1) if found else np.zeros((len(self._wanted[name]), 0))
        return {int(k): both[row] for row, k in enumerate(self._wanted[name])}


def per_unit(values: torch.Tensor, replicas: int, parts: int) -> torch.Tensor:
    """(n, replicas · units · rest) → (n, units): summed over all but the channels and the units."""
    n = values.shape[0]
    return values.reshape(n, replicas, parts, -1).sum((1, 3))


def _sites(name: str, width: Width) -> list[_Site]:
    groups: dict[tuple[object, bool], list[tuple[Reader, Reading]]] = {}
    for reader, reading in zip(width.readers, width.readings, strict=True):
        groups.setdefault((reader.slot.key, reading.centered), []).append((reader, reading))
    return [_site(name, width, members) for members in groups.values()]


def _site(name: str, width: Width, members: Sequence[tuple[Reader, Reading]]) -> _Site:
    reader, reading = members[0]
    order = width.curve.order
    moment = reading.second_moment()
    noise = np.diag(reexpression_noise(reading, moment))
    lower = np.linalg.cholesky((moment + noise)[np.ix_(order, order)])
    inverse = np.linalg.inv(lower)
    mean = None
    if reading.centered and reading.mean is not None:
        mean = torch.from_numpy(np.asarray(reading.mean, np.float64)[order]).float()
    return _Site(
        name,
        reader.slot,
        torch.from_numpy(np.asarray(order, np.int64)),
        torch.from_numpy(inverse).float(),
        torch.from_numpy(np.ascontiguousarray(lower.T)).float(),
        mean,
        tuple(dict.fromkeys(input_edge(reader) for reader, _ in members)),
    )
