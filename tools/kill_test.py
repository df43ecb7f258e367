"""Kill ``optimize``, ``plan`` and ``apply`` on the embedded sample at random moments; look at what is left.

After each kill: the inputs are untouched, the output is whole or absent, and the next run of the same command
gives what it gives undisturbed and leaves nothing among the temporary files nor beside the output. Plans that
rest on measured times differ from run to run, so those are only read and checked; with ``--keep`` they are
compared. Every fifth kill is of two runs at once on one cache and one output, each at a moment of its own.

Importing torch takes longer than the work. With ``--fork`` runs are forks of a process that has imported it,
so that the moments fall into the work.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from sqlite3 import connect
from typing import IO

import onnxruntime as ort
from bench_output import Row, save, show

from otgraph.cli.main import run_command
from otgraph.plan.plan import Plan
from otgraph.sample import calibration_path, model_path
from otgraph.scratch import clear_stale

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
BUDGETS = (("--keep", "0.5"), ("--latency", "0.8x", "--width-only"))
"""The first is decided without the clock; the second uses the cache. ``apply`` has one plan of the first."""

TOGETHER = 5
TORCH_CACHE = "torchinductor_"
"""A folder of torch's own, one for each user, which importing it makes."""
PLAIN_DEATHS = (-signal.SIGTERM, -signal.SIGINT, 1)
"""How Python itself ends by a signal before, or after, the command has its handlers: while it imports."""

ENTRY = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
from otgraph.cli.main import main
main()
"""


@dataclass
class Run:
    """A running command; ``process`` keeps the object of one that was not forked from being collected."""

    pid: int
    errors: IO[bytes]
    process: object = None
    code: int | None = None

    def is_over(self) -> bool:
        """Whether it has ended by itself."""
        return self._wait(os.WNOHANG)

    def finish(self) -> tuple[int, str]:
        """Its exit code, once it has ended, and what it said on standard error."""
        self._wait(0)
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace")
        assert self.code is not None
        return self.code, text

    def _wait(self, how: int) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, how)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
            if isinstance(self.process, subprocess.Popen):
                self.process.returncode = self.code
        return self.code is not None


def fork(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Run:
    """Run a command in a fork of this process."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115  (it is read at the end)
    pid = os.fork()
    if pid:
        return Run(pid, errors)
    code = 99
    try:
        os.environ.update(environment)
        tempfile.tempdir = None
        clear_stale.cache_clear()
        os.chdir(folder)
        os.dup2(errors.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run_command(words)
        sys.stdout.flush()
    finally:
        os._exit(code)


@dataclass(frozen=True)
class Place:
    """Folders of one series of kills: copies of the inputs, the output, the cache, temporary files."""

    root: Path
    fork: bool = False

    @property
    def model(self) -> Path:
        return self.root / "in" / "net.onnx"

    @property
    def calibration(self) -> Path:
        return self.root / "in" / "calib.npz"

    @property
    def plan(self) -> Path:
        return self.root / "in" / "plan.json"

    def prepare(self) -> None:
        """Make the folders and copy the inputs."""
        for name in ("in", "out", "cache", "tmp"):
            (self.root / name).mkdir(parents=True)
        shutil.copyfile(model_path(), self.model)
        shutil.copyfile(calibration_path(), self.calibration)

    def command(self, name: str, budget: Sequence[str], samples: int) -> list[str]:
        """The command line of ``name``; ``apply`` carries out the plan among the inputs."""
        out = str(self.root / "out" / ("plan.json" if name == "plan" else "small.onnx"))
        if name == "apply":
            words = [str(self.model), str(self.plan), "-o", out]
        else:
            calib = ["--calib", str(self.calibration), "--samples", str(samples)]
            words = [str(self.model), *calib, *budget, "-o", out]
        return [name, *words]

    def start(self, words: Sequence[str]) -> Run:
        """Start otgraph with the cache and the temporary folder of this place."""
        own = {"OTGRAPH_CACHE": str(self.root / "cache"), "TMPDIR": str(self.root / "tmp")}
        if self.fork:
            return fork(words, own, self.root)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **own}
        errors = tempfile.TemporaryFile()  # noqa: SIM115  (it is read at the end)
        line = [sys.executable, "-c", ENTRY, *words]
        process = subprocess.Popen(line, env=env, cwd=self.root, stdout=subprocess.DEVNULL, stderr=errors)
        return Run(process.pid, errors, process)

    def digest(self) -> str:
        """Of all inputs, names and times of change included."""
        found = hashlib.sha256()
        for path in sorted((self.root / "in").iterdir()):
            found.update(f"{path.name} {path.stat().st_mtime_ns}".encode() + path.read_bytes())
        return found.hexdigest()

    def left(self) -> list[str]:
        """What lies in the temporary folder, and beside the output, that should not."""
        outputs = {"plan.json", "small.onnx"}
        strays = [
            path.name for path in (self.root / "tmp").iterdir() if not path.name.startswith(TORCH_CACHE)
        ]
        return strays + [path.name for path in (self.root / "out").iterdir() if path.name not in outputs]

    def outputs(self) -> list[Path]:
        """The outputs that are there."""
        return sorted(path for path in (self.root / "out").iterdir() if not path.name.startswith("."))


