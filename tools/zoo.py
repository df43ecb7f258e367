"""Every model: captured, analyzed, half of everything cut at random, and the result held against the
original.

    python tools/zoo.py --models torchvision/resnet18 timm/vit_small_patch16_224
    python tools/zoo.py --models zoo.txt --route both --json zoo.json

Names are ``family/architecture`` (families: torchvision, torchvision-segmentation, torchvision-video, timm),
or files of them, one a line. Weights are random and nothing is downloaded. Each model runs in a process of
its own under limits of CPU time (``--cpu-seconds``, for everything after the capture) and memory. A model
passes when the cut network runs, keeps the shapes of its outputs, equals the original with all that was cut
at zero (relative error ≤ 1e-4; norms take their statistics over what is kept), differs from the uncut
original, is smaller, and gives the same outputs in ONNX Runtime (≤ 1e-3). By the route through ONNX the
export, loaded and saved untouched, has to be the same model as well.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.onnx
from bench_output import machine, show
from zoo_models import read_names
from zoo_trial import Found, Task, reason_of, run

COLUMNS = {
    "model": "",
    "route": "",
    "ok": "",
    "left": ".2f",
    "prunable": ".2f",
    "law": ".0e",
    "power": ".0e",
    "engine_error": ".0e",
    "capture": ".1f",
    "axes": ".2f",
    "rewrite": ".2f",
    "reason": "",
}


def main() -> int:
    """Run the trials; exit code 1 when a model did not pass."""
    options = _arguments()
    names = read_names(options.models)
    routes = ("aten", "onnx") if options.route == "both" else (options.route,)
    _import_what_children_need(names)
    with tempfile.TemporaryDirectory() as scratch:
        exports = Path(options.exports or scratch)
        exports.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, Any]] = []
        for name in names:
            for route in routes:
                task = Task(name, route, exports, options.fraction, options.seed, not options.no_engine)
                rows.append(_in_child(task, options.cpu_seconds, options.memory))
                _report(rows[-1])
                _save(options.json, rows)
            if options.exports is None:
                for file in exports.iterdir():
                    file.unlink()
    show("zoo", [_flat(row) for row in rows], COLUMNS)
    for route in routes:
        print(summary(route, [row for row in rows if row["route"] == route]))
    return 0 if all(row["ok"] for row in rows) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", required=True, metavar="FILE|NAME")
    parser.add_argument("--route", choices=("aten", "onnx", "both"), default="aten")
    parser.add_argument("--fraction", type=float, default=0.5, help="what is kept of every dim")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu-seconds", type=int, default=60, help="limit, the capture excluded")
    parser.add_argument("--memory", type=float, default=16.0, help="limit of a process, in GB")
    parser.add_argument("--no-engine", action="store_true", help="leave ONNX Runtime out")
    parser.add_argument("--exports", type=Path, help="a folder that keeps the exports of the whole models")
    parser.add_argument("--json", type=Path, metavar="F")
    return parser.parse_args()


def _import_what_children_need(names: Sequence[str]) -> None:
    """Once, here: children are forks."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if any(name.startswith("torchvision") for name in names):
        import torchvision.models.segmentation  # noqa: F401, PLC0415
    if any(name.startswith("timm/") for name in names):
        import timm  # noqa: F401, PLC0415


def _in_child(task: Task, cpu_seconds: int, memory: float) -> dict[str, Any]:
    """The row of one trial, whatever becomes of the process that runs it."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(task, cpu_seconds, memory, sender))
    child.start()
    sender.close()
    row: dict[str, Any] = {"model": task.name, "route": task.route, "ok": False}
    try:
        while True:
            row |= receiver.recv()
    except EOFError:
        child.join()
    if not row.get("reason") and not row["ok"]:
        stage = row.get("stage", "start")
        code = child.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        row["reason"] = f"the process ended in stage {stage} ({how})"
    return row


def _child(task: Task, cpu_seconds: int, memory: float, sender: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    limit = int(memory * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    signal.signal(signal.SIGXCPU, _out_of_time)
    found = _Limited({}, cpu_seconds, sender)
    try:
        run(task, found)
    except BaseException as error:  # noqa: BLE001  (whatever a model does is a row of the table)
        found.row["ok"] = False
        found.row["reason"] = f"{found.row.get('stage')}: {reason_of(error)}"
        found.row["trace"] = traceback.format_exc().splitlines()[-12:]
    sender.send({**found.row, "cpu_seconds": found.seconds})
    sender.close()


class _Limited(Found):
    """Tells the parent each stage, and starts the clock at the first one that is no preparation."""

    def __init__(self, row: dict[str, Any], cpu_seconds: int, sender: Connection) -> None:
        super().__init__(row)
        self.left = cpu_seconds
        self.sender = sender

    def stage(self, name: str) -> Any:
        spent = sum(s for stage, s in self.seconds.items() if stage in ("axes", "rewrite", "check"))
        free = name in ("build", "capture", "export", "file", "onnx")
        limit = 3600 if free else max(1, int(self.left - spent))
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + limit, resource.RLIM_INFINITY))
        self.sender.send({"stage": name, "cpu_seconds": dict(self.seconds)})
        return super().stage(name)


def _out_of_time(number: int, frame: Any) -> None:
    raise TimeoutError("more CPU seconds than allowed")


def _report(row: dict[str, Any]) -> None:
    figures = f"left {row['left']:.2f}, law {row['law']:.0e}" if "law" in row else ""
    seconds = " ".join(f"{k}={v:.1f}" for k, v in row.get("cpu_seconds", {}).items())
    print(f"{'ok  ' if row['ok'] else 'FAIL'} {row['model']} {row['route']}: {figures} {seconds} "
          f"{row.get('reason', '')}", file=sys.stderr, flush=True)  # fmt: skip


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **row.get("cpu_seconds", {}), "ok": "yes" if row["ok"] else "no"}


def _save(path: Path | None, rows: Sequence[dict[str, Any]]) -> None:
    if path is not None:
        document = {"command": sys.argv, "machine": machine(), "models": rows}
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def summary(route: str, rows: Sequence[dict[str, Any]]) -> str:
    """Totals of one route, and its three slowest models."""
    passed = [row for row in rows if row["ok"]]
    left = [row["left"] for row in rows if "left" in row]
    work = {
        row["model"]: sum(row["cpu_seconds"].get(stage, 0.0) for stage in ("axes", "rewrite"))
        for row in rows
        if "rewrite" in row.get("cpu_seconds", {})
    }
    lines = [f"{route}: {len(passed)} of {len(rows)} pass"]
    if left and work:
        slowest = sorted(work, key=lambda name: -work[name])[:3]
        lines.append(f"  parameters left, median: {statistics.median(left):.3f}")
        lines.append(f"  analysis and rewrite, median: {statistics.median(work.values()):.2f} CPU s")
        lines.append("  slowest: " + ", ".join(f"{name} {work[name]:.1f} s" for name in slowest))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
