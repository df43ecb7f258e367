"""How much a model loses at each latency, and what of that is owed to the selection and what to the repair.

    python tools/bench_curve.py data/ppocr_rec/ppocr_rec.onnx --calib data/ppocr_rec/calib.npz \\
        --data data/ppocr_rec/test.npz --metric tools.ppocr_metric:character_accuracy \\
        --latency 0.95x,0.9x,0.85x

For each budget ``otgraph optimize`` runs in a process of its own: the ratio to the original's latency is the
audit's, with its 95 % interval. At the widths it decided on, three others are made: its own selection without
repair, and the channels of largest magnitude without and with the same repair. Each is held against the
original with ONNX Runtime on all of --data: agreement of the top class, KL divergence and relative L2 of the
outputs, accuracy where there are labels, and --metric. CPU and wall seconds are those of plan and repair; the
peak of the resident memory has the audit in it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

from bench_output import peak_megabytes, save, show

import otgraph.api as otg
from otgraph.audit.fidelity import Fidelity, fidelity
from otgraph.audit.metric import Metric, load_metric
from otgraph.data import Data
from otgraph.engines.catalogue import get_engine
from otgraph.graph.graph import Graph
from otgraph.optimize.settings import Settings
from otgraph.optimize.study import study
from otgraph.plan.decision import DimDecision
from otgraph.plan.plan import Plan
from otgraph.rewrite.catalogue import load_pipelines

COLUMNS = {
    "budget": "",
    "channels": "",
    "repair": "",
    "ratio": ".3f",
    "interval": "",
    "MACs": ".3f",
    "agreement": ".3f",
    "KL": ".4f",
    "relative L2": ".4f",
    "accuracy": ".3f",
    "metric": ".4f",
    "CPU s": ".0f",
    "wall s": ".0f",
    "peak MB": ".0f",
}


@dataclass(frozen=True)
class Task:
    """One budget: what a worker process is told."""

    model: str
    calibration: str
    data: str
    latency: str
    samples: int | None
    metric: str | None
    criterion: str | None
    dims: str
    threads: int
    seed: int


def main() -> None:
    options = _arguments()
    names = ("model", "calibration", "data", "samples", "metric", "criterion", "dims", "threads", "seed")
    chosen = {name: getattr(options, name) for name in names}
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    for latency in options.latency.split(","):
        with ProcessPoolExecutor(
            1, mp_context=context
        ) as pool:  # a fresh process: its peak memory is its own
            made = pool.submit(run_budget, Task(latency=latency, **chosen)).result()
        rows += made if not rows else made[1:]
        save(options.json, {"model": options.model, "rows": rows})  # a stopped run keeps what it has
    show(options.model, rows, {name: form for name, form in COLUMNS.items() if _known(name, rows)})


def run_budget(task: Task) -> list[dict[str, Any]]:
    """The original's figures, those of ``optimize``, and those of the other networks at the same widths."""
    graph, data = otg.load(task.model), otg.load_data(task.data)
    calibration = otg.load_data(task.calibration)
    if task.samples is not None:
        calibration = calibration.take(task.samples, seed=task.seed)
    choices = {"criterion": task.criterion, "dims": task.dims, "threads": task.threads, "seed": task.seed}
    started = time.perf_counter()
    made = otg.optimize(
        graph,
        calibration,
        latency=task.latency,
        evaluation=data,
        metric=task.metric,
        progress=lambda message: _say(f"{task.latency}: {message}"),
        **choices,
    )
    audit = made.audit
    row = {
        "budget": task.latency,
        "channels": made.plan.criterion,
        "repair": "yes",
        "ratio": audit.latency.ratio,
        "interval": f"[{audit.latency.low:.3f}, {audit.latency.high:.3f}]",
        "low": audit.latency.low,
        "high": audit.latency.high,
        "MACs": made.plan.predictions.macs_ratio,
        **figures(audit.fidelity, side="b"),
        "CPU s": made.cost.cpu_seconds,
        "wall s": made.cost.wall_seconds,
        "wall s with audit": time.perf_counter() - started,
        "peak MB": peak_megabytes(),
        "missed": made.missed,
        "widths": {dim.name: [len(dim.kept), dim.size] for dim in made.plan.dims},
    }
    original = {"budget": "1x", "channels": "all", "repair": "-", **figures(audit.fidelity, side="a")}
    judge = Judge(graph, data, task.metric)
    others = [{"budget": task.latency, **other} for other in _others(graph, calibration, made, judge)]
    return [original, row, *others]


