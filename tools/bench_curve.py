"""How much a model loses at each latency, and what of that is owed to the selection and what to the repair.

    python tools/bench_curve.py data/ppocr_rec/ppocr_rec.onnx --calib data/ppocr_rec/calib.npz \\
        --data data/ppocr_rec/test.npz --metric tools.ppocr_metric:character_accuracy \\
        --latency 0.95x,0.9x,0.85x

For each budget, and each of --moves (cut widths, collapse spans, or both), ``otgraph optimize`` runs in a
process of its own: the ratio to the original's latency is the audit's, with its 95 % interval. At the widths
and with the collapses it decided on, three others are made: its own selection without repair, and, where
channels were cut, those of largest magnitude without and with the same repair. Each is held against the
original with ONNX Runtime on all of --data: agreement of the top class, KL divergence and relative L2 of the
outputs, accuracy where there are labels, and --metric. Layers are the products on the longest path, before
and after. CPU and wall seconds are those of plan and repair; the peak of the resident memory has the audit in
it. The second table has the collapses, with what was predicted of each alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from glob import escape
from itertools import product
from pathlib import Path
from typing import Any, get_args

from bench_judge import Judge, figures
from bench_output import peak_megabytes, save, show

import otgraph.api as otg
from otgraph.audit.report import Artifact
from otgraph.data import Data
from otgraph.errors import UsageError
from otgraph.graph.graph import Graph
from otgraph.optimize.settings import Moves, Settings
from otgraph.optimize.study import study
from otgraph.plan.decision import DepthAction, DimDecision
from otgraph.plan.plan import Plan
from otgraph.rewrite.collapse import describe
from otgraph.rewrite.pipeline import parse_pipeline

WHOLE = "1x"
"""The budget of the original's row."""

COLUMNS = {
    "budget": "",
    "moves": "",
    "channels": "",
    "repair": "",
    "ratio": ".3f",
    "interval": "",
    "MACs": ".3f",
    "layers": "",
    "agreement": ".3f",
    "KL": ".4f",
    "relative L2": ".4f",
    "accuracy": ".3f",
    "metric": ".4f",
    "CPU s": ".0f",
    "wall s": ".0f",
    "peak MB": ".0f",
}
COLLAPSES = {
    "budget": "",
    "moves": "",
    "span": "",
    "becomes": "",
    "nodes": "d",
    "L2 alone": ".4f",
    "ms": ".4f",
    "ms after": ".4f",
}


@dataclass(frozen=True)
class Task:
    """One budget and one kind of moves: what a worker process is told."""

    model: str
    calibration: str
    data: str
    latency: str
    moves: Moves
    samples: int | None
    metric: str | None
    criterion: str | None
    dims: str
    threads: int
    seed: int
    cache: Path | None


def main() -> None:
    options = _arguments()
    names = ("model", "calibration", "data", "samples", "metric", "criterion", "dims", "threads", "seed")
    chosen = {name: getattr(options, name) for name in (*names, "cache")}
    if options.cache is not None:
        options.cache.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    for latency, moves in product(options.latency.split(","), options.moves):
        with ProcessPoolExecutor(
            1, mp_context=context
        ) as pool:  # a fresh process: its peak memory is its own
            made = pool.submit(run_budget, Task(latency=latency, moves=moves, **chosen)).result()
        rows += [row for row in made if row["budget"] != WHOLE or row not in rows]
        save(options.json, {"model": options.model, "rows": rows})  # a stopped run keeps what it has
    show(options.model, rows, {name: form for name, form in COLUMNS.items() if _known(name, rows)})
    gone = collapses_of(rows)
    if gone:
        show("collapses", gone, COLLAPSES)
    for row in rows:
        if row.get("missed"):
            print(f"{row['budget']}, {row['moves']}: {row['missed']}")


def run_budget(task: Task) -> list[dict[str, Any]]:
    """The original's figures, those of ``optimize``, and those of the other networks with the same moves; one
    row that says why where the budget is out of reach."""
    graph, data = otg.load(task.model), otg.load_data(task.data)
    calibration = otg.load_data(task.calibration)
    if task.samples is not None:
        calibration = calibration.take(task.samples, seed=task.seed)
    where = {"budget": task.latency, "moves": task.moves}
    started = time.perf_counter()
    try:
        made = _optimized(task, graph, calibration, data)
    except UsageError as error:
        return [where | {"channels": "-", "repair": "-", "missed": str(error)}]
    audit = made.audit
    row = where | {
        "channels": made.plan.criterion,
        "repair": "yes",
        "ratio": audit.latency.ratio,
        "interval": f"[{audit.latency.low:.3f}, {audit.latency.high:.3f}]",
        "low": audit.latency.low,
        "high": audit.latency.high,
        "MACs": made.plan.predictions.macs_ratio,
        **layers(depth_of(audit.a), depth_of(audit.b), made.plan.depth),
        **figures(audit.fidelity, side="b"),
        "CPU s": made.cost.cpu_seconds,
        "wall s": made.cost.wall_seconds,
        "wall s with audit": time.perf_counter() - started,
        "peak MB": peak_megabytes(),
        "missed": made.missed,
        "widths": {dim.name: [len(dim.kept), dim.size] for dim in made.plan.dims},
    }
    original = {"budget": WHOLE, "moves": "-", "channels": "all", "repair": "-"}
    original |= figures(audit.fidelity, side="a")
    judge = Judge(graph, data, task.metric)
    return [original, row, *({**where, **other} for other in _others(graph, calibration, made, judge))]


