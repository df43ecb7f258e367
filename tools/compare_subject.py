"""A model of the comparison with Torch-Pruning, and what a cut leaves of its size and latency."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from bench_width import Judge
from torch import nn
from train_sample import ResNet20
from zoo_models import build
from zoo_trial import parameters

import otgraph.api as otg
from otgraph.audit.structure import structure
from otgraph.engines.catalog import get_engine
from otgraph.graph.graph import Graph
from otgraph.latency.protocol import compare
from otgraph.sample import model_path, test_path

DIGITS = "digits"
"""The name of the embedded sample's trained net."""


@dataclass(frozen=True)
class Subject:
    """A model, captured, with its ONNX file; ``judge`` where there are labels."""

    name: str
    module: nn.Module
    example: torch.Tensor
    graph: Graph
    capture_seconds: float
    path: Path
    judge: Judge | None


def make_subject(name: str, folder: Path) -> Subject:
    """The model called ``name``, its ONNX file in ``folder``. Raises what making it or capture raises."""
    module, example = _digits() if name == DIGITS else build(name)
    own = copy.deepcopy(module)  # capturing ends its parameters' gradients, by which Torch-Pruning traces
    start = time.process_time()
    graph = otg.capture(own, (example,))
    spent = time.process_time() - start
    path = folder / "whole.onnx"
    graph.save(path)
    judge = Judge(graph, otg.load_data(str(test_path()))) if name == DIGITS else None
    return Subject(name, module, example, graph, spent, path, judge)


def measured(subject: Subject, small: Graph, repeats: int) -> dict[str, Any]:
    """Size, arithmetic, latency and accuracy of ``small``, as ratios to the original but the last."""
    path = subject.path.with_name("small.onnx")
    small.save(path)
    engine = get_engine("onnxruntime")
    inputs = onnx.load(subject.path, load_external_data=False).graph.input
    feeds = {inputs[0].name: subject.example.numpy()}
    whole, left = structure(subject.path, feeds).macs, structure(path, feeds).macs
    found = compare(engine, subject.path, path, feeds, repeats=repeats)
    row: dict[str, Any] = {
        "params": parameters(small) / parameters(subject.graph),
        "MACs": left / whole if whole and left is not None else None,
        "latency": found.ratio,
        "interval": f"{found.low:.2f}-{found.high:.2f}",
        "clock": found.clock,
    }
    if subject.judge is not None:
        row["accuracy"], _ = subject.judge(small)
    return row


def _digits() -> tuple[nn.Module, torch.Tensor]:
    """The trained torch net behind the embedded file, whose tensors bear its names."""
    tensors = onnx.load(model_path()).graph.initializer
    state = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in tensors}
    module = ResNet20()
    wanted = module.state_dict()
    known = {name: tensor for name, tensor in state.items() if name in wanted}
    counters = {name: tensor for name, tensor in wanted.items() if name.endswith("num_batches_tracked")}
    module.load_state_dict(counters | known)  # strict: a tensor that is missing is an error
    test = next(iter(otg.load_data(str(test_path())).batches(2)))
    return module.eval(), torch.from_numpy(next(iter(test.arrays.values())))
