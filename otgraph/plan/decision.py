"""What a plan decides for one dim or one span, and what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from otgraph.graph.span import Collapse
from otgraph.transport.coupling import Coupling


@dataclass(frozen=True)
class DimDecision:
    """What is kept of one dim of ``size`` channels.

    ``kept``: ascending indices. ``target``: for each channel the kept one it is merged into, -1 where it is
    dropped; ``scales``: per reader the factor of each channel (see ``Coupling``). ``damage``: predicted
    relative L2 distance of the outputs when only this dim is cut, 0 where nothing was predicted. ``cost`` and
    ``bound``: in units of the readers' squared outputs, the second a certified lower bound on what any set of
    this many channels costs. ``constant``: how many of the channels never varied on the calibration inputs;
    None where that is not known.
    """

    name: str
    size: int
    kept: tuple[int, ...]
    target: tuple[int, ...]
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    damage: float = 0.0
    cost: float = 0.0
    bound: float = 0.0
    constant: int | None = None

    @staticmethod
    def of(name: str, coupling: Coupling, damage: float = 0.0, constant: int | None = None) -> DimDecision:
        """The decision that ``coupling`` stands for."""
        return DimDecision(
            name=name,
            size=coupling.size,
            kept=tuple(int(i) for i in coupling.kept),
            target=tuple(int(i) for i in coupling.target),
            scales={reader: tuple(float(v) for v in values) for reader, values in coupling.scales.items()},
            damage=float(damage),
            cost=float(coupling.cost),
            bound=float(coupling.bound),
            constant=constant,
        )

    def coupling(self) -> Coupling:
        """The decision in the form that passes use."""
        return Coupling(
            kept=np.array(self.kept, np.int64),
            target=np.array(self.target, np.int64),
            cost=self.cost,
            bound=self.bound,
            scales={reader: np.array(values, np.float64) for reader, values in self.scales.items()},
        )


@dataclass(frozen=True)
class DepthAction:
    """A span and the map that takes its place.

    ``damage``: predicted for this collapse alone, with the repair that follows it. ``old_ms`` and ``new_ms``:
    milliseconds of the nodes that go and of those that come, as the latency table has them; None where
    nothing was measured.
    """

    collapse: Collapse
    damage: float = 0.0
    old_ms: float | None = None
    new_ms: float | None = None


@dataclass(frozen=True)
class Predictions:
    """What the plan expects, as ratios to the original; None where nothing was predicted.

    ``bound`` is the solver's proven lower bound on its objective (the damage, or for a damage limit the time
    ratio), ``gap`` how far the objective may be from the best one, as a fraction of it. ``uncertainty``: a
    factor; trials of single candidates are within it of what the model of damages says of them without them,
    two times in three (the damage of the whole was tried, and is not uncertain in this way).
    """

    time_ratio: float | None = None
    damage: float | None = None
    macs_ratio: float | None = None
    bound: float | None = None
    gap: float | None = None
    uncertainty: float | None = None
