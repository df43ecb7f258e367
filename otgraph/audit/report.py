"""The audit as a value: everything that was measured, what it means, and whether the thresholds were met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otgraph.audit.changes import Changes, changes
from otgraph.audit.economy import BreakEven, Optimization
from otgraph.audit.fidelity import Fidelity
from otgraph.audit.generalization import Generalization
from otgraph.audit.html import save_html
from otgraph.audit.shifts import Shifts
from otgraph.audit.structure import Structure
from otgraph.files import check_kept
from otgraph.latency.environment import Environment
from otgraph.latency.protocol import Comparison

VERSION = 1


@dataclass(frozen=True)
class Artifact:
    """One of the two models: the path it was read from, what it consists of, and how it was run: the engine,
    its threads, the batch, the precision."""

    path: str
    structure: Structure
    run: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.path).name

    def to_json(self) -> dict[str, Any]:
        """The path and the structure's fields side by side."""
        return {"path": self.path, **self.structure.to_json(), "run": dict(self.run)}


@dataclass(frozen=True)
class Threshold:
    """A limit the user stated, the value held against it (on the careful side), and whether it is met."""

    name: str
    limit: float
    value: float
    met: bool
    text: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Audit:
    """B measured against A. ``samples_from`` names the data, ``created`` is UTC in ISO 8601.

    ``fitted_samples``: how many of the samples B was fitted on, None where nothing is known of that.
    ``generalization``: how B fares on the inputs it was fitted on, and on others, where B was made just now.
    ``shifts``: how it fares on inputs a little unlike these; None where none is continuous. ``constant``: how
    many channels of what was cut were constant on the calibration inputs, as B's file says; empty where not.
    """

    a: Artifact
    b: Artifact
    latency: Comparison
    fidelity: Fidelity
    environment: Environment
    optimization: Optimization | None
    break_even: BreakEven | None
    thresholds: tuple[Threshold, ...]
    samples_from: str
    created: str
    fitted_samples: int | None = None
    generalization: Generalization | None = None
    shifts: Shifts | None = None
    constant: str = ""

    @property
    def passed(self) -> bool:
        """All stated thresholds are met (true when none was stated)."""
        return all(threshold.met for threshold in self.thresholds)

    @property
    def changes(self) -> Changes:
        """The nodes that went and the new ones; none where one of the models does not list its own."""
        if self.a.structure.nodes is None or self.b.structure.nodes is None:
            return Changes(0, (), ())
        return changes(self.a.structure.listing, self.b.structure.listing)

    @property
    def verdict(self) -> str:
        """One sentence on speed."""
        return verdict(self.latency)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON by ``audit_schema()``; what is not finite becomes null."""
        return plain(
            {
                "version": VERSION,
                "created": self.created,
                "verdict": self.verdict,
                "passed": self.passed,
                "thresholds": [threshold.to_json() for threshold in self.thresholds],
                "a": self.a.to_json(),
                "b": self.b.to_json(),
                "changes": self.changes.to_json(),
                "latency": {
                    **self.latency.to_json(),
                    "speedup": self.latency.speedup,
                    "credible_gain": self.latency.credible_gain,
                },
                "fidelity": self.fidelity.to_json(),
                "optimization": None if self.optimization is None else vars(self.optimization),
                "break_even": None if self.break_even is None else vars(self.break_even),
                "environment": self.environment.to_json(),
                "generalization": None if self.generalization is None else self.generalization.to_json(),
                "shifts": None if self.shifts is None else self.shifts.to_json(),
                "data": {
                    "source": self.samples_from,
                    "samples": self.fidelity.samples,
                    "fitted_on": self.fitted_samples,
                    "constant_channels": self.constant,
                },
            }
        )

    def save_html(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write one self-contained HTML file; raises ``OutputError`` when ``path`` cannot be written, or is
        one of the models or the data, and not to ``overwrite``."""
        if not overwrite:
            check_kept(Path(path), map(Path, (self.a.path, self.b.path, self.samples_from)))
        save_html(self, Path(path))


def verdict(latency: Comparison) -> str:
    """Faster, slower, or not to be told apart; the interval in brackets is 95 %."""
    clock = "" if latency.clock == "wall" else f" ({latency.clock})"
    if latency.credible_gain:
        interval = f"[{1 / latency.high:.2f}, {1 / latency.low:.2f}]"
        return f"B is {latency.speedup:.2f}x faster {interval}{clock}"
    if latency.credible_loss:
        return f"B is {latency.ratio:.2f}x slower [{latency.low:.2f}, {latency.high:.2f}]{clock}"
    interval = f"[{latency.low:.2f}, {latency.high:.2f}]"
    return f"no credible gain: B takes {latency.ratio:.2f}x the time of A {interval}{clock}"


def speedup_threshold(latency: Comparison, wanted: float) -> Threshold:
    """Met when even the careful end of the interval, 1 / high, reaches ``wanted``."""
    value = 1 / latency.high
    met = value >= wanted
    text = f"speed-up of at least {value:.2f}x with 95 % confidence; {wanted:g}x was wanted"
    return Threshold("min_speedup", wanted, value, met, f"{text}: {_word(met)}")


def drift_threshold(fidelity: Fidelity, allowed: float) -> Threshold:
    """Met when ``fidelity.drift`` (KL for classifiers, else relative L2) is within ``allowed``."""
    met = fidelity.drift <= allowed
    text = f"{fidelity.drift_name} of {fidelity.drift:.4g}; {allowed:g} was allowed"
    return Threshold("max_drift", allowed, fidelity.drift, met, f"{text}: {_word(met)}")


def _word(met: object) -> str:
    return "met" if met else "missed"


def plain(value: Any) -> Any:
    """Mappings, lists and scalars as ``json`` takes them; NaN and infinity become ``None``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
