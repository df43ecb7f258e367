"""Times of single nodes: the fitted form, what is timed, and that each kernel is the node it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from otgraph.data import Array
from otgraph.engines.engine import Engine, Model, NodeTime, Session
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.errors import ModelError, OutputError
from otgraph.latency.kernels import Kernel, KernelTime, fit_time, time_kernels
from otgraph.latency.table import LatencyTable

CONV = Kernel("conv", 32, 64, (14, 14), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
DEPTHWISE = Kernel("depthwise", 32, 32, (14, 14), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
LINEAR = Kernel("linear", 64, 16, (4,))
GRID = [(i, o) for i in (32, 24, 16, 8) for o in (64, 48, 32, 16)]


def weight_shape(model: Model) -> tuple[int, ...]:
    assert isinstance(model, bytes)
    return tuple(onnx.load_from_string(model).graph.initializer[0].dims)


@dataclass
class Scripted(Session):
    """Takes as long as ``law`` says of the weight's shape; the engine's own conversions do not count."""

    shape: tuple[int, ...]
    inputs = ()
    outputs = ()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        raise NotImplementedError

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        outputs, inputs = self.shape[:2] if len(self.shape) > 2 else self.shape[::-1]
        ms = 0.01 + 2e-5 * inputs * outputs + 1e-4 * outputs
        return [NodeTime("r", "ReorderInput", 5.0), NodeTime("n", "Conv", ms)]


class Fake(Engine):
    name = "fake"

    def __init__(self) -> None:
        self.loaded: list[tuple[int, ...]] = []

    def unavailable(self) -> str | None:
        return None

    def load(self, model: Model, *, threads: int = 1) -> Session:
        self.loaded.append(weight_shape(model))
        return Scripted(self.loaded[-1])

    def describe(self) -> dict[str, str]:
        return {"engine": "fake"}


def test_known_coefficients_are_recovered() -> None:
    truth = KernelTime(0.02, 3e-5, 2e-4, 1e-4)
    found = fit_time([(i, o, truth.at(i, o)) for i, o in GRID])
    np.testing.assert_allclose(
        [found.constant, found.both, found.inputs, found.outputs], [0.02, 3e-5, 2e-4, 1e-4], rtol=1e-6
    )
    assert found.error < 1e-9


def test_tied_widths_have_only_a_linear_part() -> None:
    found = fit_time([(w, w, 0.01 + 4e-4 * w) for w in (32, 24, 16, 8)], tied=True)
    assert (found.both, found.inputs) == (0.0, 0.0)
    assert (found.constant, found.outputs) == (pytest.approx(0.01), pytest.approx(4e-4))


def test_no_coefficient_is_negative_and_the_error_is_said() -> None:
    falling = fit_time([(8, 8, 1.0), (16, 8, 0.8), (8, 16, 0.9), (16, 16, 0.5)])
    parts = [falling.constant, falling.both, falling.inputs, falling.outputs]
    assert min(parts) >= 0
    worst = max(abs(falling.at(i, o) / t - 1) for i, o, t in [(8, 8, 1.0), (16, 16, 0.5)])
    assert falling.error >= worst > 0.1


def test_small_times_count_as_much_as_large_ones() -> None:
    truth = KernelTime(0.001, 1e-3, 0.0, 0.0)
    noisy = [(i, o, truth.at(i, o) * (1.02 if (i + o) % 3 else 0.98)) for i, o in GRID]
    assert fit_time(noisy).error < 0.05


def test_a_convolution_is_timed_at_sixteen_widths() -> None:
    engine = Fake()
    found = time_kernels(engine, [CONV])
    assert sorted(engine.loaded) == sorted((o, i, 3, 3) for i, o in GRID)
    assert found[CONV].at(20, 40) == pytest.approx(0.01 + 2e-5 * 800 + 4e-3, rel=1e-6)


def test_a_depthwise_one_at_four_and_widths_are_multiples() -> None:
    engine = Fake()
    time_kernels(engine, [DEPTHWISE])
    assert sorted(engine.loaded) == [(w, 1, 3, 3) for w in (8, 16, 24, 32)]
    engine = Fake()
    time_kernels(engine, [LINEAR], multiple=16)
    assert {i for i, _ in engine.loaded} == {64, 48, 32, 16} and {o for _, o in engine.loaded} == {16}


def test_equal_kernels_are_timed_once() -> None:
    engine = Fake()
    said: list[str] = []
    time_kernels(engine, [LINEAR, CONV, LINEAR], progress=said.append)
    assert said == ["timing node 1 of 2", "timing node 2 of 2"]


def test_what_the_engine_cannot_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Fake, model: Model, *, threads: int = 1) -> Session:
        if len(weight_shape(model)) == 4:
            raise ModelError("no convolutions here")
        return Scripted(weight_shape(model))

    monkeypatch.setattr(Fake, "load", refuse)
    assert list(time_kernels(Fake(), [CONV, LINEAR])) == [LINEAR]


def test_a_table_spares_measuring_again(tmp_path: Path) -> None:
    first, again, other = Fake(), Fake(), Fake()
    table = LatencyTable(tmp_path / "t.sqlite", {"engine": "fake", "threads": 1})
    times = time_kernels(first, [CONV, LINEAR], table=table)
    assert (
        time_kernels(again, [CONV, LINEAR], table=LatencyTable(table.path, {"threads": 1, "engine": "fake"}))
        == times
    )
    assert first.loaded and not again.loaded
    time_kernels(other, [CONV], table=LatencyTable(table.path, {"engine": "fake", "threads": 2}))
    assert other.loaded  # another device has times of its own


def test_a_file_that_is_no_table_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    path.write_text("this is no database, however long it may be" * 50)
    with pytest.raises(OutputError, match=r"t\.sqlite: cannot be used as a latency table .*; remove it"):
        LatencyTable(path, {})


@pytest.mark.parametrize("kernel", [CONV, DEPTHWISE, LINEAR], ids=lambda k: k.kind)
def test_each_kind_runs_in_onnxruntime(kernel: Kernel) -> None:
    found = time_kernels(OnnxRuntime(), [kernel.at(8, 8)])
    assert list(found) == [kernel.at(8, 8)]
    assert found[kernel.at(8, 8)].at(8, 8) > 0