def _optimized(task: Task, graph: Graph, calibration: Data, data: Data) -> otg.Optimized:
    choices = ("criterion", "dims", "moves", "threads", "seed", "cache")
    return otg.optimize(
        graph,
        calibration,
        latency=task.latency,
        evaluation=data,
        metric=task.metric,
        progress=lambda message: _say(f"{task.latency} {task.moves}: {message}"),
        **{name: getattr(task, name) for name in choices},
    )


def depth_of(artifact: Artifact) -> int:
    """Products on the longest path of an ONNX file."""
    depth = artifact.structure.compute_depth
    assert depth is not None  # only of what is no ONNX file
    return depth


def layers(before: int, after: int, actions: Sequence[DepthAction]) -> dict[str, Any]:
    """The depth before and after, and what is known of each collapse."""
    count = f"{len(actions)} collapse{'' if len(actions) == 1 else 's'}"
    return {
        "layers": f"{before} → {after}, {count}" if actions else f"{before} → {after}",
        "depth": [before, after],
        "collapses": [
            {
                "span": action.collapse.span.name,
                "becomes": describe(action.collapse).removeprefix("became "),
                "nodes": len(action.collapse.span.nodes),
                "L2 alone": action.damage,
                "ms": action.old_ms,
                "ms after": action.new_ms,
            }
            for action in actions
        ],
    }


def collapses_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per budget, moves and collapse."""
    return [
        {"budget": row["budget"], "moves": row["moves"], **collapse}
        for row in rows
        for collapse in row.get("collapses", ())
    ]


def _others(
    graph: Graph, calibration: Data, made: otg.Optimized, judge: Judge
) -> Iterator[Mapping[str, Any]]:
    """The plan without its repairs; then, where it cuts channels, magnitude at the plan's widths and with its
    collapses, without and with them."""
    bare = without_repair(made.plan.pipeline)
    plans = [("no", replace(made.plan, pipeline=bare))]
    if made.plan.couplings():
        magnitude = at_same_widths(graph, calibration, made.plan, "magnitude")
        plans += [("no", replace(magnitude, pipeline=bare)), ("yes", magnitude)]
    for repair, plan in plans:
        _say(f"{made.plan.budget}: {plan.criterion}, repair: {repair}")
        found = judge(plan.apply(graph, calibration))
        yield {"channels": plan.criterion, "repair": repair, **figures(found, side="b")}


def without_repair(pipeline: str) -> str:
    """The passes that cut and collapse: maps are fitted, but nothing around them is changed."""
    steps = [
        step
        for step in parse_pipeline(pipeline)
        if not step.name.startswith(("repair-", "reroute-", "reexpress-"))
    ]
    return ",".join(map(str, steps))


def at_same_widths(graph: Graph, calibration: Data, plan: Plan, criterion: str) -> Plan:
    """``plan`` with its collapses and as many channels of each dim, but those that ``criterion`` chooses."""
    widths = {dim.name: len(dim.kept) for dim in plan.dims}
    settings = Settings(plan.budget, criterion=criterion, include=tuple(map(escape, widths)), seed=plan.seed)
    couplings = study(graph, calibration, settings).couplings(widths)
    decided = tuple(DimDecision.of(name, coupling) for name, coupling in couplings.items())
    return replace(plan, dims=decided, criterion=criterion)


def _known(name: str, rows: list[dict[str, Any]]) -> bool:
    return any(row.get(name) is not None for row in rows)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _moves(text: str) -> list[str]:
    found = text.split(",")
    if wrong := sorted(set(found) - set(get_args(Moves))):
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(get_args(Moves))}")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--calib", dest="calibration", metavar="DATA", required=True, help="unlabeled inputs")
    parser.add_argument("--data", metavar="DATA", required=True, help="inputs that nothing was fitted on")
    parser.add_argument("--metric", metavar="MODULE:CALLABLE", help="found from the current folder")
    parser.add_argument(
        "--latency", default="0.95x,0.9x,0.85x", metavar="BUDGETS", help="separated by commas"
    )
    parser.add_argument(
        "--moves",
        type=_moves,
        default=["both"],
        metavar="MOVES",
        help="both, width or depth, separated by commas",
    )
    parser.add_argument("--samples", type=int, metavar="N", help="calibration inputs to use; all by default")
    parser.add_argument("--criterion", help="otgraph's default by default")
    parser.add_argument("--dims", choices=["all", "inner"], default="all")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="keeps trials, so that budgets and later runs share them"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
