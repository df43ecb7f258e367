"""What is held is counted, all of it, and stays within the limit; with the broken cases that would not."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from otgraph import heap
from otgraph.data import Data
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.repair import memory as memory_module
from otgraph.repair.checkpoints import Checkpoints, Smallest
from otgraph.repair.frontier import Execution
from otgraph.repair.least_squares import LeastSquaresOptions, repair_least_squares
from otgraph.repair.memory import Memory, Values
from otgraph.repair.teacher import Teacher

KB = 1024


def wide(depth: int = 4) -> Graph:
    """Narrow and wide values in turn: 1 KB and 16 KB of each sample."""
    torch.manual_seed(0)
    blocks = [
        (nn.Conv2d(4, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.Conv2d(64, 4, 1))
        for _ in range(depth)
    ]
    return capture(nn.Sequential(*(layer for block in blocks for layer in block)), torch.zeros(2, 4, 8, 8))


def inputs(n: int = 6) -> list[tuple[torch.Tensor, ...]]:
    return [(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)),) for i in range(n)]


def damaged(graph: Graph) -> Graph:
    new = graph.copy()
    with torch.no_grad():
        first = next(name for name, tensor in new.tensors().items() if tensor.dim() == 4)
        new.tensor(first)[::2] *= 0.5
    return new


class Watched(Memory):
    """Checks the limit whenever something may have changed, by its own count of what is held."""

    def admit(self, value: object) -> bool:
        allowed = super().admit(value)
        assert self.used() <= self.limit
        return allowed


def test_what_only_put_off_nodes_need_is_never_held() -> None:
    graph = wide()
    memory = Memory(1 << 40)
    program = Execution(graph, inputs(), memory)
    program.advance_to("output")
    assert list(program.values) == ["output"]
    assert memory.peak == 6 * 2 * KB  # the outputs; a wide value alone would be 6 * 32 KB
    eager = Memory(1 << 40)
    other = Execution(graph, inputs(), eager)
    for node in graph.module.graph.nodes:
        if node.op != "get_attr":
            other.step(node)
            assert other.values is not None  # looks each time: nothing can be put off
    assert eager.peak >= 6 * 32 * KB
    for a, b in zip(program.finish(), other.finish(), strict=True):
        assert torch.equal(a[0], b[0])


@pytest.mark.parametrize("limit", [0, 40 * KB, 150 * KB])
def test_a_program_holds_no_more_than_its_limit(limit: int, tmp_path: Path) -> None:
    graph = wide()
    memory = Watched(limit, tmp_path)
    program = Execution(graph, inputs(), memory)
    for node in graph.module.graph.nodes:
        if node.op != "get_attr":
            program.step(node)
            assert len(program.values) and memory.used() <= limit
    assert memory.peak <= limit and memory.spilled > 0
    for batch, found in zip(inputs(), program.finish(), strict=True):
        assert torch.equal(found[0], graph(*batch)[0])
    assert list(tmp_path.iterdir()) == []


def test_without_files_the_limit_would_be_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "spill", lambda value, file: value)
    with pytest.raises(AssertionError):
        test_a_program_holds_no_more_than_its_limit(40 * KB, tmp_path)


def test_everything_that_a_repair_holds_is_counted() -> None:
    original = wide()
    batches = inputs()
    sampling = LeastSquaresOptions().sampling
    bare = Teacher(original, batches, len(batches), sampling)
    rich = Teacher(original, batches, len(batches), sampling, hold=1 << 30)

    def counted(teacher: Teacher) -> int:
        memory = Memory(1 << 40)
        memory.watch(teacher)
        return memory.used()

    values = sum(4 * 64 * 8 * 8 * 2 * 4 * 2 for _ in batches)
    assert counted(bare) >= 6 * 2 * KB and counted(rich) >= counted(bare) + values // 2
    memory = Memory(1 << 40)
    memory.reserve(5 * KB)
    assert memory.used() == 5 * KB


def test_a_tight_limit_changes_no_result() -> None:
    original = wide()
    new = damaged(original)
    data = Data.from_arrays({"input_1": torch.cat([batch[0] for batch in inputs(20)]).numpy()})
    found = [
        repair_least_squares(new, original, data, LeastSquaresOptions(memory=limit)) for limit in (0, 1 << 40)
    ]
    assert found[0].spilled > 0 and found[1].spilled == 0
    assert found[0].updates.keys() == found[1].updates.keys() and found[0].updates
    assert all(torch.equal(found[0].updates[name], found[1].updates[name]) for name in found[0].updates)
    assert found[0].after == found[1].after


def test_checkpoints_never_hold_more_than_they_may() -> None:
    graph = wide()
    batches = inputs()
    limit = 100 * KB
    points = Checkpoints(graph, batches, limit, lambda *_: None)
    held: dict[int, int] = {}
    points.storages(held)
    outputs = 6 * 2 * KB
    assert 50 * KB < sum(held.values()) <= limit + outputs


def test_the_smallest_are_held_and_nothing_above_the_limit_meanwhile() -> None:
    sizes = [7, 3, 9, 3, 1, 8, 2]
    smallest = Smallest(4 * 9)
    most = 0
    for number, size in enumerate(sizes):
        smallest.offer(str(number), torch.zeros(size))
        most = max(most, sum(value.numel() for value in smallest.values.values()))
    assert most <= 9 and set(smallest.values) == {"4", "6", "1", "3"}
    again = Smallest(4 * 9, smallest.values.keys())
    for number, size in enumerate(sizes):
        again.offer(str(number), torch.zeros(size))
    assert again.values.keys() == smallest.values.keys()


def test_values_are_freed_with_their_program_and_not_when_somebody_collects() -> None:
    gc.disable()
    try:
        memory = Memory(1 << 40)
        program = Execution(wide(), inputs(), memory)
        program.advance_to("output")
        value = weakref.ref(program.values["output"][0][0])
        assert value() is not None and memory.used() > 0
        del program
        assert value() is None and memory.used() == 0
    finally:
        gc.enable()


def test_a_tuple_goes_to_a_file_too_and_a_view_costs_nothing(tmp_path: Path) -> None:
    memory = Memory(0, tmp_path)
    values = Values(memory)
    pair = (torch.arange(6.0), torch.zeros(0), 3)
    values.append(pair)
    assert memory.spilled == 24
    back = values[0]
    assert torch.equal(back[0], pair[0]) and back[1].shape == (0,) and back[2] == 3

    roomy = Memory(100, tmp_path)
    holder = Execution(wide(), [], roomy)
    whole = torch.zeros(20)
    assert roomy.admit(whole)
    assert not roomy.admit(torch.zeros(26)) and holder is not None


def test_pages_are_kept_within_and_given_back_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, int] | str] = []

    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            said.append((option, value))
            return 1

        @staticmethod
        def malloc_trim(_: int) -> int:
            said.append("trim")
            return 1

    monkeypatch.setattr(heap.sys, "platform", "linux")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: Library)
    with pytest.raises(RuntimeError), heap.kept_pages():
        begun = list(said)
        with heap.kept_pages():
            assert said == begun  # the C library has one heap
        assert said == begun and (-4, 0) in begun
        raise RuntimeError
    assert said[-1] == "trim" and (-4, 65536) in said[len(begun) :]
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())  # musl has no such function
    with heap.kept_pages():
        pass


def test_freed_pages_go_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Library:
        malloc_trim = staticmethod(asked.append)

    monkeypatch.setattr(heap.sys, "platform", "linux")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: Library)
    heap.give_back()
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())  # musl has no such function
    heap.give_back()
    monkeypatch.setattr(heap.sys, "platform", "win32")
    heap.give_back()
    assert asked == [0]
