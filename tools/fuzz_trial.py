"""One mutant: made in a folder of its own, given to commands in this process, and what they do judged."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import onnx
from fuzz_mutants import DAMAGES

from otgraph.cli.main import run_command

BLAME = re.compile(
    r"a mistake of otgraph|report it|please report|Traceback \(most recent|internal error", re.I
)
"""What no file, however damaged, may make a command say."""

FILES = (
    "net.onnx",
    "forms.onnx",
    "net.onnx",
    "forms.onnx",
    "outside.onnx",
    "outside.data",
    "net.npz",
    "forms.npz",
)
FILES = (*FILES, "plan.json", "plan.json")
"""What is damaged in turn."""

_RUN = ["run", "{m}.onnx", "-p", "cleanup", "-o", "out.onnx"]
_PLAN = ["plan", "{m}.onnx", "--calib", "{d}.npz", "--keep", "0.5", "--multiple", "1", "-o", "out.json"]
_APPLY = ["apply", "net.onnx", "plan.json", "-o", "out.onnx"]
_CALIB = ["inspect", "{m}.onnx", "--calib", "{d}.npz", "--samples", "8"]
_AUDIT = ["audit", "net.onnx", "{m}.onnx", "--data", "{d}.npz", "--html", "out.html"]
_BENCH = ["bench", "{m}.onnx"]
COMMANDS: dict[str, tuple[tuple[list[str], ...], tuple[list[str], ...]]] = {
    "onnx": (
        (["inspect", "{m}.onnx"],),
        (_RUN, _PLAN, _RUN, _CALIB, _RUN, _PLAN, _RUN, _APPLY, _AUDIT, _BENCH),
    ),
    "data": ((["inspect", "{m}.onnx"],), (_RUN, _PLAN)),
    "npz": (
        (),
        (
            _CALIB,
            _PLAN,
            _CALIB,
            _CALIB,
            _APPLY,
            [*_RUN[:3], "annotate-width", *_RUN[4:], "--calib", "{d}.npz"],
        ),
    ),
    "json": ((_APPLY,), ()),
}
"""Kind of file → the commands that each mutant of it is given to, and those that take turns."""

ALLOWED = {
    "inspect": {0, 2},
    "run": {0, 1, 2},
    "plan": {0, 2},
    "apply": {0, 1, 2},
    "bench": {0, 2},
    "audit": {0, 1, 2},
}


@dataclass(frozen=True)
class Trial:
    """``outcome``: ``refused``, ``done``, or what a command did that it must not, in full in ``detail``."""

    number: int
    file: str
    damage: str
    outcome: str
    command: str = ""
    detail: str = ""

    @property
    def is_fault(self) -> bool:
        return self.outcome not in ("refused", "done")


def describe(number: int, seed: int) -> tuple[str, str, Random]:
    """The file that mutant ``number`` is made of, the name of the damage, and its generator."""
    rng = Random(f"{seed}:{number}")
    file = FILES[number % len(FILES)]
    damages = DAMAGES[_kind(file)]
    return file, damages[rng.randrange(len(damages))].__name__, rng


def try_mutant(number: int, seed: int, subjects: Path, folder: Path) -> Trial:
    """Make mutant ``number`` in ``folder``, which is emptied first, and give it to its commands."""
    file, name, rng = describe(number, seed)
    damage = next(each for each in DAMAGES[_kind(file)] if each.__name__ == name)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(subjects, folder)
    (folder / file).write_bytes(damage((subjects / file).read_bytes(), rng))
    before = set(os.listdir(folder))
    outcome, last = "done", ""
    for command in commands_of(number, file):
        outcome, detail = _judge(command, folder, before)
        last = " ".join(command)
        if outcome not in ("refused", "done"):
            return Trial(number, file, name, outcome, last, detail)
    return Trial(number, file, name, outcome, last)


def commands_of(number: int, file: str) -> list[list[str]]:
    """The command lines of mutant ``number``, to be run in its folder."""
    always, turns = COMMANDS[_kind(file)]
    model = Path(file).stem if _kind(file) != "json" else "net"
    names = {"m": model, "d": "forms" if model == "forms" else "net"}
    chosen = [*always, *([turns[number // len(FILES) % len(turns)]] if turns else [])]
    return [[word.format(**names) for word in command] for command in chosen]


def _judge(command: list[str], folder: Path, before: set[str]) -> tuple[str, str]:
    with _captured(folder) as streams:
        try:
            code = run_command(command)
        except BaseException:  # noqa: BLE001  (whatever comes through is what is looked for)
            return "raised", traceback.format_exc()
    said, errors = (stream.getvalue().decode() for stream in streams)
    fault = _fault(command[0], code, said, errors)
    if fault is None:
        fault = _file_fault(folder, before, code)
    for name in set(os.listdir(folder)) - before:
        (folder / name).unlink()
    if fault is not None:
        return fault[0], f"{fault[1]}\n{errors[-2000:]}"
    return ("refused" if code == 2 else "done"), ""


def _fault(command: str, code: int, said: str, errors: str) -> tuple[str, str] | None:
    match = BLAME.search(errors) or BLAME.search(said)
    if match is not None:
        return "blames otgraph", match[0]
    if code not in ALLOWED[command]:
        return "wrong exit code", str(code)
    if code == 2 and not re.fullmatch(r"error: [^\n]+\n", errors):
        return "no clear error", "not one line that starts with error:"
    if code != 2 and "error:" in errors:
        return "wrong exit code", f"an error with exit code {code}"
    return None


def _file_fault(folder: Path, before: set[str], code: int) -> tuple[str, str] | None:
    """Output comes whole, and only from what succeeded."""
    new = {name for name in set(os.listdir(folder)) - before if not name.endswith(".onnx.data")}
    if any(name.startswith(".") for name in new) or (code == 2 and new):
        return "half-written", f"left {sorted(new)} with exit code {code}"
    for name in new:
        try:
            if name.endswith(".onnx"):
                assert onnx.load(folder / name).graph.output
            elif name.endswith(".json"):
                json.loads((folder / name).read_text())
        except Exception as error:  # noqa: BLE001  (whatever makes it unreadable)
            return "half-written", f"{name} cannot be read: {error!r}"
    return None


@contextmanager
def _captured(folder: Path) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Work in ``folder``; what is written to the streams is kept, encoded as a terminal would have it."""
    here, kept = Path.cwd(), (sys.stdout, sys.stderr)
    raw = io.BytesIO(), io.BytesIO()
    sys.stdout = io.TextIOWrapper(raw[0], "utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(raw[1], "utf-8", "backslashreplace", write_through=True)
    os.chdir(folder)
    try:
        yield raw
    finally:
        os.chdir(here)
        # detached, so that they do not close what they wrote to
        for stream in (sys.stdout, sys.stderr):
            stream.detach()
        sys.stdout, sys.stderr = kept


def _kind(file: str) -> str:
    return file.rpartition(".")[2]
