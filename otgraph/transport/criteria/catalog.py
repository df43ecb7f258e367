"""The table of selection criteria by name, each with its default options."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from otgraph.errors import UsageError
from otgraph.transport.criteria.barycenter import Barycenter
from otgraph.transport.criteria.cholesky import Cholesky
from otgraph.transport.criteria.criterion import Criterion
from otgraph.transport.criteria.energy import Energy
from otgraph.transport.criteria.magnitude import Magnitude
from otgraph.transport.criteria.random import Random
from otgraph.transport.criteria.rerouting import Rerouting
from otgraph.transport.criteria.wasserstein import Wasserstein

CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        "barycenter": Barycenter(),
        # With the few inputs of a calibration a larger ridge chooses better, judged on others
        # (tools/bench_width.py).
        "cholesky": Cholesky(ridge=0.1),
        "energy": Energy(),
        "magnitude": Magnitude(),
        "random": Random(),
        "rerouting": Rerouting(),
        "wasserstein": Wasserstein(),
    }
)


def criterion(name: str) -> Criterion:
    """The criterion called ``name``, with default options. Raises ``UsageError`` for an unknown name."""
    if name not in CRITERIA:
        raise UsageError(f"criterion {name!r}: unknown; choose one of {', '.join(CRITERIA)}")
    return CRITERIA[name]
