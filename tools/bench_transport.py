"""Time the width analysis of one dim on one thread, beside POT's exact solver at the same size.

    OMP_NUM_THREADS=1 python tools/bench_transport.py [--channels 256 512 1024 2048] [--seed 0] [--no-emd]

Activations are rectified random mixtures (a sixth as many latent causes as channels). Columns, in CPU
seconds: the cost matrix, the whole rate-distortion curve, swaps at k = n/2, the dual bound at n/2 (the gap it
certifies and what the swaps gained, in per cent), the curve under least-squares reconstruction, and
``ot.emd`` for one k under the same cost matrix: from uniform masses onto n random masses, and onto the n/2
kept channels with equal masses (the balanced problem of Intra-Fusion).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from otgraph.transport.bound import certify
from otgraph.transport.cost import Reading
from otgraph.transport.elimination import eliminate_backward
from otgraph.transport.pot import exact_plan
from otgraph.transport.problem import rerouting_problem
from otgraph.transport.selection import refine, select

T = TypeVar("T")

HEADER = (
    "channels",
    "cost",
    "curve",
    "swaps",
    "bound",
    "gap %",
    "swaps gain %",
    "cholesky",
    "emd n×n",
    "emd n×n/2",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--emd", action=argparse.BooleanOptionalAction, default=True, help="time POT as well")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        print("note: OMP_NUM_THREADS is not 1; CPU seconds then add up several threads")
    print("".join(f"{title:>13}" for title in HEADER))
    for channels in options.channels:
        row = measure(synthetic_reading(channels, options.seed), with_emd=options.emd)
        print(f"{channels:>13}" + "".join(f"{value:>13.3f}" for value in row), flush=True)


def measure(reading: Reading, *, with_emd: bool) -> list[float]:
    """One row of the table, in the order of the header, without the channels."""
    problem, cost_seconds = timed(lambda: rerouting_problem([reading]))
    curve, curve_seconds = timed(lambda: select(problem))
    half = curve.kept(max(reading.size // 2, 1))
    kept, swap_seconds = timed(lambda: refine(problem, half))
    certificate, bound_seconds = timed(lambda: certify(problem, kept))
    gain = 1.0 - problem.value(kept) / problem.value(half)
    _, cholesky_seconds = timed(lambda: eliminate_backward([reading]))
    emd_seconds = [float("nan")] * 2
    if with_emd:
        uniform = np.full(reading.size, 1.0 / reading.size)
        spread = np.random.default_rng(0).dirichlet(np.ones(reading.size))
        half_uniform = np.full(len(kept), 1.0 / len(kept))
        emd_seconds[0] = timed(lambda: exact_plan(uniform, spread, problem.cost))[1]
        emd_seconds[1] = timed(lambda: exact_plan(uniform, half_uniform, problem.cost[:, kept]))[1]
    figures = [cost_seconds, curve_seconds, swap_seconds, bound_seconds]
    return [*figures, 100.0 * certificate.gap, 100.0 * gain, cholesky_seconds, *emd_seconds]


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result and the CPU seconds it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def synthetic_reading(channels: int, seed: int, positions: int = 3000) -> Reading:
    """A reading of correlated channels: each mixes up to three causes, with noise, and is rectified."""
    rng = np.random.default_rng(seed)
    causes = max(4, channels // 6)
    mixing = np.zeros((causes, channels))
    for channel in range(channels):
        chosen = rng.choice(causes, size=rng.integers(1, 4), replace=False)
        mixing[chosen, channel] = rng.normal(size=len(chosen)) * np.array([1.0, 0.5, 0.25])[: len(chosen)]
    signal = rng.normal(size=(positions, causes)) @ (mixing * rng.gamma(2.0, 0.5, size=channels))
    noise = 0.2 * signal.std(axis=0) * rng.normal(size=signal.shape)
    values = np.maximum(signal + noise, 0.0)
    weight = rng.normal(size=(channels, channels)) / np.sqrt(channels)
    moment = values.T @ values / positions
    return Reading("bench", moment, weight.T @ weight, values.mean(axis=0), centered=True)


if __name__ == "__main__":
    main()
