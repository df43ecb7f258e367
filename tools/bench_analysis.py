"""What it costs to know a network: CPU seconds of capture, axes, calibration and curves, and the peak memory.

    OMP_NUM_THREADS=1 python tools/bench_analysis.py [--model resnet50] [--inputs 8] [--profile 15]

The network is torchvision's with random weights, captured on one thread; calibration inputs are random, which
costs what any others do. The peak is the process's so far, the imports of torch and torchvision (first line)
included. Calibration runs twice, once alone to be timed; the sum counts it once. ``--profile N`` adds the N
functions that took most of the time.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torchvision
from bench_output import peak_megabytes, save, show

import otgraph.api as otg
from otgraph.calibrate.collect import collect
from otgraph.calibrate.readers import find_readers, slots
from otgraph.calibrate.width import DEFAULT_CRITERION, analyze_width
from otgraph.data import Data
from otgraph.graph.axes.analysis import analyze
from otgraph.transport.criteria.catalog import CRITERIA

T = TypeVar("T")

COLUMNS = {"stage": "", "CPU s": ".2f", "peak MB": ".0f"}


class Stages:
    """One row per stage: its CPU seconds, and the process's peak memory after it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str | float]] = []

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        started = time.process_time()
        result = work()
        self.add(name, time.process_time() - started)
        return result

    def add(self, name: str, seconds: float) -> None:
        """A stage whose seconds are known."""
        self.rows.append({"stage": name, "CPU s": seconds, "peak MB": peak_megabytes()})

    def seconds(self, name: str) -> float:
        """The CPU seconds of a stage."""
        return next(float(row["CPU s"]) for row in self.rows if row["stage"] == name)


def main() -> None:
    options = _arguments()
    torch.set_num_threads(1)
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    stages = measure(options)
    profile.disable()
    show(f"{options.model}, {options.inputs} inputs, {options.criterion}", stages.rows, COLUMNS)
    save(options.json, {"model": options.model, "inputs": options.inputs, "rows": stages.rows})
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(options.profile)


def measure(options: argparse.Namespace) -> Stages:
    """Run every stage once."""
    torch.manual_seed(options.seed)
    shape = (options.inputs, 3, options.size, options.size)
    images = np.random.default_rng(options.seed).standard_normal(shape, np.float32)
    stages = Stages()
    module = stages(
        "the network itself", lambda: torchvision.models.get_model(options.model, weights=None).eval()
    )
    graph = stages("capture", lambda: otg.capture(module, (torch.from_numpy(images[:2]),)))
    data = Data.from_arrays({graph.signature.inputs[0].name: images})
    axes = stages("axes", lambda: analyze(graph))
    stages("calibration", lambda: collect(graph, data, slots(find_readers(graph, axes))).samples)
    found = analyze_width(graph, axes, data, options.criterion, options.seed)
    channels = sum(width.size for width in found.widths.values())
    name = f"curves of {len(found.widths)} dims, {channels:,} channels"
    stages.add(name, found.cpu_seconds - stages.seconds("calibration"))
    stages.add(
        "all but the network", sum(stages.seconds(s) for s in ("capture", "axes", "calibration", name))
    )
    return stages


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", help="a name of torchvision.models")
    parser.add_argument("--inputs", type=int, default=8, help="calibration inputs")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--criterion", choices=list(CRITERIA), default=DEFAULT_CRITERION)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
