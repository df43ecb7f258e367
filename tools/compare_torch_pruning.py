"""Torch-Pruning and otgraph on the same models: the same share of channels goes, nothing is trained.

    OMP_NUM_THREADS=1 python tools/compare_torch_pruning.py \\
        --models digits torchvision/resnet18 timm/mobilevit_s [--fraction 0.5] [--json F]

Names as in ``zoo.py``, and ``digits`` for the embedded sample in its trained torch form. Both choose channels
by the size of their weights. Torch-Pruning is told the heads of attentions, otgraph nothing. ``edited``: ran
only after the edits by hand that Torch-Pruning's examples make; ``wrong``: breaks the law.

Columns: ``law``, the relative error against the original with the removed channels at zero, the statistics of
norms taken over what is kept (above 2e-4: not the network that was asked for); ``changed``, the same against
the original as it is, without which a small ``law`` would say nothing. CPU seconds: ``graph``, capture or
dependency graph; ``cut``, all that chooses and removes, for otgraph its axis analysis as well; ``check``, of
otgraph its own. ``params`` and ``MACs`` left, and the ``latency`` in ONNX Runtime with its 95 % interval, are
ratios to the original. ``accuracy`` is that of the digit net: otgraph's repaired one has the same widths, its
own choice of channels, and 256 unlabeled images.
"""

from __future__ import annotations

import argparse
import copy
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TIMM_FUSED_ATTN", "0")  # fused, it takes its temperature from what the cut left

import torch
from bench_output import save, show
from bench_width import counts_of
from compare_subject import DIGITS, Subject, make_subject, measured
from torch import nn
from torch_pruning_peer import apply_documented_edits, masked_outputs, prune
from zoo_models import read_names
from zoo_trial import reason_of

import otgraph.api as otg
from otgraph.graph.graph import Graph
from otgraph.optimize.settings import Settings
from otgraph.optimize.study import study
from otgraph.plan.budget import make_budget
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.masking import relative_error
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.sample import calibration_path

LAW, POWER = 2e-4, 1e-3
COLUMNS = {
    "model": "", "tool": "", "ok": "", "law": ".0e", "changed": ".2f", "graph": ".2f", "cut": ".2f",
    "check": ".2f", "params": ".3f", "MACs": ".3f", "latency": ".2f", "interval": "", "accuracy": ".3f",
}  # fmt: skip


def main() -> int:
    """Two rows or three per model; 1 where otgraph failed on any."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", required=True, metavar="FILE|NAME")
    parser.add_argument("--fraction", type=float, default=0.5, help="what is kept of every dim")
    parser.add_argument("--repeats", type=int, default=3, help="fresh sessions for the latency")
    parser.add_argument("--seconds", type=float, default=60, help="CPU seconds a tool may take for a model")
    parser.add_argument("--json", type=Path, metavar="F")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for name in read_names(options.models):
        with tempfile.TemporaryDirectory(prefix="otgraph-") as folder:
            rows += list(rows_of(name, Path(folder), options))
        save(options.json, {"torch-pruning": version("torch-pruning"), "rows": rows})  # so far
    title = f"{options.fraction:g} of every dim, Torch-Pruning {version('torch-pruning')}"
    show(title, rows, COLUMNS)
    for row in rows:
        if "reason" in row:
            print(f"{row['model']}: {row['tool']}: {row['reason']}")
    return int(any(row["tool"].startswith("otgraph") and row["ok"] != "yes" for row in rows))


def rows_of(name: str, folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per tool; what cannot even be captured is one row."""
    try:
        subject = make_subject(name, folder)
    except Exception as error:  # noqa: BLE001  (a model's own code may raise anything)
        yield {"model": name, "tool": "otgraph", "ok": "no", "reason": reason_of(error)[:80]}
        return
    tools = {"otgraph": by_otgraph, "torch-pruning": by_torch_pruning}
    if name == DIGITS:
        tools["otgraph, repaired"] = by_otgraph_repaired
    for tool, run in tools.items():
        row = {"model": name, "tool": tool, "ok": "yes", **attempt(run, subject, options)}
        print(f"{name}: {tool}: {row['ok']}", file=sys.stderr, flush=True)
        yield row