def _others(
    graph: Graph, calibration: Data, made: otg.Optimized, judge: Judge
) -> Iterator[Mapping[str, Any]]:
    """The plan without its repairs, then magnitude at the plan's widths, without and with them."""
    bare = load_pipelines()["trial"]
    magnitude = at_same_widths(graph, calibration, made.plan, "magnitude")
    for repair, plan in (
        ("no", replace(made.plan, pipeline=bare)),
        ("no", replace(magnitude, pipeline=bare)),
        ("yes", magnitude),
    ):
        _say(f"{made.plan.budget}: {plan.criterion}, repair: {repair}")
        found = judge(plan.apply(graph, calibration))
        yield {"channels": plan.criterion, "repair": repair, **figures(found, side="b")}


def at_same_widths(graph: Graph, calibration: Data, plan: Plan, criterion: str) -> Plan:
    """``plan`` with as many channels of each dim, but those that ``criterion`` chooses."""
    widths = {dim.name: len(dim.kept) for dim in plan.dims}
    settings = Settings(plan.budget, criterion=criterion, include=tuple(map(escape, widths)), seed=plan.seed)
    couplings = study(graph, calibration, settings).couplings(widths)
    decided = tuple(DimDecision.of(name, coupling) for name, coupling in couplings.items())
    return replace(plan, dims=decided, criterion=criterion)


class Judge:
    """Fidelity of a graph to the original on all of ``data``, both in ONNX Runtime."""

    def __init__(self, original: Graph, data: Data, metric: str | None) -> None:
        self._metric: Metric | None = None if metric is None else load_metric(metric)
        self._name = metric or ""
        self._engine = get_engine("onnxruntime")
        self._folder = tempfile.TemporaryDirectory(prefix="otgraph-")
        self._original = self._session(original)
        self._data = data.named([spec.name for spec in self._original.inputs])

    def __call__(self, graph: Graph) -> Fidelity:
        return fidelity(self._original, self._session(graph), self._data, self._metric, self._name)

    def _session(self, graph: Graph) -> Any:
        path = Path(self._folder.name) / "model.onnx"
        graph.save(path)
        return self._engine.load(path)


def figures(found: Fidelity, *, side: str) -> dict[str, float | None]:
    """What is known of one side of a comparison; of the original (``a``) only accuracy and metric."""
    row: dict[str, float | None] = {}
    classes = found.classification
    if side == "b":
        row["relative L2"] = max(
            (o.relative_l2 for o in found.outputs if o.relative_l2 is not None), default=None
        )
        row["KL"] = None if classes is None else classes.kl
        row["agreement"] = None if classes is None else classes.top1_agreement
    row["accuracy"] = None if classes is None else getattr(classes, f"accuracy_{side}")
    row["metric"] = None if found.metric is None else getattr(found.metric, side)
    return row


def _known(name: str, rows: list[dict[str, Any]]) -> bool:
    return any(row.get(name) is not None for row in rows)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--calib", dest="calibration", metavar="DATA", required=True, help="unlabelled inputs"
    )
    parser.add_argument("--data", metavar="DATA", required=True, help="inputs that nothing was fitted on")
    parser.add_argument("--metric", metavar="MODULE:CALLABLE", help="found from the current folder")
    parser.add_argument(
        "--latency", default="0.95x,0.9x,0.85x", metavar="BUDGETS", help="separated by commas"
    )
    parser.add_argument("--samples", type=int, metavar="N", help="calibration inputs to use; all by default")
    parser.add_argument("--criterion", help="otgraph's default by default")
    parser.add_argument("--dims", choices=["all", "inner"], default="all")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
