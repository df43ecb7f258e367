"""Channels that the calibration hardly moves, or not at all, from the plan to fp16 and int8."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper, parser

from otgraph.cli.main import run_command
from otgraph.data import Data
from otgraph.precision.float16 import to_float16
from otgraph.precision.int8 import to_int8
from otgraph.transport.rounding import GROWTH

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,6,6] x) => (float[N,4] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    r = Relu (c)
    d = Conv (r, u, v)
    s = Relu (d)
    a = GlobalAveragePool (s)
    f = Flatten (a)
    y = Gemm <transB = 1> (f, t)
}"""
KINDS = {"constant": 8, "silent": 4, "rounding": 4, "noise": 2, "nearly": 4, "twin": 2, "once": 2, "plain": 6}
UNMOVED = ("constant", "silent", "rounding", "noise")
WIDTH = sum(KINDS.values())

Floats = np.ndarray


def _channels(seed: int, x: Floats) -> tuple[Floats, Floats, Floats]:
    """Weights and biases of the first layer, and the kind of each channel; ``x``: the calibration inputs."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.repeat(list(KINDS), list(KINDS.values())))
    weight = rng.normal(size=(WIDTH, 3, 3, 3)) / 5
    bias = rng.uniform(0.5, 2.0, WIDTH)
    weight[kinds == "constant"] = 0.0
    weight[kinds == "silent"], bias[kinds == "silent"] = 0.0, -1.0
    weight[kinds == "rounding"] *= 1e-8
    weight[kinds == "noise"], bias[kinds == "noise"] = 1e-9 * weight[kinds == "noise"], 0.0
    weight[kinds == "nearly"] *= 1e-4
    plain = np.flatnonzero(kinds == "plain")
    bias[plain] = rng.normal(size=len(plain)) / 5
    twins = np.flatnonzero(kinds == "twin")
    weight[twins], bias[twins] = 2.0 * weight[plain[: len(twins)]], 2.0 * bias[plain[: len(twins)]]
    once = np.flatnonzero(kinds == "once")
    top = torch.nn.functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(weight[once]), padding=1)
    bias[once] = -0.99 * top.amax((0, 2, 3)).numpy()
    return weight, bias, kinds


def _model(weight: Floats, bias: Floats, seed: int) -> onnx.ModelProto:
    rng = np.random.default_rng((seed, 1))
    tensors = {
        "w": weight,
        "b": bias,
        "u": rng.normal(size=(16, WIDTH, 1, 1)) / 4,
        "v": rng.normal(size=16) / 4,
        "t": rng.normal(size=(4, 16)) / 4,
    }
    model = parser.parse_model(MODEL)
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()
    )
    return model


def _run(model: onnx.ModelProto, x: Floats) -> Floats:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def _distance(a: Floats, b: Floats) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def _largest(model: onnx.ModelProto) -> float:
    return max(float(abs(numpy_helper.to_array(t)).max()) for t in model.graph.initializer)


class Case:
    """One network, its calibration inputs and inputs unlike them, cut on the command line."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng((seed, 2))
        self.x = rng.normal(size=(24, 3, 6, 6)).astype(np.float32)
        self.away = (4 * rng.uniform(-1, 1, size=(24, 3, 6, 6)) + 1).astype(np.float32)
        weight, bias, self.kinds = _channels(seed, self.x)
        self.model = _model(weight, bias, seed)
        onnx.save(self.model, "net.onnx")
        np.savez("calib.npz", x=self.x)

    def cut(self, keep: float, *more: str) -> tuple[onnx.ModelProto, dict]:
        """The network after ``plan`` and ``apply``, which must both succeed, and the plan's only dim."""
        rules = ("--include", "w", "--multiple", "1", "--task", "regression")
        plan = ("plan", "net.onnx", "--calib", "calib.npz", "--keep", str(keep), *rules, *more)
        assert run_command([*plan, "-o", "plan.json"]) == 0
        assert run_command(["apply", "net.onnx", "plan.json", "--calib", "calib.npz", "-o", "cut.onnx"]) == 0
        (dim,) = json.loads(Path("plan.json").read_text())["dims"]
        return onnx.load("cut.onnx"), dim

    def removed(self, dim: dict) -> set[str]:
        return set(self.kinds[np.setdiff1d(np.arange(WIDTH), dim["kept"])])


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Case]:
    monkeypatch.chdir(tmp_path)
    return Case


UNMOVED_COUNT = sum(KINDS[kind] for kind in UNMOVED)


@pytest.mark.parametrize("criterion", ["cholesky", "rerouting", "energy"])
@pytest.mark.parametrize("seed", range(2))
def test_what_never_moves_goes_first_and_into_biases(
    case: Callable[[int], Case], seed: int, criterion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = case(seed)
    small, dim = made.cut(1 - UNMOVED_COUNT / WIDTH, "--criterion", criterion)
    assert made.removed(dim) == set(UNMOVED)
    assert dim["constant"] == UNMOVED_COUNT - KINDS["noise"]  # noise about zero varies, if by nothing
    assert f"constant on the calibration inputs, which others may move: w {dim['constant']} of {WIDTH}" in (
        capsys.readouterr().out
    )
    assert _distance(_run(made.model, made.x), _run(small, made.x)) < 1e-5
    assert _distance(_run(made.model, made.away), _run(small, made.away)) < 1e-5
    assert _largest(small) < 2 * _largest(made.model)
    (said,) = [e.value for e in small.metadata_props if e.key == "otgraph.constant_channels"]
    assert said == f"{dim['constant']} of {WIDTH}"


@pytest.mark.parametrize("keep", [0.3, 0.15])
@pytest.mark.parametrize("seed", range(3))
def test_no_weight_grows_and_lower_precisions_hold(
    case: Callable[[int], Case], seed: int, keep: float
) -> None:
    made = case(seed)
    small, _ = made.cut(keep)
    assert _largest(small) <= GROWTH * _largest(made.model)
    here, away = _run(small, made.x), _run(small, made.away)
    assert _distance(_run(made.model, made.x), here) < 1.0
    assert _distance(_run(made.model, made.away), away) < 1.0
    half, _ = to_float16(small, Data.from_arrays({"x": made.x}))
    assert _distance(away, _run(half, made.away)) < 1e-2
    quantized, _ = to_int8(small, Data.from_arrays({"x": made.x}))
    assert _distance(here, _run(quantized, made.x)) < 0.2
