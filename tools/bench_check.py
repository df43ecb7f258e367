"""What the built-in checks of the passes take of a whole ``optimize``.

    OMP_NUM_THREADS=1 python tools/bench_check.py MODEL DATA [--samples 256] (--latency 0.7x | --keep 0.5)

CPU seconds within the pass manager's own checks (probe inputs through the network before and after each pass,
and the masked original), wherever in the run a pass manager works, beside those of the run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_output import save, show

from otgraph.data_sources import load_data
from otgraph.graph.specs import bind
from otgraph.load import load_model
from otgraph.optimize.run import optimize
from otgraph.optimize.settings import Settings
from otgraph.plan.budget import make_budget
from otgraph.rewrite import manager

CHECKS = ("run_probes", "check_transform", "check_unchanged")
COLUMNS = {
    "model": "",
    "budget": "",
    "calls": ".0f",
    "checks, CPU s": ".2f",
    "run, CPU s": ".1f",
    "share": ".3f",
}


class Stopwatch:
    """CPU seconds spent within the functions it has wrapped; none of them calls another."""

    def __init__(self) -> None:
        self.calls, self.seconds = 0, 0.0

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, counted and timed."""

        def timed(*arguments: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments)
            finally:
                self.calls += 1
                self.seconds += time.process_time() - start

        return timed


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    graph, data = load_model(options.model), load_data(options.data)
    data = data if options.samples is None else data.take(options.samples, 0)
    watch = Stopwatch()
    for name in CHECKS:
        setattr(manager, name, watch.wrapped(getattr(manager, name)))
    budget = make_budget(latency=options.latency, keep=options.keep)
    start = time.process_time()
    optimize(graph, bind(data, graph), Settings(budget))
    spent = time.process_time() - start
    row = {
        "model": Path(options.model).stem,
        "budget": str(options.latency or options.keep),
        "calls": watch.calls,
        "checks, CPU s": watch.seconds,
        "run, CPU s": spent,
        "share": watch.seconds / spent,
    }
    show(f"{len(data)} samples", [row], COLUMNS)
    save(options.json, {"rows": [row]})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--samples", type=int, help="so many of DATA, drawn with seed 0; default: all")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--latency")
    budget.add_argument("--keep", type=float)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
