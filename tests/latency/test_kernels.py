"""Times of single nodes: the grid, the copies, the clock, the cache, and that each kernel is its node."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest

from otgraph.data import Array
from otgraph.engines.engine import Engine, Model, NodeTime, Session
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import ModelError
from otgraph.latency import kernel_clock
from otgraph.latency.clock import Clock
from otgraph.latency.kernel import Kernel
from otgraph.latency.kernel_clock import REFERENCE, copies_of, read_costs, reference_ms
from otgraph.latency.kernel_model import kernel_model
from otgraph.latency.kernels import Grid, thinned, time_kernels
from otgraph.latency.table import LatencyTable
from otgraph.window import Window

SAME = ((1, 1), (1, 1))
CONV = Kernel.of(Window(32, 64, 1, (3, 3), (2, 2), SAME, (1, 1)), (14, 14))
DEPTHWISE = Kernel.of(Window(32, 32, 32, (3, 3), (1, 1), SAME, (1, 1)), (14, 14))
LINEAR = Kernel.of(Window(64, 16, 1), (4,))
GROUPED = replace(CONV, window=replace(CONV.window, groups=4))


def grid(kernel: Kernel, inputs: int = 0, outputs: int = 0) -> Grid:
    """Multiples of a step (0: the full width only)."""
    return Grid(
        frozenset(range(inputs, kernel.inputs, inputs) if inputs else ()) | {kernel.inputs},
        frozenset(range(outputs, kernel.outputs, outputs) if outputs else ()) | {kernel.outputs},
    )


def law(shape: tuple[int, ...]) -> float:
    """Milliseconds of a node with weights of this shape."""
    return 0.01 + 1e-6 * prod(shape)


@dataclass
class Machine:
    """A scripted clock: every run of a session takes what its nodes take, times ``load``."""

    now: float = 0.0
    load: float = 1.0
    runs: int = 0

    def clock(self) -> Clock:
        return Clock(lambda: round(self.now), lambda: round(3 * self.now))


@dataclass
class Scripted(Session):
    machine: Machine
    ms: float
    inputs = ()
    outputs = ()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.machine.runs += 1
        self.machine.now += 1e6 * self.ms * self.machine.load
        return {}

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        raise NotImplementedError


class Fake(Engine):
    """Takes ``law`` of each copy's weights, and a hundredth of a millisecond per call and pick."""

    name = "fake"

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine()
        self.loaded: list[tuple[int, ...]] = []

    def unavailable(self) -> str | None:
        return None

    def load(self, model: Model, *, threads: int = 1) -> Session:
        assert isinstance(model, bytes)
        graph = onnx.load_from_string(model).graph
        weights = [tuple(t.dims) for t in graph.initializer if t.name.startswith("w")]
        picks = sum(node.output[0].startswith("p") for node in graph.node)
        self.loaded += weights[:1] if len(weights) == 1 else []
        return Scripted(self.machine, 0.01 + 0.01 * picks + sum(map(law, weights)))

    def describe(self) -> dict[str, str]:
        return {"engine": "fake"}


def own(engine: Fake) -> list[tuple[int, ...]]:
    """The weights that were timed, the reference aside."""
    return sorted(shape for shape in engine.loaded if shape != (64, 64, 3, 3))


def test_the_keys_of_the_table_stay_as_they_were() -> None:
    """What is spelt otherwise is timed again on every device."""
    rest = "space=(14, 14), kernel=(3, 3), stride=(1, 1), pads=(1, 1, 1, 1), dilation=(1, 1), groups=1"
    assert repr(replace(DEPTHWISE, activation="Relu").at(0, 0)) == (
        f"Kernel(kind='depthwise', inputs=0, outputs=0, {rest}, activation='Relu')"
    )
    assert repr(LINEAR.at(0, 0)) == (
        "Kernel(kind='linear', inputs=0, outputs=0, space=(4,), kernel=(), stride=(), pads=(), dilation=(), "
        "groups=1, activation='')"
    )
    assert "groups=4," in repr(GROUPED.at(0, 0)) and "stride=(2, 2)" in repr(GROUPED)


