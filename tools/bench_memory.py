"""How much memory each stage of an optimization takes.

    OMP_NUM_THREADS=1 python tools/bench_memory.py MODEL DATA [--samples 256] [--latency 0.9x] [--seconds 10]

A whole ``optimize`` with short rounds of trials; a stage is what progress calls by one first word. A peak is
the kernel's own high-water mark, reset before each stage (Linux only), so none is missed. It counts what the
allocator has freed but not given back, as whoever limits a process does.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from bench_output import save, show

from otgraph.data_sources import load_data
from otgraph.graph.specs import bind
from otgraph.load import load_model
from otgraph.optimize.run import optimize
from otgraph.optimize.settings import Settings
from otgraph.plan.budget import parse_latency

COLUMNS = {"stage": "", "times": ".0f", "CPU s": ".1f", "peak MB": ".0f", "left MB": ".0f"}


class Stages:
    """Per stage, in the order of their first times: how often, CPU seconds, highest peak, what was left."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self._current = ""
        self._started = 0.0

    def __call__(self, message: str) -> None:
        """The last stage ends and that of ``message`` begins."""
        self.end()
        self._current, self._started = message.split()[0], time.process_time()
        Path("/proc/self/clear_refs").write_text("5")

    def end(self) -> None:
        """Count the running stage."""
        if not self._current:
            return
        row = self.rows.setdefault(
            self._current, {"stage": self._current, "times": 0, "CPU s": 0.0, "peak MB": 0.0}
        )
        row["times"] += 1
        row["CPU s"] += time.process_time() - self._started
        row["peak MB"] = max(row["peak MB"], megabytes("VmHWM"))
        row["left MB"] = megabytes("VmRSS")
        self._current = ""


def megabytes(field: str) -> float:
    """A figure of this process's memory as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


def main() -> None:
    options = _arguments()
    if not sys.platform.startswith("linux"):
        sys.exit("the high-water mark can be reset on Linux only")
    torch.set_num_threads(1)
    stages = Stages()
    stages("importing (all before)")
    stages("loading")
    graph, data = load_model(options.model), load_data(options.data)
    data = data if options.samples is None else data.take(options.samples, 0)
    budget = parse_latency(options.latency)
    optimize(graph, bind(data, graph), Settings(budget, trial_seconds=options.seconds, progress=stages))
    stages.end()
    rows = list(stages.rows.values())
    show(f"{options.model}, {len(data)} samples", rows, COLUMNS)
    save(options.json, {"model": options.model, "samples": len(data), "rows": rows})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--samples", type=int, help="so many of DATA, drawn with seed 0; default: all")
    parser.add_argument("--latency", default="0.9x")
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU seconds of a round of trials")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
