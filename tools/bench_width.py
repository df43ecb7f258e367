"""Which channels to keep, and what each repair gives back: the benchmark that decides the default criterion.

    OMP_NUM_THREADS=1 python tools/bench_width.py [--criteria rerouting cholesky ...] [--json FILE]

The embedded digit classifier is cut to a fraction of every inner or every dim under each criterion, with few
and with more unlabeled calibration images. Criteria that read the gains of the readers are asked twice: with
gains pulled back from the outputs, and with the readers' own squared weights ("plain"). Columns: accuracy on
the 1,000 test images (the original's is 0.985) after the cut alone, re-routed and cut, re-expressed and cut,
cut and refitted by least squares, and after the whole ``apply`` pipeline; and of the last three the KL
divergence from the original's outputs, which tells apart what 1,000 labels cannot. The second table has one
line per criterion and gain: means over the cells, of the KL the geometric mean.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from bench_output import save, show

import otgraph.api as otg
from otgraph.calibrate.divergence import output_divergence
from otgraph.calibrate.feeds import feeds
from otgraph.calibrate.width import analyze_width
from otgraph.data import Data
from otgraph.graph.graph import Graph
from otgraph.optimize.settings import Settings
from otgraph.optimize.study import Study, study
from otgraph.plan.budget import make_budget
from otgraph.rewrite.catalog import load_pipelines
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.sample import calibration_path, model_path, test_path
from otgraph.transport.criteria.catalog import CRITERIA

DEFAULT_CRITERIA = ("rerouting", "cholesky", "energy", "magnitude", "random")

STAGES = {
    "cut": "prune-channels",
    "re-routed": "reroute-channels,prune-channels",
    "re-expressed": "reexpress-channels,prune-channels",
    "least squares": "prune-channels,repair-least-squares",
    "full": "apply",
}
"""Columns of the table and the pipelines behind them."""

COLUMNS = {
    "criterion": "",
    "gains": "",
    "inputs": "d",
    "keep": ".3g",
    "dims": "",
    **dict.fromkeys(STAGES, ".3f"),
}
KLS = {f"KL {stage}": ".4f" for stage in list(STAGES)[2:]}
GAINS = {"rerouting": ("pulled back", "plain"), "cholesky": ("pulled back", "plain")}


def main() -> None:
    options = _arguments()
    tasks = [
        Task(criterion, inputs, tuple(options.keep), tuple(options.dims), options.seed)
        for criterion, inputs in product(options.criteria, options.inputs)
    ]
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        rows = [row for made in pool.map(run_task, tasks) for row in made]
    show("test accuracy", rows, COLUMNS | KLS)
    means = {"criterion": "", "gains": "", **dict.fromkeys(STAGES, ".4f"), **KLS}
    show("by criterion", summary(rows), means)
    print(f"{time.perf_counter() - started:.0f} s")
    save(options.json, {"rows": rows, "summary": summary(rows)})


@dataclass(frozen=True)
class Task:
    """What one worker does: one calibration, and every width that is asked for."""

    criterion: str
    inputs: int
    keep: tuple[float, ...]
    dims: tuple[str, ...]
    seed: int


def run_task(task: Task) -> list[dict[str, Any]]:
    """One row per fraction and choice of dims."""
    torch.set_num_threads(1)
    graph = otg.load(model_path())
    judge = Judge(graph, otg.load_data(str(test_path())))
    data = otg.load_data(str(calibration_path())).take(task.inputs, seed=task.seed)
    found = study(graph, data, Settings(make_budget(keep=0.5), criterion=task.criterion, seed=task.seed))
    rows: list[dict[str, Any]] = []
    for gains, keep, dims in product(GAINS.get(task.criterion, ("",)), task.keep, task.dims):
        where = {"criterion": task.criterion, "gains": gains, "inputs": task.inputs, "keep": keep}
        studied = plain(found, task) if gains == "plain" else found
        rows.append(where | {"dims": dims} | stages(studied, counts_of(found, keep, dims), judge, task.seed))
    return rows


def plain(found: Study, task: Task) -> Study:
    """``found`` with curves under the readers' own squared weights."""
    seen = analyze_width(found.graph, found.axes, found.data, task.criterion, task.seed, form=None)
    return replace(found, widths=seen.widths)


def counts_of(found: Study, keep: float, dims: str) -> dict[str, int]:
    """How many channels to keep of each dim; with ``inner``, those on a residual stream stay whole."""
    chosen = {n: w for n, w in found.widths.items() if dims == "all" or not found.axes.dims[n].residual}
    return {name: max(1, round(width.size * keep)) for name, width in chosen.items()}


def stages(found: Study, counts: Mapping[str, int], judge: Judge, seed: int) -> dict[str, float]:
    """Accuracy after each of ``STAGES``, and the KL divergence after the last ones."""
    couplings = found.couplings(counts)
    context = Context(data=found.data, original=found.graph, couplings=couplings, seed=seed)
    result: dict[str, float] = {}
    for stage, text in STAGES.items():
        steps = parse_pipeline(load_pipelines().get(text, text))
        accuracy, kl = judge(PassManager(steps, random_probes=0).run(found.graph, context).graph)
        result[stage] = accuracy
        if f"KL {stage}" in KLS:
            result[f"KL {stage}"] = kl
    return result


class Judge:
    """Accuracy of a graph on labeled inputs, and its mean KL divergence from the original."""

    def __init__(self, original: Graph, test: Data) -> None:
        self._labels = [torch.from_numpy(np.asarray(chunk.labels)) for chunk in test.batches(250)]
        self._inputs = list(feeds(original, test, 250))
        self._reference = [original(*feed) for feed in self._inputs]

    def __call__(self, graph: Graph) -> tuple[float, float]:
        outputs = [graph(*feed) for feed in self._inputs]
        right = [batch[0].argmax(-1) == labels for batch, labels in zip(outputs, self._labels, strict=True)]
        kl = output_divergence(self._reference, outputs).kl
        return float(torch.cat(right).double().mean()), float("nan") if kl is None else kl


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per criterion and gain, the least KL first: means of accuracies, geometric means of KL."""
    lines: list[dict[str, Any]] = []
    for criterion, gains in dict.fromkeys((row["criterion"], row["gains"]) for row in rows):
        mine = [row for row in rows if (row["criterion"], row["gains"]) == (criterion, gains)]
        accuracies = {stage: fmean(row[stage] for row in mine) for stage in STAGES}
        kls = {name: math.exp(fmean(math.log(max(row[name], 1e-12)) for row in mine)) for name in KLS}
        lines.append({"criterion": criterion, "gains": gains, **accuracies, **kls})
    return sorted(lines, key=lambda line: line["KL full"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--criteria", nargs="+", choices=list(CRITERIA), default=list(DEFAULT_CRITERIA))
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.25], help="fractions of every dim")
    parser.add_argument("--dims", nargs="+", choices=["inner", "all"], default=["inner", "all"])
    parser.add_argument("--inputs", type=int, nargs="+", default=[64, 192], help="calibration images")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