def test_a_kernel_of_other_widths_is_of_the_same_kind() -> None:
    for kernel in (CONV, DEPTHWISE, LINEAR):
        assert kernel.at(1, 1).kind == kernel.kind and kernel.at(1, 1).groups == 1
    assert (DEPTHWISE.macs, DEPTHWISE.at(8, 8).macs) == (14 * 14 * 32 * 9, 14 * 14 * 8 * 9)
    assert (CONV.macs, GROUPED.macs, LINEAR.macs) == (49 * 64 * 32 * 9, 49 * 64 * 8 * 9, 4 * 64 * 16)


class Whole(Fake):
    """Of its single nodes nothing can be learnt."""

    times_kernels = False


def test_where_single_nodes_tell_nothing_their_work_does() -> None:
    engine = Whole()
    grid = Grid(frozenset([32, 16]), frozenset([64, 32]))
    table = time_kernels(engine, {CONV: grid}, clock=engine.machine.clock())[CONV]
    assert engine.loaded == []
    assert table.at(32, 64) == pytest.approx(4 * table.at(16, 32)) and table.at(32, 64) > 0


def test_only_the_copies_count() -> None:
    engine = Fake()
    found = read_costs(engine, [CONV, DEPTHWISE, LINEAR], 1, engine.machine.clock())
    wanted = [law(shape) / law((64, 64, 3, 3)) for shape in ((64, 32, 3, 3), (32, 1, 3, 3), (64, 16))]
    assert found == pytest.approx(wanted, rel=1e-4)
    assert reference_ms(engine, 1, engine.machine.clock()) == pytest.approx(law((64, 64, 3, 3)), rel=1e-4)


def test_what_slows_everything_is_taken_out() -> None:
    machine = Machine()
    quiet = [law((64, 32, 3, 3)) / law((64, 64, 3, 3))]

    def busy() -> int:
        machine.load = 1.4 if machine.runs % 60 > 40 else 1.0
        return round(machine.now)

    engine = Fake(machine)
    assert read_costs(engine, [CONV], 1, Clock(busy, busy)) == pytest.approx(quiet, rel=0.02)
    machine.load = 3.0
    assert read_costs(engine, [CONV], 1, machine.clock()) == pytest.approx(quiet, rel=1e-4)


def test_all_that_is_timed_on_one_engine_has_one_scale() -> None:
    machine = Machine()
    engine = Fake(machine)
    first = time_kernels(engine, {CONV: grid(CONV)}, clock=machine.clock())[CONV]
    machine.load = 2.0
    again = time_kernels(engine, {CONV: grid(CONV)}, clock=machine.clock())[CONV]
    assert again.at(32, 64) == pytest.approx(first.at(32, 64), rel=1e-4)
    fresh = time_kernels(Fake(machine), {CONV: grid(CONV)}, clock=machine.clock())[CONV]
    assert fresh.at(32, 64) == pytest.approx(2 * first.at(32, 64), rel=1e-4)


def test_cpu_time_counts_on_one_thread_and_wall_time_on_two() -> None:
    engine = Fake()
    one = reference_ms(engine, 1, engine.machine.clock())
    assert reference_ms(engine, 2, engine.machine.clock()) == pytest.approx(3 * one, rel=1e-4)


def test_a_clock_that_sees_nothing_gives_times_above_nothing() -> None:
    table = time_kernels(Fake(), {CONV: grid(CONV, 8)}, clock=Clock(lambda: 0, lambda: 0))[CONV]
    assert table.at(32, 64) > 0


def test_small_kernels_are_copied_more_often() -> None:
    large = CONV.at(512, 512)
    assert copies_of(large) == kernel_clock.COPIES[0] < copies_of(CONV.at(8, 8)) == kernel_clock.COPIES[1]