def essence(path: Path) -> str:
    """What two undisturbed runs agree in: all of a plan, weights and nodes of a model. Raises where it is
    not whole."""
    if path.suffix == ".json":
        return json.dumps(Plan.load(path).to_json(), sort_keys=True)
    ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cache_is_sound(folder: Path) -> bool:
    """Whether SQLite and JSON find no fault in what lies in the cache."""
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    for path in folder.glob("*.sqlite"):
        with closing(connect(path)) as table:
            if table.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                return False
    return True


def undisturbed(place: Place, command: Sequence[str], faults: list[str]) -> str | None:
    """Run ``command`` to its end; what it wrote, and into ``faults`` what is wrong."""
    code, err = place.start(command).finish()
    if code not in (0, 1):  # 1: a latency that was missed
        faults.append(f"next run ended with {code}: {err.strip()[-200:]}")
    if place.left():
        faults.append(f"left after the next run: {place.left()}")
    if not cache_is_sound(place.root / "cache"):
        faults.append("the cache is damaged")
    found = [essence(path) for path in place.outputs()]
    return found[0] if found else None


def killed(
    place: Place, command: Sequence[str], kills: Sequence[tuple[signal.Signals, float]], faults: list[str]
) -> tuple[float, list[int]]:
    """Start one run for each of ``kills`` and send its signal after so many seconds; the longest that one
    took to end, and the exit codes."""
    before = place.digest()
    runs = [place.start(command) for _ in kills]
    started, slowest, codes = time.monotonic(), 0.0, list[int]()
    for process, (sent, moment) in sorted(zip(runs, kills, strict=True), key=lambda each: each[1][1]):
        time.sleep(max(0.0, started + moment - time.monotonic()))
        done = process.is_over()
        if not done:
            os.kill(process.pid, sent)
        asked = time.monotonic()
        code, err = process.finish()
        slowest = max(slowest, time.monotonic() - asked)
        codes.append(code)
        if done or code in (CODES[sent], 0):
            if code in (130, 143) and "nothing is left half-written" not in err:
                faults.append(f"ended with {code} without a word")
        elif code not in PLAIN_DEATHS or "otgraph-" in "".join(place.left()):
            faults.append(f"{sent.name} ended it with {code}: {err.strip()[-200:]}")
    if place.digest() != before:
        faults.append("an input was touched")
    for path in place.outputs():
        try:
            essence(path)
        except Exception as error:  # noqa: BLE001  (whatever is wrong with it is a row of the table)
            faults.append(f"{path.name} is not whole: {type(error).__name__}")
    return slowest, codes


