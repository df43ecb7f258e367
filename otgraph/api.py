"""The Python API: what ``import otgraph as otg`` gives, and what the commands are written against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from otgraph import device
from otgraph.audit.report import Audit
from otgraph.calibrate.width import DEFAULT_CRITERION
from otgraph.data import Array, Data
from otgraph.data_model import ModelData
from otgraph.data_sources import load_data
from otgraph.engines.artifact import Built
from otgraph.engines.catalog import is_model_file
from otgraph.errors import UsageError
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.save import write_graph
from otgraph.graph.specs import bind
from otgraph.inspection.depth_report import DepthReport
from otgraph.inspection.depth_report import inspect_depth as _inspect_depth
from otgraph.inspection.inspection import Inspection
from otgraph.inspection.inspection import inspect as _inspect
from otgraph.latency.protocol import Latency
from otgraph.load import load_model
from otgraph.optimize.planner import make_plan as _make_plan
from otgraph.optimize.run import Optimized
from otgraph.optimize.run import optimize as _optimize
from otgraph.optimize.settings import Settings, quiet
from otgraph.optimize.task import decided
from otgraph.plan.budget import make_budget
from otgraph.plan.plan import Plan
from otgraph.rewrite.contract import Context
from otgraph.rewrite.instrument import SaveFailing
from otgraph.rewrite.manager import PassManager, Result
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.scratch import scratch_folder

__all__ = [
    "Audit", "Data", "DepthReport", "Graph", "Inspection", "Optimized", "Plan", "Settings", "audit", "bench",
    "bench_all", "build", "capture", "inspect", "inspect_depth", "load", "load_data", "load_model",
    "make_plan", "optimize", "run_pipeline",
]  # fmt: skip

Inputs = Data | str | Mapping[str, npt.ArrayLike] | npt.ArrayLike
"""Inputs of a model: ``Data``, a DATA text, named arrays, or one array where the model has one input."""


def load(path: str | Path) -> Graph:
    """Read a model file (``.onnx`` or ``.pt2``), or what ``package.module:callable`` returns."""
    return load_model(str(path))


def inspect(
    graph: Graph, data: Inputs | None = None, *, criterion: str = DEFAULT_CRITERION, seed: int = 0
) -> Inspection:
    """What of ``graph`` can be cut, and with calibration inputs what removing channels of each dim costs.

    Raises ``DataError`` where the inputs do not fit the model, ``UsageError`` for an unknown criterion.
    """
    return _inspect(graph, None if data is None else as_data(data, graph), criterion=criterion, seed=seed)


def inspect_depth(graph: Graph, data: Inputs | None = None, *, seed: int = 0) -> DepthReport:
    """The spans of ``graph`` that one map could replace, its activations, and with calibration inputs what
    each replacement would lose.

    Raises ``DataError`` where the inputs do not fit the model.
    """
    return _inspect_depth(graph, None if data is None else as_data(data, graph), seed=seed)


def make_plan(
    graph: Graph,
    calibration: Inputs,
    settings: Settings | None = None,
    *,
    latency: str | None = None,
    max_drop: float | None = None,
    keep: float | None = None,
    layers: str | int | None = None,
    **choices: Any,
) -> Plan:
    """Decide what to remove from ``graph``.

    Exactly one of the four budgets is given, and ``choices``, the fields of ``Settings``, or ``settings``
    which has it all. Raises ``UsageError``, ``DataError`` or ``EngineMissing``.
    """
    data = as_data(calibration, graph)
    asked = _settings(settings, choices, latency, max_drop, keep, layers)
    return _make_plan(graph, data, decided(graph, data, asked))


def optimize(
    graph: Graph,
    calibration: Inputs,
    settings: Settings | None = None,
    *,
    latency: str | None = None,
    max_drop: float | None = None,
    keep: float | None = None,
    layers: str | int | None = None,
    evaluation: Inputs | None = None,
    metric: str | None = None,
    names: tuple[str, str | None] | None = None,
    **choices: Any,
) -> Optimized:
    """Plan, apply and audit; arguments as in ``make_plan``. ``evaluation``: the audit's data; by default a
    part of the calibration inputs that is kept from everything else, or all of them in turn. ``names``: what
    the audit calls the model, and the result once it is written."""
    asked = _settings(settings, choices, latency, max_drop, keep, layers)
    held = None if evaluation is None else as_data(evaluation, graph)
    return _optimize(graph, as_data(calibration, graph), asked, evaluation=held, metric=metric, names=names)


def audit(
    a: Graph | str | Path, b: Graph | str | Path, data: Inputs, *, plan: Plan | None = None, **choices: Any
) -> Audit:
    """B measured against A. Graphs, and models that no engine loads as they are, are written as ONNX first.

    ``plan``: the one that B was made by, where B's own file does not say on which samples it was fitted.
    ``choices``: ``engine``, ``engine_b``, ``cuda_graph``, ``threads``, ``min_speedup``,
    ``max_drift``, ``metric``, ``task``, ``on_reading``, ``fitted_on``, ``seed``, ``repeats``.
    """
    if plan is not None and plan.calibration is not None:
        choices.setdefault("fitted_on", plan.calibration.sketch())
    with scratch_folder() as folder:
        first, second = _as_onnx(a, Path(folder) / "a.onnx"), _as_onnx(b, Path(folder) / "b.onnx")
        found = device.audit(first, second, _data(data), **choices)
    names = [model.name if isinstance(model, Graph) else str(model) for model in (a, b)]
    return replace(found, a=replace(found.a, path=names[0]), b=replace(found.b, path=names[1]))


def run_pipeline(
    graph: Graph,
    text: str,
    data: Inputs | None = None,
    *,
    seed: int = 0,
    on_failure: Literal["raise", "undo"] = "raise",
    save_failing: Path | None = None,
) -> Result:
    """Run a pipeline such as ``fold-batch-norm,prune-channels{keep=0.5}`` on a copy of ``graph``."""
    passes = parse_pipeline(text)
    inputs = None if data is None else as_data(data, graph)
    instruments = () if save_failing is None else (SaveFailing(save_failing),)
    context = Context(data=inputs, original=graph, seed=seed)
    return PassManager(passes, instruments, on_failure).run(graph, context)


def build(
    model: Graph | str | Path,
    output: Path,
    *,
    engine: str = "onnxruntime",
    calibration: Inputs | None = None,
    **choices: Any,
) -> Built:
    """Write what ``engine`` loads. ONNX Runtime's artifact is the ONNX file itself, which it is tried on.

    ``choices``: ``precision`` (``fp32``, ``fp16``, which keeps in float32 what overflows on ``calibration``,
    or ``int8``, which needs it) and ``options`` (``otgraph.engines.artifact.BuildOptions``). Raises
    ``EngineMissing``, ``ModelError``, ``DataError``, ``UsageError``.
    """
    data = None if calibration is None else _data(calibration)
    with scratch_folder() as folder:
        path = _as_onnx(model, Path(folder) / "model.onnx")
        return device.build(path, Path(output), engine=engine, calibration=data, **choices)


def bench(
    model: Graph | str | Path,
    data: Inputs | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    **choices: Any,
) -> Latency:
    """The latency of one model on one sample; ``choices`` as in ``bench_all``."""
    return bench_all([model], data, shapes=shapes, **choices).measured.latencies[0]


def bench_all(
    models: Sequence[Graph | str | Path],
    data: Inputs | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    **choices: Any,
) -> device.Bench:
    """The latencies of several models, measured in one go in random order, and how each compares with the
    first. ``choices``: ``engine``, ``cuda_graph``, ``threads``, ``seed``."""
    if all(not isinstance(model, Graph) and is_model_file(str(model)) for model in models):
        files = [str(model) for model in models]
        return device.bench_all(files, None if data is None else _data(data), shapes=shapes, **choices)
    graphs = [model if isinstance(model, Graph) else load_model(str(model), shapes) for model in models]
    feeds = _one_sample(graphs[0], data, shapes)
    with scratch_folder() as folder:
        paths = [_as_onnx(graph, Path(folder) / f"{index}.onnx") for index, graph in enumerate(graphs)]
        found = device.bench_all(paths, feeds=feeds, **choices)
    names = [
        graph.name if isinstance(model, Graph) else str(model)
        for model, graph in zip(models, graphs, strict=True)
    ]
    return replace(found, names=tuple(names))


def as_data(inputs: Inputs, graph: Graph) -> ModelData:
    """``inputs`` bound to the inputs of ``graph``: named, and checked against them.

    Raises:
        DataError: an array is missing, empty, of another type or shape, or holds NaN.
    """
    return bind(_data(inputs), graph)


def _data(inputs: Inputs) -> Data:
    if isinstance(inputs, Data):
        return inputs
    return load_data(inputs) if isinstance(inputs, str) else _arrays(inputs)


def _arrays(inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike) -> Data:
    return Data.from_arrays(inputs if isinstance(inputs, Mapping) else {"": inputs})


def _settings(
    settings: Settings | None,
    choices: dict[str, Any],
    latency: str | None,
    max_drop: float | None,
    keep: float | None,
    layers: str | int | None,
) -> Settings:
    if settings is not None:
        twice = [*choices, *(each for each in (latency, max_drop, keep, layers) if each is not None)]
        if twice:
            raise UsageError(f"settings: {twice[0]} is given beside them; put it into them")
        return settings
    budget = make_budget(latency, max_drop, keep, layers)
    known = {key: value for key, value in choices.items() if value is not None}
    for key in ("include", "exclude"):
        known[key] = tuple(known.get(key, ()))
    known.setdefault("criterion", DEFAULT_CRITERION)
    known.setdefault("progress", quiet)
    try:
        return Settings(budget, **known)
    except TypeError as error:
        raise UsageError(f"settings: {error}") from error


def _as_onnx(model: Graph | str | Path, path: Path) -> Path:
    if not isinstance(model, Graph) and is_model_file(str(model)):
        return Path(model)
    graph = model if isinstance(model, Graph) else load_model(str(model))
    write_graph(graph, path)
    return path


def _one_sample(
    graph: Graph, data: Inputs | None, shapes: Mapping[str, Sequence[int]] | None
) -> dict[str, Array]:
    ports = graph.signature.inputs
    if data is not None:
        chunk = as_data(data, graph).chunks[0]
        rows = {p.name: p.shape[0] if p.shape and isinstance(p.shape[0], int) else 1 for p in ports}
        return {port.name: chunk.arrays[port.name][: rows[port.name]] for port in ports}
    sample: dict[str, Array] = {}
    for port, tensor in zip(ports, graph.example, strict=True):
        free = bool(port.shape) and isinstance(port.shape[0], str) and port.name not in (shapes or {})
        sample[port.name] = np.asarray((tensor[:1] if free else tensor).numpy())
    return sample
