"""PyTorch as an engine: the network as otgraph reads it, run eagerly. Needs torch; nothing else here does."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import fx

from otgraph.data import Array
from otgraph.data_check import TensorSpec
from otgraph.engines.engine import Engine, Model, NodeTime, Session
from otgraph.engines.onnx_file import parse_onnx
from otgraph.engines.processor import processor
from otgraph.errors import ModelError
from otgraph.graph.graph import Graph, Port, label, op_name
from otgraph.graph.onnx.importer import import_model, load_onnx

Call = Callable[..., tuple[torch.Tensor, ...]]


@final
class TorchEager(Engine):
    """One operator after the other, on the CPU."""

    name = "torch"

    def unavailable(self) -> str | None:
        return None

    def cannot_build(self) -> str | None:
        return "it writes no artifact; save a graph's module with torch.export"

    def load(self, model: Model, *, threads: int = 1) -> Session:
        graph = read_graph(model)
        return TorchSession(graph, graph.module, threads)

    def describe(self) -> dict[str, str]:
        return describe_torch(self.name)


class TorchSession(Session):
    """``call`` is the graph's module, or what was compiled of it."""

    def __init__(self, graph: Graph, call: Call, threads: int) -> None:
        self.graph = graph
        self.call = call
        self.threads = threads
        self.inputs = tuple(map(_spec, graph.signature.inputs))
        self.outputs = tuple(map(_spec, graph.signature.outputs))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        results = self._guarded(lambda: self.call(*self._tensors(feeds)))
        return {spec.name: value.numpy() for spec, value in zip(self.outputs, results, strict=True)}

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        tensors = self._tensors(feeds)
        watch = _Stopwatch(self.graph.module)
        for _ in range(1 + runs):
            self._guarded(lambda: watch.run(*tensors))
        return [NodeTime(label(node), op_name(node), ms) for node, ms in watch.best.items()]

    def describe(self) -> dict[str, str]:
        types = {str(tensor.dtype) for tensor in self.graph.tensors().values() if tensor.is_floating_point()}
        names = sorted(_PRECISIONS.get(name, name) for name in types)
        return {**super().describe(), "threads": str(self.threads), "precision": " ".join(names) or "fp32"}

    def _tensors(self, feeds: Mapping[str, Array]) -> list[torch.Tensor]:
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            raise ModelError(f"{self.graph.name}: no value for input {missing[0]}; give one")
        return [torch.from_numpy(np.ascontiguousarray(feeds[spec.name])) for spec in self.inputs]

    def _guarded(self, call: Callable[[], Any]) -> Any:
        try:
            with torch.no_grad(), threads_of_torch(self.threads):
                return call()
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"{self.graph.name}: torch cannot run it: {reason}; check that the model takes such inputs"
            ) from error


class _Stopwatch(fx.Interpreter):
    """Runs a module node by node; ``best`` is each node's shortest time in milliseconds."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.best: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        started = time.perf_counter_ns()
        result = super().run_node(n)
        if n.op not in ("placeholder", "get_attr", "output"):
            ms = (time.perf_counter_ns() - started) / 1e6
            self.best[n] = min(ms, self.best.get(n, ms))
        return result


_PRECISIONS = {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}


def read_graph(model: Model) -> Graph:
    """The graph of an ONNX file, or of the bytes of one. Raises ``ModelError``."""
    return load_onnx(model) if isinstance(model, Path) else import_model(parse_onnx(model))


def describe_torch(name: str) -> dict[str, str]:
    """What every torch engine says of itself."""
    return {
        "engine": name,
        "version": torch.__version__,
        "device": "CPU",
        "processor": processor(),
        "machine": platform.machine(),
    }


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """torch's threads belong to the process, so they are set for the call and put back."""
    before = torch.get_num_threads()
    if before != threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if before != threads:
            torch.set_num_threads(before)


def _spec(port: Port) -> TensorSpec:
    return TensorSpec(port.name, torch.empty((), dtype=port.dtype).numpy().dtype, port.shape)
