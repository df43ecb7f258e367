"""Rows that are kept as they come: a benchmark of hours is stopped, and goes on another day."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_networks import NETWORKS, REPOSITORY, Network
from bench_output import save
from bench_subject import ERROR_CHARACTERS, Job, optimize

Row = dict[str, Any]
Key = tuple[str, ...]

KEY = ("network", "code", "engine", "budget", "moves")
"""The names of ``Job.key``."""


def run_all(
    jobs: Sequence[Job], options: argparse.Namespace, measure: Callable[[Job, Path], Row]
) -> dict[Key, Row]:
    """The rows of ``--json``, with those of ``jobs`` added that are not there; written after each.

    ``measure``: what to add to the row of an optimization that ended well, given its folder.
    """
    for network in {job.network.name: job.network for job in jobs}.values():
        if missing := network.missing(options.root):
            sys.exit(f"{missing[0]} is missing; tools/README.md says what makes it")
    rows = read_rows(options.json)
    for job in jobs:
        done = rows.get(job.key)
        if done is not None and done["state"] != "failed" and not options.again:
            continue
        say(" ".join(job.key))
        rows[job.key] = run(job, options, measure)
        save(options.json, {"command": command(), "rows": list(rows.values())})
        say(brief(rows[job.key]))
    return rows


def leave_by_exception() -> None:
    """On an interrupt or a termination, so that the process that is being measured is not left behind. A
    shell's background jobs ignore interrupts, unless they ask for them."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)


def run(job: Job, options: argparse.Namespace, measure: Callable[[Job, Path], Row]) -> Row:
    """The row of one job; whatever fails is said in it, and the others go on."""
    folder: Path = options.work / "-".join(job.key)
    row: Row = dict(zip(KEY, job.key, strict=True))
    if options.again:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        row |= optimize(job, options.root, folder, options.cpu_limit)
        if row["state"] == "failed":
            shutil.rmtree(folder)  # so that a later run tries again
        if row["state"] == "done":
            row |= measure(job, folder)
    except Exception as error:  # noqa: BLE001  (a row that cannot be measured must not end the run)
        row |= {"state": "failed", "error": f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]}
    return row


def read_rows(path: Path | None) -> dict[Key, Row]:
    """The rows of an earlier run, by their keys."""
    if path is None or not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {tuple(row[name] for name in KEY): row for row in rows}


def brief(row: Mapping[str, Any]) -> str:
    """One line on a row, for whoever watches."""
    parts = [str(row["state"])]
    for name in ("process CPU s", "CPU s", "ratio", "damage"):
        if row.get(name) is not None:
            parts.append(f"{name} {row[name]:.4g}")
    return ", ".join([*parts, *([row["error"]] if "error" in row else [])])


def command() -> list[str]:
    """The command line, without where this machine keeps its files."""
    return [Path(word).name if word.startswith("/") else word for word in sys.argv]


def say(message: str) -> None:
    """To whoever watches; the tables go to the standard output."""
    print(message, file=sys.stderr, flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of every benchmark that runs ``optimize`` by two trees of code."""
    parser.add_argument("--old", type=checkout, metavar="PATH", help="a checkout of the code as it was")
    parser.add_argument(
        "--new", type=checkout, default=REPOSITORY, metavar="PATH", help="by default this one"
    )
    parser.add_argument("--engines", type=words, default=["onnxruntime"])
    parser.add_argument("--moves", type=words, default=["both"], help="both, width, depth")
    parser.add_argument(
        "--cpu-limit", type=float, default=1200.0, metavar="SECONDS", help="of one optimization; default 1200"
    )
    parser.add_argument(
        "--audits", type=int, default=1, metavar="N", help="of each result; the median counts"
    )
    parser.add_argument("--root", type=absolute, default=absolute("data"), help="where the networks are")
    parser.add_argument("--work", type=absolute, default=absolute("out/bench_optimize"))
    parser.add_argument("--again", action="store_true", help="make rows that are there once more")
    parser.add_argument("--json", type=Path, metavar="FILE")


def words(text: str) -> list[str]:
    """Separated by commas."""
    return [part for part in text.split(",") if part]


def network(text: str) -> Network:
    """By its name."""
    if text not in NETWORKS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(NETWORKS)}")
    return NETWORKS[text]


def networks(text: str) -> list[Network]:
    """By their names, separated by commas."""
    return [network(name) for name in words(text)]


def checkout(text: str) -> Path:
    """A folder with otgraph's code."""
    path = absolute(text)
    if not (path / "otgraph" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of otgraph")
    return path


def absolute(text: str) -> Path:
    """A path that another process understands from another folder."""
    return Path(text).resolve()
