"""Two networks side by side: each node once, only the frontier held, files when that is too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.calibrate.batches import split_batches
from otgraph.data import Chunk, Data
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.repair.frontier import Execution
from otgraph.repair.lockstep import Lockstep
from otgraph.repair.memory import Memory
from otgraph.repair.spill import SpillFile, spill


def chain(depth: int, scale: float = 1.0) -> Graph:
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())]
    module = nn.Sequential(*layers)
    with torch.no_grad():
        module[2].weight *= scale
    return capture(module, torch.zeros(2, 4, 8, 8))


def batches(n: int = 3) -> list[tuple[torch.Tensor, ...]]:
    return [(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)),) for i in range(n)]


def walk(pair: Lockstep):
    return pair.walk(lambda _: None, lambda _: None, {})


def test_outputs_are_those_of_both_networks() -> None:
    new, original = chain(3, 0.5), chain(3)
    walked = walk(Lockstep(new, original, batches(), Memory(1 << 40)))
    for inputs, ours, theirs in zip(batches(), walked.outputs, walked.reference, strict=True):
        assert torch.equal(new(*inputs)[0], ours[0]) and torch.equal(original(*inputs)[0], theirs[0])


def test_each_node_is_executed_once_and_the_common_prefix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()
    plain = Execution.evaluate

    def counted(self: Execution, node: torch.fx.Node, index: int, found: Mapping[str, Any]):
        counts[node.name] += 1
        return plain(self, node, index, found)

    monkeypatch.setattr(Execution, "evaluate", counted)
    pair = Lockstep(chain(3, 0.5), chain(3), batches(), Memory(1 << 40))
    walk(pair)
    assert all(n == 3 * (1 if name in pair.same else 2) for name, n in counts.items())
    assert len(pair.same & counts.keys()) == 3  # the input, the first convolution and its activation


def test_memory_is_the_frontier_not_the_depth() -> None:
    peaks = []
    for depth in (3, 12):
        memory = Memory(1 << 40)
        walk(Lockstep(chain(depth, 0.5), chain(depth), batches(), memory))
        peaks.append(memory.peak)
    one = 3 * 2 * 4 * 8 * 8 * 4
    assert peaks[0] == peaks[1] and peaks[1] <= 5 * one


def test_pinned_values_are_held_and_then_freed() -> None:
    graph = chain(3)
    program = Execution(graph, batches(), Memory(1 << 40))
    first = next(n.name for n in graph.module.graph.nodes if n.op == "call_function")
    program.pin(first)
    program.advance_to("output")
    assert set(program.values) == {first, "output"}
    program.unpin(first)
    assert set(program.values) == {"output"}


def test_values_beyond_the_limit_go_to_files_that_vanish(tmp_path: Path) -> None:
    memory = Memory(8_000, tmp_path)
    new, original = chain(3, 0.5), chain(3)
    walked = walk(Lockstep(new, original, batches(), memory))
    assert memory.spilled > 0 and memory.peak <= 8_000
    assert torch.equal(walked.outputs[1][0], new(*batches()[1])[0])
    assert list(tmp_path.iterdir()) == []


def test_a_spilled_tensor_is_the_same(tmp_path: Path) -> None:
    value = torch.randn(3, 4).to(torch.bfloat16)
    file = SpillFile(tmp_path)
    stored = [spill(v, file) for v in (value, value.t(), value[:, ::2], value[None].expand(2, 3, 4))]
    assert torch.equal(stored[0].load(), value)
    assert torch.equal(stored[1].load(), value.t()) and stored[1].load().stride() == value.t().stride()
    assert torch.equal(stored[2].load(), value[:, ::2])
    assert torch.equal(stored[3].load(), value[None].expand(2, 3, 4))


def test_batches_keep_folds_apart_and_use_each_input_once() -> None:
    graph = chain(2)
    x = np.arange(21, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 8, 8), np.float32)
    data = Data((Chunk({"x": x[:20]}), Chunk({"x": x[20:]})))
    found = split_batches(graph, data, 4, batch_size=3, seed=1)
    seen = sorted(int(v) for batch in found for v in batch.inputs[0][:, 0, 0, 0])
    assert seen == list(range(21))
    sizes = Counter()
    for batch in found:
        assert len(batch.inputs[0]) <= 3
        sizes[batch.fold] += len(batch.inputs[0])
    assert sorted(sizes.values()) == [5, 5, 5, 6]
    assert sum(len(b.inputs[0]) for b in split_batches(graph, data, 4, limit=8)) == 8