def attempt(
    run: Callable[[Subject, float], tuple[dict[str, Any], Graph]],
    subject: Subject,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """What one tool makes of ``subject``; an error is a row as well."""
    try:
        with cpu_limit(options.seconds):
            row, small = run(subject, options.fraction)
        return _judged(row) | measured(subject, small, options.repeats)
    except Exception as error:  # noqa: BLE001  (either tool may raise anything)
        return {"ok": "no", "reason": reason_of(error)[:80]}


def by_otgraph(subject: Subject, fraction: float) -> tuple[dict[str, Any], Graph]:
    """``prune-channels`` with its built-in check."""
    graph = subject.graph
    passes = parse_pipeline(f"prune-channels{{keep={fraction} normalized=true}}")
    result = PassManager(passes, random_probes=0).run(graph, Context(original=graph))
    (record,) = result.records
    if result.spared:
        raise ValueError(f"{len(result.spared)} dims broke the law and were left whole")
    row = {
        "law": record.check.error if record.check else None,
        "changed": relative_error(graph(*graph.example), result.graph(*graph.example)),
        "graph": subject.capture_seconds,
        "cut": record.cpu_seconds - record.check_seconds,
        "check": record.check_seconds,
    }
    return row, result.graph


def by_otgraph_repaired(subject: Subject, fraction: float) -> tuple[dict[str, Any], Graph]:
    """The same widths by otgraph's own criterion, re-expressed and refitted; approximate: no law."""
    data = otg.load_data(str(calibration_path()))
    start = time.process_time()
    found = study(subject.graph, data, Settings(make_budget(keep=fraction)))
    couplings = found.couplings(counts_of(found, fraction, "all"))
    context = Context(data=found.data, original=found.graph, couplings=couplings)
    result = PassManager(parse_pipeline("apply"), random_probes=0).run(found.graph, context)
    check = sum(record.check_seconds for record in result.records)
    row = {
        "changed": relative_error(subject.graph(subject.example), result.graph(subject.example)),
        "graph": subject.capture_seconds,
        "cut": time.process_time() - start - check,
        "check": check,
    }
    return row, result.graph


def by_torch_pruning(subject: Subject, fraction: float) -> tuple[dict[str, Any], Graph]:
    """``MagnitudePruner``; its documented edits only where the network does not run without."""
    module, example = copy.deepcopy(subject.module), subject.example
    pruned = prune(module, example, fraction)
    with torch.no_grad():
        before = _leaves(subject.module(example))
        edited = not _runs(module, example)
        if edited:
            apply_documented_edits(module)
        after = _leaves(module(example))
    if [t.shape for t in before] != [t.shape for t in after]:
        raise ValueError("the shape of an output changed")
    reference = _leaves(masked_outputs(subject.module, pruned.kept, example))
    row = {
        "law": relative_error(reference, after),
        "changed": relative_error(before, after),
        **pruned.seconds,
        **({"ok": "edited"} if edited else {}),
    }
    return row, otg.capture(module, (example,))


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` in the block once this process has spent so many CPU seconds in it."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {seconds:g} CPU seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    if not row["changed"] >= POWER:
        return {**row, "ok": "no", "reason": "nothing that matters was pruned"}
    if row.get("law") is not None and not row["law"] <= LAW:
        ok = ", ".join(filter(None, (row.get("ok"), "wrong")))
        return {**row, "ok": ok, "reason": "not the original with the removed channels at zero"}
    return row


def _runs(module: nn.Module, example: torch.Tensor) -> bool:
    try:
        module(example)
    except Exception:  # noqa: BLE001  (the network's own code, with widths it does not expect)
        return False
    return True


def _leaves(outputs: Any) -> tuple[torch.Tensor, ...]:
    if isinstance(outputs, torch.Tensor):
        return (outputs,)
    parts: Any = outputs.values() if isinstance(outputs, dict) else outputs
    return tuple(leaf for part in parts for leaf in _leaves(part))


if __name__ == "__main__":
    sys.exit(main())
