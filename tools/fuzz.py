"""Damaged files against the command line: none may end in a traceback, a signal, a hang or half an output.

    python tools/fuzz.py [--count 10000] [--seed 0] [--json tools/results/fuzz.json] [--keep FOLDER]

Each mutant is an ``.onnx``, ``.npz``, external data or plan file with flipped bits, spliced or missing
pieces, or fields that hold something else; it goes to the commands that read it, in a forked process with a
limit of time and of memory. Exit code 1 when one of them does what it must not: blame otgraph, raise, die by
a signal, hang, end with another exit code than it should, say an error that is not one line, or leave a part
of an output.
Mutant k of seed s is always the same: ``--only k`` tries it again and says what happened.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_output import save, show
from fuzz_mutants import DAMAGES
from fuzz_pool import run_tasks
from fuzz_subjects import make_subjects
from fuzz_trial import Trial, commands_of, describe, try_mutant

LIMIT = 20.0
"""Seconds for one mutant."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants; prints what came of each kind of damage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="mutants to try")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument("--only", type=int, help="try this mutant alone, in this process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one mutant")
    parser.add_argument("--keep", type=Path, help="folder to keep those that found a fault in")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # a fork of a process in which torch has OpenMP threads hangs
    with tempfile.TemporaryDirectory() as name:
        subjects = _prepare(Path(name))
        if chosen.only is not None:
            return _again(chosen.only, chosen.seed, subjects, Path(name) / "mutant", chosen.keep)
        started = time.perf_counter()
        numbers = range(chosen.first, chosen.first + chosen.count)
        trials = fuzz(numbers, chosen.seed, subjects, jobs=chosen.jobs, limit=chosen.limit, keep=chosen.keep)
    report = summarize(trials, chosen.seed)
    names = list(report["by damage"][0])
    columns = {name: "" if name in ("file", "damage") else "d" for name in names}
    show("mutants by what came of them", report["by damage"], columns)
    faults = [trial for trial in trials if trial.is_fault]
    print(f"{len(trials)} mutants, {len(faults)} faults, {time.perf_counter() - started:.0f} s")
    if chosen.json is not None:
        save(chosen.json, report)
    return 1 if faults else 0


def fuzz(
    numbers: Sequence[int], seed: int, subjects: Path, *, jobs: int, limit: float, keep: Path | None = None
) -> list[Trial]:
    """Try the mutants ``numbers`` of ``seed``, of the files in ``subjects``; the outcomes in order."""
    work = lambda number, slot: try_mutant(number, seed, subjects, subjects.parent / f"slot{slot}")  # noqa: E731
    found: list[Trial] = []
    for number, trial, end in run_tasks(numbers, work, jobs, limit):
        if trial is None:
            file, damage, _ = describe(number, seed)
            lines = " | ".join(" ".join(command) for command in commands_of(number, file))
            trial = Trial(number, file, damage, end, lines)
        found.append(trial)
        if trial.is_fault:
            what = f"{trial.file} {trial.damage}: {trial.outcome}: {trial.command}: {_last_line(trial)}"
            print(f"{number}: {what}", flush=True)
            if keep is not None:
                _keep(trial, seed, subjects, keep)
    return sorted(found, key=lambda each: each.number)


def summarize(trials: Sequence[Trial], seed: int) -> dict[str, Any]:
    """Counts of what came of each kind of file and damage, and every fault in words."""
    groups = sorted({(trial.file.rpartition(".")[2], trial.damage) for trial in trials})
    outcomes = sorted({trial.outcome for trial in trials} | {"done", "refused"})
    rows = []
    for kind, damage in groups:
        counts = Counter(t.outcome for t in trials if t.file.endswith(f".{kind}") and t.damage == damage)
        rows.append({"file": kind, "damage": damage, **{each: counts[each] for each in outcomes}})
    faults = [{**vars(trial), "detail": _last_line(trial)} for trial in trials if trial.is_fault]
    return {"seed": seed, "mutants": len(trials), "by damage": rows, "faults": faults}


def _last_line(trial: Trial) -> str:
    return (trial.detail.strip().splitlines() or [""])[-1]


def _prepare(folder: Path) -> Path:
    os.environ["OTGRAPH_CACHE"] = str(folder / "cache")
    subjects = folder / "subjects"
    subjects.mkdir()
    with open(os.devnull, "w") as nowhere:
        kept, sys.stdout = sys.stdout, nowhere
        try:
            make_subjects(subjects)
        finally:
            sys.stdout = kept
    return subjects


def _again(number: int, seed: int, subjects: Path, folder: Path, keep: Path | None) -> int:
    trial = try_mutant(number, seed, subjects, folder)
    print(f"{trial.file} {trial.damage}: {trial.outcome}\n{trial.command}\n{trial.detail}")
    if keep is not None:
        _keep(trial, seed, subjects, keep)
    return 1 if trial.is_fault else 0


def _keep(trial: Trial, seed: int, subjects: Path, keep: Path) -> None:
    """The damaged file and what it is about, in a folder by the number."""
    file, name, rng = describe(trial.number, seed)
    damage = next(d for d in DAMAGES[file.rpartition(".")[2]] if d.__name__ == name)
    place = keep / str(trial.number)
    shutil.copytree(subjects, place, dirs_exist_ok=True)
    (place / file).write_bytes(damage((subjects / file).read_bytes(), rng))
    (place / "fault.txt").write_text(f"{trial.outcome}\n{trial.command}\n{trial.detail}\n")


if __name__ == "__main__":
    sys.exit(main())
