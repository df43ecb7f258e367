"""``otgraph`` as a subject: one tree of its code, each run a process with a cache of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_networks import Network
from bench_process import ONE_THREAD, Usage, run_limited

START = "import sys; from otgraph.cli.main import main; sys.argv[0] = 'otgraph'; main()"
ERROR_CHARACTERS = 600


@dataclass(frozen=True)
class Code:
    """A tree of otgraph's code: ``label`` in the tables, ``root`` of its checkout."""

    label: str
    root: Path

    def environment(self, cache: Path) -> dict[str, str]:
        """What makes a process run this tree, on one thread, with nothing remembered from elsewhere."""
        return {**ONE_THREAD, "PYTHONPATH": str(self.root), "OTGRAPH_CACHE": str(cache)}

    @property
    def commit(self) -> str:
        """Its commit, with a plus where files differ from it; empty outside a repository."""
        found = [
            subprocess.run(["git", "-C", str(self.root), *words], capture_output=True, text=True, check=False)
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno"))
        ]
        return found[0].stdout.strip() + ("+" if found[1].stdout.strip() else "")

    def run(
        self, words: Sequence[str], folder: Path, name: str, cpu_limit: float | None = None
    ) -> tuple[Usage, dict[str, Any] | None]:
        """``otgraph WORDS --json`` with its files in ``folder``: what it took, and its document, None where
        there is none."""
        out, errors = folder / f"{name}.json", folder / f"{name}.stderr"
        usage = run_limited(
            [sys.executable, "-c", START, *words, "--json"],
            out=out,
            errors=errors,
            cpu_limit=cpu_limit,
            environment=self.environment(folder / "cache"),
            folder=self.root,
        )
        return usage, read_document(out)


@dataclass(frozen=True)
class Job:
    """One optimization: a tree of code, a network, an engine, a budget, and the moves that are allowed."""

    code: Code
    network: Network
    engine: str
    budget: str
    moves: str = "both"

    @property
    def key(self) -> tuple[str, ...]:
        """What tells rows apart, and names their folders."""
        return (self.network.name, self.code.label, self.engine, self.budget, self.moves)

    def words(self, root: Path, folder: Path) -> list[str]:
        """Its command line, without ``otgraph``."""
        network, place = self.network, self.network.place(root)
        samples = [] if network.samples is None else ["--samples", str(network.samples)]
        moves = [] if self.moves == "both" else [f"--{self.moves}-only"]
        return [
            "optimize",
            str(place / network.model),
            *("--calib", str(place / network.calibration), *samples),
            *(*budget_words(self.budget), "--engine", self.engine, *moves),
            *("-o", str(folder / "model.onnx"), "--plan-out", str(folder / "plan.json")),
        ]


def budget_words(budget: str) -> list[str]:
    """``0.8x`` is a latency, ``layers=0.75x`` a depth, and so is any other option by its name."""
    name, given, value = budget.rpartition("=")
    return [f"--{name if given else 'latency'}", value]


def optimize(job: Job, root: Path, folder: Path, cpu_limit: float | None) -> dict[str, Any]:
    """Run ``job`` in ``folder``, unless an earlier run has left its usage there: what it cost."""
    record = folder / "run.json"
    if not record.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "cache").mkdir(parents=True)
        usage, _ = job.code.run(job.words(root, folder), folder, "optimize", cpu_limit)
        record.write_text(json.dumps({**usage.to_json(), "commit": job.code.commit}, indent=1) + "\n")
    known = json.loads(record.read_text())
    commit = known.pop("commit")
    return {"commit": commit, **costs(Usage.from_json(known), folder)}


def costs(usage: Usage, folder: Path) -> dict[str, Any]:
    """What the optimization in ``folder`` came to; ``state`` is done, stopped (at the limit) or failed."""
    document = read_document(folder / "optimize.json")
    row: dict[str, Any] = {
        "state": "done" if document is not None else "failed" if usage.finished else "stopped",
        "process CPU s": usage.cpu_seconds,
        "peak MB": usage.peak_mb,
        "trials": trials(folder, document),
        "when": usage.when,
        "load": usage.load,
        "stolen": usage.stolen,
    }
    if document is None:
        if usage.finished:
            row["error"] = (
                (folder / "optimize.stderr").read_text(errors="replace")[-ERROR_CHARACTERS:].strip()
            )
        return row
    fidelity = document["audit"]["fidelity"]
    return row | {
        "CPU s": document["cost"]["cpu_seconds"],
        "wall s": document["cost"]["wall_seconds"],
        "missed": document["missed"],
        "credible": document["credible"],
        "own ratio": document["audit"]["latency"]["ratio"],
        "own damage": fidelity["drift"],
        "damage is": fidelity["drift_name"],
        "counts": dict(counts(document)),
    }


def trials(folder: Path, document: Mapping[str, Any] | None) -> int | None:
    """How many were made: what the document says, else the entries in the run's own cache."""
    if document is not None:
        said = {name: value for name, value in counts(document) if name in ("tried", "trials")}
        if said:
            return sum(said.values())
    files = list((folder / "cache").rglob("trials-*.json"))
    return sum(len(read_document(file) or {}) for file in files) if files else None


def counts(document: Any) -> Iterator[tuple[str, int]]:
    """Whatever a document says of how many candidates there were, were ruled out, priced and tried."""
    wanted = ("candidates", "ruled_out", "priced", "tried", "trials")
    if isinstance(document, Mapping):
        for name, value in document.items():
            if name in wanted and isinstance(value, int) and not isinstance(value, bool):
                yield name, value
            elif name not in ("audit", "remarks"):
                yield from counts(value)


def read_document(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no such file, or it was cut short."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
