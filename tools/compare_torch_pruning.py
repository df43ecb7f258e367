"""Torch-Pruning and otgraph on the same models: the same share of channels goes, nothing is trained.

    python tools/compare_torch_pruning.py --models torchvision/resnet18 torchvision/swin_t [--fraction 0.5]

Both choose channels by the size of their weights. Each cut network must run and keep its outputs' shapes.
Whether otgraph's is the original with the removed channels at zero is checked as it is cut (column ``law``);
Torch-Pruning has no such check, and this script makes none for it. Latency is that of ONNX Runtime, as a
ratio to the whole network, both measured in turn.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import torch_pruning
from bench_output import save, show
from torch import nn
from zoo_models import build, read_names
from zoo_trial import reason_of

import otgraph.api as otg
from otgraph.graph.graph import Graph
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline

COLUMNS = {
    "model": "", "tool": "", "ok": "", "law": ".0e", "left": ".2f", "analysis": ".2f", "cut": ".2f",
    "latency": ".2f", "reason": "",
}  # fmt: skip


def main() -> int:
    """One pair of rows per model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", required=True, metavar="FILE|NAME")
    parser.add_argument("--fraction", type=float, default=0.5, help="what is kept of every dim")
    parser.add_argument("--repeats", type=int, default=20, help="runs of each network for the latency")
    parser.add_argument("--json", type=Path, metavar="F")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for name in read_names(options.models):
        module, example = build(name)
        for tool, run in (("otgraph", by_otgraph), ("torch-pruning", by_torch_pruning)):
            rows.append({"model": name, "tool": tool, **attempt(run, module, example, options)})
    show("side by side", rows, COLUMNS)
    save(options.json, {"rows": rows})
    return 0


def attempt(
    run: Callable[..., dict[str, Any]], module: nn.Module, example: torch.Tensor, options: Any
) -> Any:
    """What one tool makes of a copy of ``module``; an error is a row as well."""
    try:
        return {"ok": "yes", **run(copy.deepcopy(module), example, options.fraction, options.repeats)}
    except Exception as error:  # noqa: BLE001  (either tool may raise anything)
        return {"ok": "no", "reason": reason_of(error)[:80]}


def by_otgraph(module: nn.Module, example: torch.Tensor, fraction: float, repeats: int) -> dict[str, Any]:
    """``prune-channels`` with its built-in check; seconds without it."""
    start = time.process_time()
    graph = otg.capture(module, (example,))
    analysed = time.process_time()
    passes = parse_pipeline(f"prune-channels{{keep={fraction} normalised=true}}")
    result = PassManager(passes, random_probes=0).run(graph, Context(original=graph))
    record = result.records[0]
    small = result.graph
    if result.spared:
        raise ValueError(f"{len(result.spared)} dims broke the law and were left whole")
    return {
        "law": record.check.error if record.check else None,
        "left": _size(small.module) / _size(graph.module),
        "analysis": analysed - start,
        "cut": record.cpu_seconds - record.check_seconds,
        "latency": latency_ratio(graph, small, repeats),
    }


def by_torch_pruning(
    module: nn.Module, example: torch.Tensor, fraction: float, repeats: int
) -> dict[str, Any]:
    """``MagnitudePruner`` as its documentation uses it: the classifier is left out, no model is edited."""
    whole = copy.deepcopy(module)
    with torch.no_grad():
        before = module(example)
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    start = time.process_time()
    pruner = torch_pruning.pruner.MagnitudePruner(
        module,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=1 - fraction,
        ignored_layers=linear[-1:],
    )
    built = time.process_time()
    pruner.step()
    cut = time.process_time()
    with torch.no_grad():
        after = module(example)
    if _shapes(before) != _shapes(after):
        raise ValueError("the shape of an output changed")
    graphs = [otg.capture(network.eval(), (example,)) for network in (whole, module)]
    return {
        "left": _size(module) / _size(whole),
        "analysis": built - start,
        "cut": cut - built,
        "latency": latency_ratio(graphs[0], graphs[1], repeats),
    }


def latency_ratio(whole: Graph, small: Graph, repeats: int) -> float:
    """Median time of ``small`` over that of ``whole`` in ONNX Runtime, on one thread, measured in turn."""
    with tempfile.TemporaryDirectory() as folder:
        runs: list[Callable[[], object]] = []
        for number, graph in enumerate((whole, small)):
            path = Path(folder) / f"{number}.onnx"
            graph.save(path)
            runs.append(_session(path, graph))
        times: list[list[float]] = [[], []]
        for _ in range(repeats):
            for run, seen in zip(runs, times, strict=True):
                start = time.perf_counter()
                run()
                seen.append(time.perf_counter() - start)
    return statistics.median(times[1]) / statistics.median(times[0])


def _session(path: Path, graph: Graph) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {port.name: t.numpy() for port, t in zip(session.get_inputs(), graph.example, strict=True)}
    session.run(None, feeds)
    return lambda: session.run(None, feeds)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    leaves = torch.utils._pytree.tree_leaves(outputs)
    return [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor)]


if __name__ == "__main__":
    sys.exit(main())
