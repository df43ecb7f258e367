"""B against A on inputs a little unlike those compared on."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import jsonschema
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper, parser
from rich.console import Console

from otgraph.audit import Audit, audit, audit_schema, summary
from otgraph.audit.fidelity import look
from otgraph.audit.html import render_html
from otgraph.audit.shifts import CHANGES, DISTINCT, INPUTS, Shift, Shifts, shifts
from otgraph.data import Array, Data
from otgraph.data_check import TensorSpec
from otgraph.data_model import ModelData
from otgraph.errors import ModelError

Floats = npt.NDArray[np.floating]
Function = Callable[[Floats, Floats], Floats]


class Net:
    """A network as one function of two inputs."""

    def __init__(self, function: Function, dtype: str = "float32") -> None:
        self.inputs = (
            TensorSpec("x", np.dtype(dtype), ("batch", 40)),
            TensorSpec("flag", np.dtype("float32"), ("batch", 2)),
        )
        self.outputs = (TensorSpec("y", np.dtype("float32"), ("batch", 40)),)
        self._function = function
        self.seen: list[dict[str, Floats]] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        given: dict[str, Floats] = {name: np.asarray(array, np.float64) for name, array in feeds.items()}
        self.seen.append(given)
        return {"y": self._function(given["x"], given["flag"]).astype(np.float32)}


def linear(x: Floats, flag: Floats) -> Floats:
    return 2.0 * x


def clipped(x: Floats, flag: Floats) -> Floats:
    """As ``linear`` within what the inputs below hold, and no further."""
    return 2.0 * np.clip(x, -1.0, 1.0)


def _data(dtype: str = "float32", values: int = 1000, nets: Net | None = None) -> ModelData:
    draw = np.random.default_rng(0)
    x = np.linspace(-1, 1, values)[draw.integers(values, size=(30, 40))].astype(dtype)
    flag = draw.integers(2, size=(30, 2)).astype(np.float32)
    specs = (nets or Net(linear, dtype)).inputs
    return ModelData.of(Data.from_arrays({"x": x, "flag": flag}), specs)


def _shifts(a: Net, b: Net, inputs: ModelData) -> Shifts | None:
    return shifts(a, b, inputs, look(a, inputs, "regression"))


def test_what_agrees_on_the_inputs_and_not_beyond_is_found_out() -> None:
    found = _shifts(Net(linear), Net(clipped), _data())
    assert found is not None and found.samples == INPUTS and found.unchanged == 0.0
    drifts = {shift.name: shift.drift for shift in found.shifts}
    assert list(drifts) == ["contrast × 0.5", "contrast × 1.5", "noise of 10 %"] == list(CHANGES)
    assert drifts["contrast × 0.5"] == 0.0
    assert drifts["contrast × 1.5"] is not None and drifts["contrast × 1.5"] > 0.05
    assert drifts["noise of 10 %"] is not None and 0.0 < drifts["noise of 10 %"] < 0.05


def test_contrast_and_noise_are_those_of_each_sample() -> None:
    a, inputs = Net(linear), _data()
    _shifts(a, Net(linear), inputs)
    runs = [np.concatenate([feeds["x"] for feeds in a.seen[-INPUTS * at :][:INPUTS]]) for at in (4, 3, 2, 1)]
    plain, half, more, noisy = runs
    for changed, factor in ((half, 0.5), (more, 1.5)):
        np.testing.assert_allclose(changed.std(1), factor * plain.std(1), rtol=1e-5)
        np.testing.assert_allclose(changed.mean(1), plain.mean(1), atol=1e-6)
    noise = (noisy - plain).std(1) / plain.std(1)
    assert ((noise > 0.05) & (noise < 0.15)).all()
    assert all(set(np.unique(feeds["flag"])) <= {0.0, 1.0} for feeds in a.seen)


def test_the_same_draw_is_made_again() -> None:
    assert _shifts(Net(linear), Net(clipped), _data()) == _shifts(Net(linear), Net(clipped), _data())


@pytest.mark.parametrize(("dtype", "values"), [("int64", 3), ("float32", DISTINCT)])
def test_inputs_that_are_not_continuous_are_left_alone(dtype: str, values: int) -> None:
    a = Net(linear, dtype)
    assert _shifts(a, a, _data(dtype, values, a)) is None


def test_a_change_that_cannot_be_compared_says_so() -> None:
    def shy(x: Floats, flag: Floats) -> Floats:
        if abs(x).max() > 1.0:
            raise ModelError("net: no such value")
        return linear(x, flag)

    found = _shifts(Net(linear), Net(shy), _data())
    assert found is not None
    assert [shift.drift is None for shift in found.shifts] == [False, True, True]


MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,6] x) => (float[N,4] y) {
    h = Gemm (x, w)
    r = Relu (h)
    y = Gemm (r, v)
}"""


def _file(path: Path, scale: float) -> Path:
    draw, model = np.random.default_rng(0), parser.parse_model(MODEL)
    for name, shape, factor in (("w", (6, 8), 1.0), ("v", (8, 4), scale)):
        values = (factor * draw.normal(size=shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("shifts")
    a, b = _file(folder / "a.onnx", 1.0), _file(folder / "b.onnx", 1.01)
    x = np.random.default_rng(1).normal(size=(12, 6)).astype(np.float32)
    return audit(a, b, Data.from_arrays({"x": x}), task="regression", repeats=1)


def _text(found: Audit) -> str:
    out = io.StringIO()
    Console(file=out, width=400).print(summary(found))
    return out.getvalue()


def test_the_audit_shows_it_everywhere(audited: Audit) -> None:
    document = audited.to_json()
    jsonschema.validate(document, audit_schema())
    assert document["shifts"]["samples"] == INPUTS and len(document["shifts"]["shifts"]) == 3
    assert "on 8 inputs moved a little, relative L2: as they are " in _text(audited)
    page = render_html(audited)
    assert "On inputs a little unlike these" in page and "contrast × 1.5" in page
    assert "were constant" not in page + _text(audited)


def test_the_audit_says_what_the_calibration_never_moved(audited: Audit) -> None:
    told = dataclasses.replace(audited, constant="216 of 960")
    line = "216 of 960 channels of the dims that were cut were constant on the calibration inputs"
    assert line in _text(told) and line in render_html(told)
    assert told.to_json()["data"]["constant_channels"] == "216 of 960"


def test_an_audit_without_it_is_complete_too(audited: Audit) -> None:
    assert audited.shifts is not None
    for found in (None, dataclasses.replace(audited.shifts, shifts=(Shift("contrast × 0.5", None),))):
        bare = dataclasses.replace(audited, shifts=found)
        jsonschema.validate(bare.to_json(), audit_schema())
        assert ("moved a little" in _text(bare)) == ("a little unlike" in render_html(bare)) == bool(found)
        assert not found or "contrast × 0.5 not comparable" in _text(bare)
