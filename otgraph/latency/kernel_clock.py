"""Timing kernels by themselves, free of what surrounds them and of what else the machine does.

An engine's profiler counts whole microseconds and adds about two to each node (ONNX Runtime), far too coarse
for nodes of 5 to 30 µs. So the same inference is timed with one and with several copies of the node (their
weights differ, as in a network, where no layer finds its weights in the nearest cache): the difference holds
neither the call, nor the engine's conversions at the borders, only the node and its dispatch.

Another process on the same core slows everything by up to 1.4, for seconds. So kernels are read in rounds,
each once per round together with a reference kernel, what a round has in common is taken out, and results
are costs relative to the reference. Two measurements on a busy machine agree within 2 to 5 % (nodes above
5 µs; of the estimators tried there, the median is the steadiest). What stays out is that in a network a
result of hundreds of kilobytes is written to memory that is not in the near caches: 15 to 20 µs at 400 kB,
whatever the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from otgraph.data import Array
from otgraph.engines.engine import Engine, Session
from otgraph.latency.clock import Clock, no_collection
from otgraph.latency.kernel import Kernel
from otgraph.latency.kernel_model import kernel_model
from otgraph.window import Window

Floats = npt.NDArray[np.float64]

REFERENCE = Kernel.of(Window(64, 64, 1, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), (7, 7))
"""What other kernels are compared with: 25 µs or so of dense arithmetic within the near caches."""

RUN_MS = 0.5
"""About how long a run of several copies takes: long against the clock's own cost, short against the time
between two preemptions."""

MACS_PER_MS = 40e6
"""A rate for guessing how many copies that is."""

COPIES = (2, 8)

MEMORY = 256e6
"""Kernels whose sessions together take about this many bytes are read in the same rounds."""

WARM_UPS = 1

SPENT_MS = 8.0
"""How long the runs of one kernel may take together, within ``ROUNDS``."""

ROUNDS = (3, 40)

LEAST_MS = 1e-6
"""No kernel takes less: a difference of two readings can come out negative."""

_references: WeakKeyDictionary[Engine, dict[int, float]] = WeakKeyDictionary()


def reference_ms(engine: Engine, threads: int, clock: Clock) -> float:
    """Milliseconds of ``REFERENCE``, measured once per engine object, so that all that is timed on it is
    comparable.

    Raises:
        ModelError: the engine cannot run it.
    """
    known = _references.setdefault(engine, {})
    if threads not in known:
        known[threads] = float(_milliseconds(engine, [REFERENCE], threads, clock)[0])
    return known[threads]


def read_costs(engine: Engine, kernels: Sequence[Kernel], threads: int, clock: Clock) -> list[float]:
    """What each of ``kernels`` takes, relative to ``REFERENCE``: by the device's clock where it has one, in
    CPU time on one thread, else wall time.

    Raises:
        ModelError: the engine cannot run one of them.
    """
    costs: list[float] = []
    for chunk in _chunks(kernels):
        ms = _milliseconds(engine, [REFERENCE, *chunk], threads, clock)
        costs += [float(each) for each in ms[1:] / ms[0]]
    return costs


def _milliseconds(engine: Engine, kernels: Sequence[Kernel], threads: int, clock: Clock) -> Floats:
    """Of each kernel, as the median over rounds that are made alike."""
    logs = np.log(_readings(engine, kernels, threads, clock))
    steady = logs - np.median(logs - np.median(logs, axis=1, keepdims=True), axis=0)
    one, many = np.exp(np.median(steady, axis=1)).reshape(len(kernels), 2).T
    more = np.array([copies_of(kernel) - 1 for kernel in kernels])
    return np.maximum((many - one) / more, LEAST_MS)


def copies_of(kernel: Kernel) -> int:
    """How many copies make a run of about ``RUN_MS``."""
    guess = round(RUN_MS * MACS_PER_MS / max(kernel.macs, 1))
    return min(max(guess, COPIES[0]), COPIES[1])


def _readings(engine: Engine, kernels: Sequence[Kernel], threads: int, clock: Clock) -> Floats:
    """Milliseconds as (kernels · 2) × rounds: of each kernel, one copy and several."""
    runs = [
        (engine.load(kernel_model(kernel, copies, copies_of(kernel)), threads=threads), _feed(kernel))
        for kernel in kernels
        for copies in (1, copies_of(kernel))
    ]
    for session, feed in runs:
        for _ in range(WARM_UPS):
            session.run(feed)
    rounds: list[list[float]] = []
    with no_collection():
        while len(rounds) < ROUNDS[0] or (
            len(rounds) < ROUNDS[1] and sum(map(sum, rounds)) < SPENT_MS * len(kernels)
        ):
            rounds.append([_read(session, feed, threads, clock) for session, feed in runs])
    return np.maximum(np.array(rounds).T, 1e-9)


def _read(session: Session, feed: Mapping[str, Array], threads: int, clock: Clock) -> float:
    return clock.read(session, feed, 1).length(threads)


def _feed(kernel: Kernel) -> dict[str, Array]:
    return {"x": np.random.default_rng(0).standard_normal(kernel.input_shape).astype(np.float32)}


def _chunks(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """Consecutive kernels whose sessions fit into ``MEMORY`` together."""
    chunks: list[list[Kernel]] = []
    room = 0.0
    for kernel in kernels:
        numbers = kernel.macs / kernel.positions * (copies_of(kernel) + 1) * 2
        numbers += 4 * (float(np.prod(kernel.input_shape)) + kernel.outputs * kernel.positions)
        if not chunks or 4 * numbers > room:
            chunks.append([])
            room = MEMORY
        chunks[-1].append(kernel)
        room -= 4 * numbers
    return chunks
