"""The command line on real models: what works, and each kind of unusable input, which leaves no file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import external_data_helper, numpy_helper, parser

from otgraph.cli.main import run_command
from otgraph.rewrite.catalog import load_pipelines
from otgraph.rewrite.pipeline import parse_pipeline

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,6,6] image) => (float[N,4] logits) {
    c = Conv <pads = [1, 1, 1, 1]> (image, w)
    n = BatchNormalization (c, g, b, m, v)
    r = Relu (n)
    a = GlobalAveragePool (r)
    f = Flatten (a)
    logits = Gemm <transB = 1> (f, u)
}"""
WEIGHTS = {"w": (16, 3, 3, 3), "u": (4, 16), **dict.fromkeys("gbmv", (16,))}


def model(seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    proto = parser.parse_model(MODEL)
    for name, shape in WEIGHTS.items():
        proto.graph.initializer.append(
            numpy_helper.from_array(rng.uniform(0.5, 1.5, shape).astype(np.float32), name)
        )
    return proto


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in a folder with ``net.onnx`` and ``calib.npz``; returns code, output and errors."""
    monkeypatch.chdir(tmp_path)
    onnx.save(model(), "net.onnx")
    images = np.random.default_rng(1).normal(size=(24, 3, 6, 6)).astype(np.float32)
    np.savez("calib.npz", image=images)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(arguments)
        return code, *capsys.readouterr()

    return run


def outputs(path: str) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": np.load("calib.npz")["image"]})[0]


def test_a_pipeline_is_run_and_written(command: Command) -> None:
    code, out, err = command("run", "net.onnx", "-p", "simplify", "-o", "out.onnx", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert [record["step"] for record in document["records"]] == list(map(str, parse_pipeline("simplify")))
    assert [node.op_type for node in onnx.load("out.onnx").graph.node] == [
        *("Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm")
    ]
    np.testing.assert_allclose(outputs("out.onnx"), outputs("net.onnx"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flags", [(), ("--calib", "calib.npz")])
def test_every_pass_of_a_plan_says_that_it_lacks_one(command: Command, flags: tuple[str, ...]) -> None:
    pipeline = load_pipelines()["apply"].replace("fold-batch-norm", "repair-moments,fold-batch-norm")
    code, out, _ = command("run", "net.onnx", "-p", pipeline, "-o", "small.onnx", *flags)
    assert code == 0
    for name in ("reexpress-channels", "prune-channels", "repair-least-squares", "repair-moments"):
        said = [line for line in out.splitlines() if line.startswith(f"missed: {name}: net: ")]
        assert len(said) == 1, out
        assert re.search("no plan|nothing to (fit|match|repair)", said[0])


def test_plan_then_apply(command: Command) -> None:
    code, out, _ = command("plan", "net.onnx", "--calib", "calib.npz", "--keep", "0.5", "-o", "plan.json")
    assert code == 0 and "8 of 16" in out
    code, out, _ = command("apply", "net.onnx", "plan.json", "--calib", "calib.npz", "-o", "out.onnx")
    assert code == 0, out
    written = onnx.load("out.onnx")
    assert {tuple(t.dims) for t in written.graph.initializer} >= {(8, 3, 3, 3), (4, 8)}
    assert outputs("out.onnx").shape == outputs("net.onnx").shape


def test_what_inspect_says(command: Command) -> None:
    code, out, _ = command("inspect", "net.onnx")
    assert code == 0
    assert "image: float32[N, 3, 6, 6] → logits: float32[N, 4]" in out
    assert "model output logits" in out


def test_inspect_with_inputs_shows_what_removal_costs(command: Command) -> None:
    code, out, _ = command("inspect", "net.onnx", "--calib", "calib.npz")
    assert code == 0
    assert "gap at 50 %" in out and "cost: by " in out
    code, out, error = command("inspect", "net.onnx", "--calib", "calib.npz", "--criterion", "nonsense")
    assert code == 2 and "criterion 'nonsense': unknown" in error


def broken(name: str) -> None:
    """Put one kind of unusable input in the place of a good one."""
    image = np.load("calib.npz")["image"]
    arrays: dict[str, dict[str, np.ndarray]] = {
        "wrong name": {"picture": image, "other": image},
        "wrong shape": {"image": image[:, :2]},
        "wrong type": {"image": image.astype(np.int32)},
        "empty": {"image": image[:0]},
        "nan in data": {"image": np.where(image > 2, np.nan, image)},
    }
    proto = model(seed=5)
    if name in arrays:
        np.savez("calib.npz", **arrays[name])
    elif name == "missing":
        Path("net.onnx").unlink()
    elif name == "truncated":
        Path("net.onnx").write_bytes(Path("net.onnx").read_bytes()[:-200])
    elif name == "no external data":
        onnx.save(proto, "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
        Path("weights.bin").unlink()
    elif name == "external data outside":
        Path("../outside.bin").write_bytes(bytes(4 * 16 * 27))
        tensor = proto.graph.initializer[0]
        external_data_helper.set_external_data(tensor, location="../outside.bin")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        Path("net.onnx").write_bytes(proto.SerializeToString())
    elif name == "nan in weights":
        values = numpy_helper.to_array(proto.graph.initializer[0]).copy()
        values[0, 0, 0, 0] = np.nan
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
        onnx.save(proto, "net.onnx")


UNUSABLE = {
    "missing": r"net\.onnx: ",
    "truncated": r"net\.onnx: ",
    "no external data": r"weights\.bin",
    "external data outside": r"outside\.bin",
    "nan in weights": r"weight w holds 1 values that are not finite",
    "wrong name": r"image",
    "wrong shape": r"image.*3",
    "wrong type": r"image.*float32",
    "empty": r"calib\.npz.*(no|empty)",
    "nan in data": r"image.*(NaN|finite)",
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_input_is_an_error_and_leaves_nothing(command: Command, kind: str) -> None:
    broken(kind)
    before = sorted(Path().iterdir())
    code, out, err = command(
        "optimize", "net.onnx", "--calib", "calib.npz", "--keep", "0.5", "-o", "out.onnx", "--json"
    )
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "a mistake of otgraph" not in err
    assert re.search(UNUSABLE[kind], err), err
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("fold-batchnorm", "error: pipeline, column 1: no pass is called 'fold-batchnorm'; did you mean"),
        ("cleanup{deep=true}", "error: pipeline, column 9: cleanup: has no option 'deep'; it takes none"),
        ("cleanup{", "error: pipeline, column 8: this '{' is never closed; add '}'"),
    ],
)
def test_a_wrong_pipeline_leaves_nothing(command: Command, pipeline: str, message: str) -> None:
    code, _, err = command("run", "net.onnx", "-p", pipeline, "-o", "out.onnx")
    assert code == 2 and err.startswith(message)
    assert not Path("out.onnx").exists()


def test_a_plan_for_another_model_or_with_unknown_fields(command: Command) -> None:
    command("plan", "net.onnx", "--calib", "calib.npz", "--keep", "0.5", "-o", "plan.json")
    onnx.save(model(seed=9), "other.onnx")
    code, _, err = command("apply", "other.onnx", "plan.json", "-o", "out.onnx")
    assert code == 2 and err.startswith("error: plan.json: ") and "w" in err
    document = json.loads(Path("plan.json").read_text())
    Path("plan.json").write_text(json.dumps({**document, "color": "red"}))
    code, _, err = command("apply", "net.onnx", "plan.json", "-o", "out.onnx")
    assert code == 2 and "color" in err
    assert not Path("out.onnx").exists()


def test_an_unknown_engine_is_wrong_usage(command: Command) -> None:
    code, _, err = command("bench", "net.onnx", "--engine", "abacus")
    assert code == 2 and err.startswith("error: engine 'abacus': unknown; choose one of: onnxruntime")
