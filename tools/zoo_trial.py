"""One model through all stages: captured, analyzed, cut to a random half, and held against the masking
law."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from zoo_models import build

from otgraph.errors import OtgraphError
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.axes.legal import legalize
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import load_onnx
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.kept_statistics import keep_statistics
from otgraph.rewrite.masking import mask_graph, relative_error
from otgraph.rewrite.rewriter import Rewriter

LAW, POWER, ENGINE = 1e-4, 1e-3, 1e-3
"""Limits: of the masking law, of what a cut must change for the law to say anything, of ONNX Runtime."""


LARGE = 500_000_000
"""Networks of so many parameters are held against the law on one sample."""


@dataclass(frozen=True)
class Task:
    """``exports``: a folder for ONNX exports of the whole models, made once. ``onnx_check``: whether the cut
    network is written and run by ONNX Runtime."""

    name: str
    route: str
    exports: Path
    fraction: float = 0.5
    seed: int = 0
    onnx_check: bool = True


@dataclass
class Found:
    """What is known so far; a trial that dies leaves what it had found."""

    row: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book the CPU seconds of the block, and name it in the row should it fail."""
        self.row["stage"] = name
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = round(time.process_time() - start, 3)


def run(task: Task, found: Found) -> None:
    """Fill ``found.row``; raises whatever a stage raises."""
    row = found.row
    with found.stage("build"):
        module, example = build(task.name, task.seed)
    original = _graph(task, module, example, found)
    del module
    row["remarks"] = [str(r) for r in original.remarks][:5]
    with found.stage("axes"):
        axes = analyze(original)
    keep = random_cut(axes, task.fraction, task.seed)
    _describe(row, original, axes)
    with found.stage("rewrite"):
        rewriter = Rewriter(original.copy())
        cut_channels(rewriter, axes, keep)
        cut = rewriter.finish()
    row["left"] = round(parameters(cut) / parameters(original), 4)
    with found.stage("check"):
        _check(row, original, cut, axes, keep)
    if task.onnx_check:
        with found.stage("onnx"):
            row["engine_error"] = _engine_error(cut, task.exports / "cut.onnx")
    row["reason"] = _verdict(row, task)
    row["ok"] = not row["reason"]


def random_cut(axes: AxisMap, fraction: float, seed: int) -> Keep:
    """A random ``fraction`` of every dim that may be cut at all."""
    random = np.random.default_rng(seed)
    keep: dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}
    for dim in axes.prunable():
        mask = np.zeros(dim.size, bool)
        mask[random.permutation(dim.size)[: max(1, round(dim.size * fraction))]] = True
        keep[dim.name] = mask
    return legalize(axes, keep)


def parameters(graph: Graph) -> int:
    """How many floating-point numbers the program stores."""
    return sum(t.numel() for t in graph.tensors().values() if t.is_floating_point())


def _graph(task: Task, module: torch.nn.Module, example: torch.Tensor, found: Found) -> Graph:
    if task.route == "aten":
        with found.stage("capture"):
            return capture(module, example)
    path = task.exports / f"{task.name.replace('/', '_')}.onnx"
    if not path.exists():
        with found.stage("export"):
            captured = capture(module, example)
            captured.save(path)
    with found.stage("capture"):
        graph = load_onnx(path, [example])
    with found.stage("file"):
        found.row["identity"] = _comes_back(graph, path)
    return graph


def _comes_back(graph: Graph, path: Path) -> bool:
    """Whether an untouched graph is written as the file that it was read from."""
    written = path.with_name(f"again_{path.name}")
    try:
        graph.save(written)
        return onnx.load(written) == onnx.load(path)
    finally:
        for file in (written, written.with_name(f"{written.name}.data")):
            file.unlink(missing_ok=True)


def _describe(row: dict[str, Any], graph: Graph, axes: AxisMap) -> None:
    tensors = {n: t for n, t in graph.tensors().items() if t.is_floating_point()}
    total = sum(t.numel() for t in tensors.values())
    free = {p.tensor for d in axes.prunable() for p in d.ports}
    row["parameters"] = total
    row["prunable"] = round(sum(t.numel() for n, t in tensors.items() if n in free) / max(total, 1), 4)
    blocked: Counter[str] = Counter()
    for dim in axes.dims.values():
        if dim.blocked is not None and dim.size > 1:
            names = {p.tensor for p in dim.ports} & tensors.keys()
            blocked[dim.blocked] += sum(tensors[n].numel() for n in names)
    row["blocked"] = {why: round(count / max(total, 1), 4) for why, count in blocked.most_common(8)}
    row["unknown"] = [f"{r.where}: {r.message}" for r in axes.remarks][:8]


def _check(row: dict[str, Any], original: Graph, cut: Graph, axes: AxisMap, keep: Keep) -> None:
    inputs = _inputs(original)
    before = original(*inputs)
    after = cut(*inputs)
    row["same_shapes"] = [a.shape for a in before] == [b.shape for b in after]
    masked = mask_graph(original, axes, keep)
    row["normalized"] = sum(axes.dims[n].normalized and not m.all() for n, m in keep.items())
    reference = keep_statistics(masked, axes, keep)(*inputs)
    row["law"] = float(f"{relative_error(reference, after):.3g}")
    row["power"] = float(f"{relative_error(before, after):.3g}")
    row["finite"] = all(bool(t.isfinite().all()) for t in after if t.is_floating_point())


def _inputs(graph: Graph) -> tuple[torch.Tensor, ...]:
    """The example: both samples, or the first of them where three runs would take a minute by themselves."""
    free = all(isinstance(port.shape[0], str) for port in graph.signature.inputs if port.shape)
    if parameters(graph) < LARGE or not free:
        return graph.example
    return tuple(tensor[:1] for tensor in graph.example)


def _engine_error(cut: Graph, path: Path) -> float:
    path = path.with_name(f"cut_{id(cut)}.onnx")
    try:
        cut.save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = {i.name: t.numpy() for i, t in zip(session.get_inputs(), cut.example, strict=True)}
        outputs = tuple(torch.from_numpy(np.asarray(value)) for value in session.run(None, feeds))
    finally:
        for file in (path, path.with_name(path.name + ".data")):
            file.unlink(missing_ok=True)
    return float(f"{relative_error(cut(*cut.example), outputs):.3g}")


def _verdict(row: dict[str, Any], task: Task) -> str:
    """Why the trial did not pass; empty where it did."""
    if not row.get("identity", True):
        return "loaded and saved untouched, the file is another"
    if not row["same_shapes"]:
        return "the shape of an output changed"
    if not row["finite"]:
        return "outputs are not finite"
    if not row["law"] <= LAW:
        return f"masking law broken: relative error {row['law']:.2g}"
    if row["left"] >= 1:
        return "nothing could be pruned"
    if not row["power"] >= POWER:
        return f"the check has no power: pruning changed the outputs by {row['power']:.2g} only"
    if task.onnx_check and not row["engine_error"] <= ENGINE:
        return f"ONNX Runtime differs: relative error {row['engine_error']:.2g}"
    return ""


def reason_of(error: BaseException) -> str:
    """One line: the kind of an error and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return text if isinstance(error, OtgraphError) else f"{type(error).__name__}: {text}"