def series(
    root: Path,
    name: str,
    *,
    kills: int,
    every: int,
    samples: int,
    seed: int,
    fork: bool,
    keep: Callable[[Row], object],
) -> None:
    """Tell ``keep`` of each kill of ``name``; ``every``: after so many the next run is looked at."""
    draw = random.Random(f"{seed} {name}")
    place = Place(root / name, fork)
    place.prepare()
    if name == "apply":
        code, err = place.start(place.command("plan", BUDGETS[0], samples)).finish()
        assert code == 0, err
        shutil.move(place.outputs()[0], place.plan)
    budgets = BUDGETS[:1] if name == "apply" else BUDGETS
    expected: dict[int, tuple[float, str | None]] = {}
    for number in range(kills):
        at = number // every % len(budgets)
        command, faults = place.command(name, budgets[at], samples), list[str]()
        if at not in expected:
            started = time.monotonic()
            found = undisturbed(place, command, faults)
            expected[at] = time.monotonic() - started, found
        seconds, same = expected[at]
        if number % 2 == 0:  # with and without an output of an earlier run in its place
            for path in place.outputs():
                path.unlink()
        count = 2 if number % TOGETHER == TOGETHER - 1 else 1
        plan = [(SIGNALS[(number + k) % 3], draw.uniform(0.0, 1.1 * seconds)) for k in range(count)]
        slowest, codes = killed(place, command, plan, faults)
        left = place.left()
        if any(sent is not signal.SIGKILL for sent, _ in plan) and count == 1 and left:
            faults.append(f"{plan[0][0].name} left {left}")
        compared = None
        if number % every == every - 1 or number == kills - 1:
            compared = undisturbed(place, command, faults)
            if compared is None or (at == 0 and compared != same):
                faults.append("the next run gives something else")
        keep(
            {
                "command": name,
                "number": number + 1,
                "budget": " ".join(budgets[at]),
                "signals": " ".join(sent.name for sent, _ in plan),
                "moment": [round(moment / seconds, 3) for _, moment in plan],
                "codes": codes,
                "seconds_to_end": round(slowest, 2),
                "left_by_kill": len(left),
                "next_run": compared is not None,
                "faults": faults,
            }
        )


def summed(rows: Sequence[Row]) -> list[Row]:
    """A row for each command and combination of signals; ``in time``: the command had not ended before."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        kind = row["signals"] if " " not in row["signals"] else "two at once"
        groups.setdefault((row["command"], kind), []).append(row)
    return [
        {
            "command": command,
            "signals": kind,
            "kills": len(found),
            "in time": sum(any(row["codes"]) for row in found),
            "next runs": sum(row["next_run"] for row in found),
            "left by kill": sum(row["left_by_kill"] for row in found),
            "slowest end (s)": max(row["seconds_to_end"] for row in found),
            "faults": sum(len(row["faults"]) for row in found),
        }
        for (command, kind), found in sorted(groups.items())
    ]


def note(file: Path, row: Row) -> None:
    """Add a row to ``file``, and show it while the table is not known."""
    told = "; ".join(row["faults"]) or "as it should be"
    print(
        f"{row['command']} {row['number']}: {row['signals']} {row['codes']} {told}",
        file=sys.stderr,
        flush=True,
    )
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the series and print the table; 1 where anything was not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commands", default="optimize,plan,apply", help="which, with commas")
    parser.add_argument("--kills", type=int, default=30, help="of each command")
    parser.add_argument("--every", type=int, default=1, help="look at the next run after so many kills")
    parser.add_argument("--samples", type=int, default=16, help="calibration inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--jobs", type=int, default=1, help="series at the same time")
    parser.add_argument("--fork", action="store_true", help="import everything once, and fork")
    chosen = parser.parse_args(arguments)
    if chosen.fork:
        importlib.import_module("otgraph.api")
    with tempfile.TemporaryDirectory(prefix="kill-test-") as folder:
        file = Path(folder) / "rows"
        file.touch()
        run = partial(
            series,
            Path(folder),
            kills=chosen.kills,
            every=chosen.every,
            samples=chosen.samples,
            seed=chosen.seed,
            fork=chosen.fork,
            keep=partial(note, file),
        )
        names = chosen.commands.split(",")
        with multiprocessing.get_context("fork").Pool(chosen.jobs) as pool, suppress(KeyboardInterrupt):
            pool.map(run, names, chunksize=1)  # an interrupt leaves the rows that are known
        rows: list[Row] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: (names.index(row["command"]), row["number"]))
    columns = dict.fromkeys(("command", "signals"), "") | dict.fromkeys(
        ("kills", "in time", "next runs"), "d"
    )
    show("kills", summed(rows), {**columns, "left by kill": "d", "slowest end (s)": ".2f", "faults": "d"})
    save(chosen.json, {"summary": summed(rows), "rows": rows})
    return 1 if any(row["faults"] for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
