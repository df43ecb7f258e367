"""The choices of one optimization, in one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from otgraph.calibrate.width import DEFAULT_CRITERION
from otgraph.errors import UsageError
from otgraph.graph.axes.axis_map import AxisMap, Dim
from otgraph.graph.axes.name_pattern import allowed
from otgraph.plan.budget import Budget
from otgraph.pricing.timing import TimingOptions
from otgraph.seed import check_seed
from otgraph.task import Reading, Task

Moves = Literal["both", "width", "depth"]
"""What a plan may do: cut widths, collapse spans, or both."""


def quiet(message: object) -> None:
    """Nothing is shown."""


@dataclass(frozen=True)
class Settings:
    """``budget``: what is asked for. ``dims``: ``inner`` leaves out dims that run through a residual
    addition. ``moves``: cut widths, collapse spans, or both. ``include``, ``exclude``: patterns of dim names
    (``*`` and ``?``). ``multiple``: widths the engine likes (8 on the measured CPUs). ``normalized``: also
    cut dims whose cut changes the statistics of a normalization. ``held_out``: the share of the calibration
    inputs that nothing is fitted on. ``rounds``: how often the measured time may correct the plan. ``cache``:
    a folder that keeps measurements, so that an interrupted run goes on where it was. ``corrections``: how
    often damages may be corrected by trials of the whole, ``trial_seconds``: CPU seconds that a round of
    trials may take. ``tolerance``: how near the measured ratio has to come to a latency budget. ``task``: how
    the outputs are to be read, and ``reading``, how they are, once that is decided (``task.decided``), which
    ``on_reading`` is told. ``verdict``: the share of the calibration inputs that is kept from everything, to
    judge the result by; 0 keeps none, and the figures flatter. ``refit``: hand over the plan refitted on all
    inputs, once the figures are taken of the network that was fitted without those."""

    budget: Budget
    dims: Literal["all", "inner"] = "all"
    moves: Moves = "both"
    task: Task = "auto"
    reading: Reading | None = None
    engine: str = "onnxruntime"
    threads: int = 1
    criterion: str = DEFAULT_CRITERION
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    multiple: int = 8
    normalized: bool = False
    held_out: float = 0.25
    verdict: float = 0.2
    refit: bool = False
    seed: int = 0
    batch_size: int = 32
    rounds: int = 5
    tolerance: float = 0.02
    form: Literal["values", "scores"] = "values"
    probes: int = 3
    corrections: int = 1
    trial_seconds: float = 60.0
    candidates: int = 16
    pipeline: str = "apply"
    cache: Path | None = None
    progress: Callable[[str], None] = quiet
    on_reading: Callable[[Reading], None] = quiet

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.moves not in get_args(Moves):
            raise UsageError(
                f"moves {self.moves!r}: is none of {', '.join(get_args(Moves))}; give one of them"
            )
        if self.moves == "depth" and self.budget.kind == "keep":
            raise UsageError(
                "moves 'depth': a fraction to keep says nothing of layers; give a latency, layers or a"
                " max-drop"
            )
        if self.moves == "width" and self.budget.kind == "layers":
            raise UsageError("moves 'width': narrower layers are not fewer; give both or depth, or a latency")

        if not 0 <= self.verdict <= 0.5:
            raise UsageError(
                f"verdict {self.verdict:g}: is the share of inputs that is kept to judge by; give 0 to 0.5"
            )

    @property
    def timing(self) -> TimingOptions:
        """How kernels are timed."""
        return TimingOptions(self.threads, self.multiple, self.cache, self.progress)

    def selects(self, dim: Dim) -> bool:
        """Whether the rules let this dim be cut."""
        if not dim.prunable or (dim.normalized and not self.normalized):
            return False
        if self.dims == "inner" and dim.residual:
            return False
        return allowed(dim.name, self.include, self.exclude)

    def selected(self, axes: AxisMap) -> tuple[Dim, ...]:
        """The dims to decide on.

        Raises:
            UsageError: there are none; says what is blocked or left out.
        """
        found = tuple(dim for dim in axes.prunable() if self.selects(dim))
        if not found:
            names = ", ".join(dim.name for dim in axes.prunable()[:5])
            if not names:
                raise UsageError(f"no dim may be cut: {_why_none(axes)}; see inspect --blockers")
            raise UsageError(
                f"no dim may be cut: of those that could ({names}) the rules leave none; loosen --include,"
                " --exclude or --dims, and see inspect --blockers"
            )
        return found


def _why_none(axes: AxisMap) -> str:
    reasons = dict.fromkeys(dim.blocked for dim in axes.dims.values() if dim.blocked and dim.size > 1)
    if not reasons:
        return "no weight has an axis that could be followed"
    return f"all are blocked by {'; '.join(list(reasons)[:3])}"