def test_large_kernels_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [CONV.at(i, 64) for i in (8, 16, 24, 32)]
    assert len(kernel_clock._chunks(kernels)) == 1
    monkeypatch.setattr(kernel_clock, "MEMORY", 1.0)
    assert kernel_clock._chunks(kernels) == [[kernel] for kernel in kernels]
    engine = Fake()
    found = read_costs(engine, kernels, 1, engine.machine.clock())
    wanted = [law((64, i, 3, 3)) / law((64, 64, 3, 3)) for i in (8, 16, 24, 32)]
    assert found == pytest.approx(wanted, rel=1e-4)


def test_few_widths_are_all_measured() -> None:
    engine = Fake()
    table = time_kernels(engine, {CONV: grid(CONV, 8, 16)}, clock=engine.machine.clock())[CONV]
    assert own(engine) == sorted((o, i, 3, 3) for i in range(8, 40, 8) for o in range(16, 80, 16))
    assert table.at(24, 40) == pytest.approx(law((40, 24, 3, 3)), rel=1e-4)


def test_many_widths_are_thinned_out_densely_near_the_full_one() -> None:
    assert thinned(range(8, 72, 8)) == (64, 56, 40, 8)
    found = thinned(range(8, 136, 8))
    assert found == (128, 112, 80, 8)
    assert thinned([20, 16, 8, 16]) == (20, 16, 8)


def test_between_thinned_widths_a_bilinear_law_is_met() -> None:
    engine = Fake()
    wide = CONV.at(128, 64)
    table = time_kernels(engine, {wide: grid(wide, 8, 32)}, clock=engine.machine.clock())[wide]
    assert len(own(engine)) == 8
    assert table.at(72, 32) == pytest.approx(law((32, 72, 3, 3)), rel=1e-4)


def test_of_many_widths_on_both_axes_a_cross_and_the_diagonal_are_measured() -> None:
    engine = Fake()
    wide = CONV.at(128, 128)
    table = time_kernels(engine, {wide: grid(wide, 8, 8)}, clock=engine.machine.clock())[wide]
    assert own(engine) == sorted((o, i, 3, 3) for i, o in grid(wide, 8, 8).points(wide))
    assert len(own(engine)) == 10
    assert table.at(80, 80) == pytest.approx(law((80, 80, 3, 3)), rel=1e-4)
    assert table.at(112, 80) == pytest.approx(law((80, 112, 3, 3)), rel=0.02)  # not measured


def test_a_depthwise_one_is_measured_along_the_diagonal() -> None:
    engine = Fake()
    table = time_kernels(engine, {DEPTHWISE: grid(DEPTHWISE, 8, 8)}, clock=engine.machine.clock())[DEPTHWISE]
    assert own(engine) == [(w, 1, 3, 3) for w in (8, 16, 24, 32)]
    assert table.tied
    assert table.at(24, 24) == pytest.approx(law((24, 1, 3, 3)), rel=1e-4)


def test_grids_are_united() -> None:
    assert grid(LINEAR) | grid(LINEAR, 32) == grid(LINEAR, 32)


def test_what_the_engine_cannot_run_is_left_out() -> None:
    class Refusing(Fake):
        def load(self, model: Model, *, threads: int = 1) -> Session:
            assert isinstance(model, bytes)
            if onnx.load_from_string(model).graph.initializer[0].dims[1] == 1:
                raise ModelError("no depthwise convolutions here")
            return super().load(model, threads=threads)

    engine = Refusing()
    wanted = {DEPTHWISE: grid(DEPTHWISE), LINEAR: grid(LINEAR)}
    assert list(time_kernels(engine, wanted, clock=engine.machine.clock())) == [LINEAR]


def test_a_table_spares_measuring_again(tmp_path: Path) -> None:
    path, said = tmp_path / "t.sqlite", list[str]()

    def timed(wanted: dict[Kernel, Grid], **device: object) -> tuple[Fake, float]:
        engine = Fake()
        table = LatencyTable(path, device)
        found = time_kernels(engine, wanted, table=table, clock=engine.machine.clock(), progress=said.append)
        return engine, found[CONV].at(16, 64)

    first, ms = timed({CONV: grid(CONV, 16), LINEAR: grid(LINEAR)}, engine="fake", threads=1)
    assert len(own(first)) == 3
    assert said == ["timing node 1 of 2", "timing node 2 of 2"]
    again, same = timed({CONV: grid(CONV, 16)}, threads=1, engine="fake")
    assert own(again) == []
    assert same == pytest.approx(ms, rel=1e-4)
    wider, _ = timed({CONV: grid(CONV, 8)}, engine="fake", threads=1)
    assert own(wider) == [(64, 8, 3, 3), (64, 24, 3, 3)]  # the other widths are known
    other, _ = timed({CONV: grid(CONV, 16)}, engine="fake", threads=2)
    assert len(own(other)) == 2  # another device has times of its own


