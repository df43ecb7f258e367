"""``audit``: two ONNX files and data in, everything that can be said about B against A out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from otgraph.audit.economy import Optimization, break_even
from otgraph.audit.fidelity import Fidelity, fidelity, look
from otgraph.audit.metric import load_metric
from otgraph.audit.report import Artifact, Audit, drift_threshold, speedup_threshold
from otgraph.audit.shifts import shifts
from otgraph.audit.structure import structure
from otgraph.data import Data
from otgraph.data_digest import CONSTANT, METADATA, Sketch
from otgraph.data_model import ModelData
from otgraph.engines.catalog import check_asked, engine_for
from otgraph.engines.engine import Session
from otgraph.engines.feeds import first_feeds
from otgraph.errors import ModelError
from otgraph.latency.environment import environment
from otgraph.latency.protocol import Contestant, contest
from otgraph.seed import check_seed
from otgraph.task import OutputReading, check_task


def audit(
    a: Path,
    b: Path,
    data: Data,
    *,
    engine: str | None = None,
    engine_b: str | None = None,
    cuda_graph: bool = False,
    threads: int = 1,
    min_speedup: float | None = None,
    max_drift: float | None = None,
    metric: str | None = None,
    task: str | OutputReading = "auto",
    on_reading: Callable[[OutputReading], None] | None = None,
    optimization: Mapping[str, Any] | None = None,
    fitted_on: Sketch | None = None,
    seed: int = 0,
    repeats: int = 3,
) -> Audit:
    """Compare ``b`` against ``a``: fidelity over all of ``data``, latency with its first sample.

    Either is an ONNX file, run by ``engine`` (ONNX Runtime where None; B by ``engine_b`` where that is
    given), or a file that an engine wrote, which that engine runs.

    ``min_speedup`` is held against the careful end of the interval; ``max_drift`` against the mean KL
    divergence for classifiers and the worst output's relative L2 otherwise. ``metric`` is
    ``package.module:callable``. ``task``: read the output as class scores (``classifier``), as values
    (``regression``), or by its look (``auto``), or as it was found to be read before. ``on_reading`` is told,
    before anything is measured. ``optimization`` says what making B cost (``cpu_seconds``, ``wall_seconds``,
    ``source``). ``fitted_on``: the samples that B was fitted on (a plan knows them), where B's own file does
    not say: the audit tells how many of ``data`` they are. A missed threshold does not raise: see
    ``Audit.passed``.

    Raises ``ModelError`` (a file cannot be run, or the two do not match), ``DataError``, ``UsageError``,
    ``EngineMissing``.
    """
    check_seed(seed)
    kind = task if isinstance(task, OutputReading) else check_task(task)
    runner_a = engine_for(a, engine, cuda_graph=cuda_graph)
    runner_b = engine_for(b, engine_b or engine, cuda_graph=cuda_graph)
    check_asked(engine, [runner_a, runner_b], [a, b])
    check_asked(engine_b, [runner_b], [b])
    cost = None if optimization is None else Optimization.from_json(optimization)
    metric_function = None if metric is None else load_metric(metric)
    session_a, session_b = runner_a.load(a, threads=threads), runner_b.load(b, threads=threads)
    _check_inputs(a, b, session_a, session_b)
    data = ModelData.of(ModelData.of(data, session_a.inputs), session_b.inputs)
    specs = (*session_a.inputs, *session_b.inputs)
    reading = kind if isinstance(kind, OutputReading) else look(session_a, data, kind, specs)
    if on_reading is not None:
        on_reading(reading)
    drift = fidelity(session_a, session_b, data, metric_function, metric or "", reading, seed)
    moved = shifts(session_a, session_b, data, reading, seed)
    feeds = first_feeds(data, specs)
    runs = [
        {"engine": each.name, **session.describe()}
        for each, session in ((runner_a, session_a), (runner_b, session_b))
    ]
    del session_a, session_b  # latency is measured with fresh sessions, alone in memory
    pair = (Contestant(runner_a, a, feeds), Contestant(runner_b, b, feeds))
    latency = contest(pair, threads=threads, seed=seed, repeats=repeats).comparisons[0]
    thresholds = [] if min_speedup is None else [speedup_threshold(latency, min_speedup)]
    thresholds += [] if max_drift is None else [drift_threshold(drift, max_drift)]
    of_b = structure(b, feeds)
    sketch = fitted_on or Sketch.parse(of_b.metadata.get(METADATA, ""))
    return Audit(
        a=Artifact(str(a), structure(a, feeds), runs[0]),
        b=Artifact(str(b), of_b, runs[1]),
        latency=latency,
        fidelity=drift,
        environment=environment(runner_a.describe(), runner_b.describe()),
        optimization=cost,
        break_even=None if cost is None else break_even(cost, latency),
        thresholds=tuple(thresholds),
        samples_from=data.source,
        fitted_samples=None if sketch is None else sketch.seen(data),
        shifts=moved,
        constant=of_b.metadata.get(CONSTANT, ""),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def compare_outputs(
    a: Path,
    b: Path,
    data: ModelData,
    reading: OutputReading | None,
    *,
    engine: str,
    threads: int = 1,
    metric: str | None = None,
    seed: int = 0,
) -> Fidelity:
    """The fidelity of ``b`` to ``a`` on ``data``; nothing is timed.

    Raises as ``audit`` does.
    """
    metric_function = None if metric is None else load_metric(metric)
    session_a, session_b = (engine_for(path, engine).load(path, threads=threads) for path in (a, b))
    return fidelity(session_a, session_b, data, metric_function, metric or "", reading, seed)


def _check_inputs(a: Path, b: Path, session_a: Session, session_b: Session) -> None:
    """Both models must be fed the same arrays, in batches of the same size."""
    text_a = sorted(f"{spec.name}: {spec.dtype}" for spec in session_a.inputs)
    text_b = sorted(f"{spec.name}: {spec.dtype}" for spec in session_b.inputs)
    if text_a != text_b:
        what = f"{b}: has inputs {', '.join(text_b)}, {a} has {', '.join(text_a)}"
        raise ModelError(f"{what}; compare models of the same inputs")
    if not text_a:
        raise ModelError(f"{a}: has no inputs; export it with those that it is to be fed")
