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
from otgraph.task import OutputReading, Task

Moves = Literal["both", "width", "depth"]
"""What a plan may do: cut widths, collapse spans, or both."""


def quiet(message: object) -> None:
    """Nothing is shown."""


@dataclass(frozen=True)
class Settings:
    """What one optimization is asked for, and how it may go about it."""

    budget: Budget
    """What is asked for: a latency, a number of layers, a limit on the damage, or a fraction to keep."""
    dims: Literal["all", "inner"] = "all"
    """Which dims may shrink: ``inner`` leaves out those that run through a residual addition."""
    moves: Moves = "both"
    """What a plan may do: cut widths, collapse spans, or both."""
    task: Task = "auto"
    """How the outputs are to be read: as class scores, as values, or by their look."""
    reading: OutputReading | None = None
    """How they are read, once that is decided (``optimize.task.decided``); not for callers to give."""
    engine: str = "onnxruntime"
    """Where the model will run; times are measured there."""
    threads: int = 1
    """Threads of that engine."""
    criterion: str = DEFAULT_CRITERION
    """How the cost of removing a channel is estimated (``otgraph passes annotate-width``)."""
    include: tuple[str, ...] = ()
    """Only dims whose names match one of these patterns (``*`` and ``?``) are cut; all where it is empty."""
    exclude: tuple[str, ...] = ()
    """Dims whose names match one of these patterns are not cut."""
    multiple: int = 8
    """Widths are multiples of this, which engines like (8 on the measured CPUs)."""
    normalized: bool = False
    """Also cut dims whose cut changes the statistics of a normalization."""
    held_out: float = 0.25
    """The share of the fitting inputs that trials are judged on."""
    verdict: float = 0.2
    """The share of all inputs that is kept from everything, to judge the result by; 0 keeps none."""
    refit: bool = False
    """Hand over the plan refitted on all inputs, once the figures are taken without some."""
    seed: int = 0
    """Of every random choice."""
    batch_size: int = 32
    """Inputs of one forward pass."""
    rounds: int = 5
    """How often the measured time may correct the plan."""
    tolerance: float = 0.02
    """How near the measured ratio has to come to a latency budget, relative to it."""
    form: Literal["values", "scores"] = "values"
    """The metric that prices are taken in: the outputs' values, or the classes' scores (softmax Fisher)."""
    probes: int = 3
    """Directions at the outputs that are pulled back for each input."""
    corrections: int = 1
    """How often damages may be corrected by trials of the whole."""
    trial_seconds: float = 60.0
    """CPU seconds that a round of trials may take."""
    candidates: int = 16
    """Widths that are priced for each dim, at most."""
    pipeline: str = "apply"
    """The passes, or the named pipeline, that carry the plan out."""
    cache: Path | None = None
    """A folder that keeps measurements, so that an interrupted run goes on where it was; None keeps none."""
    progress: Callable[[str], None] = quiet
    """Is told what is being done."""
    on_reading: Callable[[OutputReading], None] = quiet
    """Is told how the outputs are read, before any work rests on it."""

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