def test_a_table_tells_kernels_apart(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path / "t.sqlite", {})
    table.store(CONV, {(32, 64): 2.0, (8, 8): 0.5})
    table.store(CONV, {(8, 8): 0.25})
    assert table.load(CONV.at(8, 8)) == {(32, 64): 2.0, (8, 8): 0.25}
    dense = replace(CONV, window=replace(CONV.window, stride=(1, 1)))
    for other in (dense, replace(CONV, activation="Relu"), GROUPED, DEPTHWISE):
        assert table.load(other) == {}


def test_forms_of_earlier_versions_are_ignored(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path / "t.sqlite", {})
    with closing(sqlite3.connect(table.path)) as connection, connection:
        connection.execute("CREATE TABLE kernel_times (device TEXT, kernel TEXT, form TEXT)")
        connection.execute("INSERT INTO kernel_times VALUES (?, ?, ?)", (table.device, repr(CONV), "{}"))
    assert LatencyTable(table.path, {}).load(CONV) == {}


def test_positions_and_macs_are_those_of_the_node() -> None:
    assert (CONV.positions, CONV.macs) == (49, 49 * 64 * 32 * 9)
    assert (DEPTHWISE.positions, DEPTHWISE.macs) == (196, 196 * 32 * 9)
    assert (LINEAR.positions, LINEAR.macs) == (4, 4 * 64 * 16)
    assert GROUPED.macs == CONV.macs // 4


ACTIVE = [replace(CONV, activation=name) for name in ("Relu", "Clip", "LeakyRelu", "HardSigmoid", "Sigmoid")]


@pytest.mark.parametrize("kernel", [CONV, DEPTHWISE, LINEAR, GROUPED, *ACTIVE], ids=str)
def test_the_model_holds_the_node_so_often(kernel: Kernel) -> None:
    one, many = (onnx.load_from_string(kernel_model(kernel, n, 5)) for n in (1, 5))
    made = {op: sum(n.op_type == op for n in many.graph.node) for op in ("Conv", "Gemm", "Slice")}
    base = {op: sum(n.op_type == op for n in one.graph.node) for op in made}
    extra = {op: made[op] - base[op] for op in made}
    linear = kernel.kind == "linear"
    assert extra == {"Conv": 0 if linear else 4, "Gemm": 4 if linear else 0, "Slice": 0}
    feed = {"x": np.ones(kernel.input_shape, np.float32)}
    ran = {t.op_type for t in OnnxRuntime().load(many.SerializeToString()).profile(feed, 1)}
    assert kernel.activation not in ran  # fused, as in a network
    outputs = OnnxRuntime().load(many.SerializeToString()).run(feed)
    assert next(iter(outputs.values())).size <= 16


@pytest.mark.parametrize("kernel", [CONV, DEPTHWISE, LINEAR, GROUPED], ids=lambda k: k.kind)
def test_each_kind_runs_in_onnxruntime(kernel: Kernel) -> None:
    small = kernel.at(8, 8)
    found = time_kernels(OnnxRuntime(), {small: grid(small)})
    assert list(found) == [small]
    assert found[small].at(8, 8) > 0


def test_the_reference_is_a_kernel_like_others() -> None:
    engine = Fake()
    assert read_costs(engine, [REFERENCE], 1, engine.machine.clock()) == pytest.approx([1.0], rel=1e-4)


def test_the_folder_of_a_table_is_made(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path / "new" / "folder" / "t.sqlite", {})
    assert table.load(CONV) == {}
