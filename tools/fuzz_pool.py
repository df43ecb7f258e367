"""Forked workers that try mutants: one that hangs or dies is replaced, and what killed it is known."""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY = 6 * 2**30
"""Bytes of address space that a worker may take beyond what it starts with, to spare the machine."""


@dataclass
class _Worker:
    process: int
    tasks: int
    results: int
    task: int | None = None
    since: float = 0.0


def run_tasks(
    tasks: Sequence[int], work: Callable[[int, int], Any], jobs: int, limit: float
) -> Iterator[tuple[int, Any, str]]:
    """Yield each task with the result of ``work(task, slot)``, or None and why there is none: ``hang``, or
    ``signal SIGSEGV`` and the like. ``limit``: seconds for one task."""
    waiting = list(reversed(tasks))
    slots: dict[int, _Worker] = {}
    try:
        while waiting or any(worker.task is not None for worker in slots.values()):
            for slot in range(jobs):
                if slot not in slots and waiting:
                    slots[slot] = _start(work, slot, list(slots.values()))
                if slot in slots and slots[slot].task is None and waiting:
                    _give(slots[slot], waiting.pop())
            busy = {
                worker.results: (slot, worker) for slot, worker in slots.items() if worker.task is not None
            }
            ready, _, _ = select.select(list(busy), [], [], 0.2)
            for handle in ready:
                slot, worker = busy[handle]
                task, worker_result = worker.task, _read(handle)
                assert task is not None
                worker.task = None
                if worker_result is None:
                    del slots[slot]
                    yield task, None, _end(worker)
                else:
                    yield task, pickle.loads(worker_result), ""
            for slot, worker in list(slots.items()):
                if worker.task is not None and time.monotonic() - worker.since > limit:
                    os.kill(worker.process, signal.SIGKILL)
                    task, worker.task = worker.task, None
                    del slots[slot]
                    _end(worker)
                    yield task, None, "hang"
    finally:
        for worker in slots.values():
            os.kill(worker.process, signal.SIGKILL)
            _end(worker)


def _start(work: Callable[[int, int], object], slot: int, others: list[_Worker]) -> _Worker:
    tasks_out, tasks_in = os.pipe()
    results_out, results_in = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        os.close(tasks_out)
        os.close(results_in)
        return _Worker(process, tasks_in, results_out)
    try:
        for handle in (tasks_in, results_out, *(h for w in others for h in (w.tasks, w.results))):
            os.close(handle)
        _serve(work, slot, tasks_out, results_in)
    except BaseException:  # noqa: BLE001  (a forked process must end here)
        traceback.print_exc()
    finally:
        os._exit(1)


def _serve(work: Callable[[int, int], object], slot: int, tasks: int, results: int) -> None:
    faulthandler.disable()  # the signal itself says enough
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # what C++ libraries say by themselves
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        text = os.read(tasks, 8)
        if len(text) < 8:
            os._exit(0)
        found = pickle.dumps(work(struct.unpack("q", text)[0], slot))
        with os.fdopen(os.dup(results), "wb") as stream:
            stream.write(struct.pack("q", len(found)) + found)


def _give(worker: _Worker, task: int) -> None:
    os.write(worker.tasks, struct.pack("q", task))
    worker.task, worker.since = task, time.monotonic()


def _read(handle: int) -> bytes | None:
    head = _exactly(handle, 8)
    return None if head is None else _exactly(handle, struct.unpack("q", head)[0])


def _exactly(handle: int, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        piece = os.read(handle, count - len(data))
        if not piece:
            return None
        data += piece
    return data


def _end(worker: _Worker) -> str:
    os.close(worker.tasks)
    os.close(worker.results)
    _, status = os.waitpid(worker.process, 0)
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit {os.WEXITSTATUS(status)}"
