"""PyTorch compiled by ``torch.compile``, which needs a C++ compiler on the CPU.

The graph's functions read constants out of tensors (the bounds of a Clip, the sizes of a Reshape), which
breaks what is compiled into pieces. So it is traced first, on the inputs at hand, into one flat program of
core operators, once per shape.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any, final

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.profiler import ProfilerActivity, profile

from otgraph.data import Array
from otgraph.engines.engine import Engine, Model, NodeTime, Session
from otgraph.engines.pytorch import TorchSession, describe_torch, read_graph
from otgraph.graph.graph import Graph
from otgraph.quiet import quiet

COMPILERS = ("g++", "clang++", "c++")


@final
class TorchCompile(Engine):
    """The default back end (Inductor), compiled at the first call of each input shape."""

    name = "torch-compile"

    def unavailable(self) -> str | None:
        if any(shutil.which(name) for name in COMPILERS):
            return None
        return f"torch.compile finds no C++ compiler; install one of {', '.join(COMPILERS)}"

    def cannot_build(self) -> str | None:
        return "it writes no artifact; it compiles at the first call"

    def load(self, model: Model, *, threads: int = 1) -> Session:
        return CompiledSession(read_graph(model), threads)

    def describe(self) -> dict[str, str]:
        return {**describe_torch(self.name), "options": "inductor, static shapes"}


@final
class CompiledSession(TorchSession):
    """Its nodes are the operators that the compiled code calls; what it fused is one kernel of its own."""

    def __init__(self, graph: Graph, threads: int) -> None:
        super().__init__(graph, self._compiled, threads)
        self._programs: dict[tuple[torch.Size, ...], Any] = {}

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        self.run(feeds)
        best: dict[str, float] = {}
        for _ in range(runs):
            with profile(activities=[ProfilerActivity.CPU]) as found:
                self.run(feeds)
            events: list[Any] = list(found.key_averages())
            for event in events:
                ms = event.self_cpu_time_total / 1e3
                best[event.key] = min(ms, best.get(event.key, ms))
        return [NodeTime(name, name, ms) for name, ms in best.items() if ms > 0]

    def _compiled(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self._programs:
            with quiet():  # it warns of CUDA that it does not find
                self._programs[shapes] = self._compile(tensors)
        return self._programs[shapes](*tensors)

    def _compile(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        flat = make_fx(self.graph.module)(*tensors)
        torch._dynamo.reset()  # pyright: ignore[reportPrivateUsage]  (its cache limit counts all models)
        program = torch.compile(flat, dynamic=False)
        program(*tensors)  # the first call compiles
        return program
