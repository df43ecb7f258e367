"""A real plan, edited in each field: what it then says is refused in one line, or carried out as it says."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

import otgraph.api as otg
from otgraph import errors as otg_errors
from otgraph.cli.main import run_command
from otgraph.graph.span import Collapse, Span
from otgraph.plan.decision import DepthAction

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,6,6] image) => (float[N,4] logits) {
    c = Conv <pads = [1, 1, 1, 1]> (image, w)
    r = Relu (c)
    d = Conv <pads = [1, 1, 1, 1]> (r, v)
    s = Relu (d)
    a = Add (r, s)
    e = Conv <pads = [1, 1, 1, 1]> (a, t)
    q = Relu (e)
    p = GlobalAveragePool (q)
    f = Flatten (p)
    logits = Gemm <transB = 1> (f, u)
}"""
SHAPES = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "t": (8, 8, 3, 3), "u": (4, 8)}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``net.onnx``, ``calib.npz``, and ``plan.json``: the last dim is halved, the branch of the
    residual becomes a 3×3 convolution, and the first activation an affine map."""
    folder = tmp_path_factory.mktemp("edited")
    rng = np.random.default_rng(0)
    proto = parser.parse_model(MODEL)
    for name, shape in SHAPES.items():
        values = rng.normal(size=shape).astype(np.float32) / (1 if name == "u" else 4)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(proto, folder / "net.onnx")
    np.savez(folder / "calib.npz", image=rng.normal(size=(24, 3, 6, 6)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        graph = otg.load("net.onnx")
        plan = otg.make_plan(graph, otg.load_data("calib.npz"), keep=0.5, multiple=1, include=["t"])
        depth = (
            DepthAction(Collapse(Span("r", "a", ("d", "s", "a"), "s"), "conv", (3, 3))),
            DepthAction(Collapse(Span("c", "r", ("r",)), "affine")),
        )
        replace(plan, depth=depth).save("plan.json")
    return folder


Document = dict[str, Any]
Outcome = tuple[int, str, str]


class Bench:
    """Applies edited copies of the plan."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def document(self) -> Document:
        return json.loads((self.folder / "plan.json").read_text())

    def apply(self, edit: Callable[[Document], object], *more: str) -> Outcome:
        document = self.document()
        edit(document)
        return self.apply_text(json.dumps(document), *more)

    def apply_text(self, text: str, *more: str) -> Outcome:
        (self.folder / "edited.json").write_text(text)
        (self.folder / "out.onnx").unlink(missing_ok=True)
        code = run_command(["apply", "net.onnx", "edited.json", "-o", "out.onnx", *more])
        return code, *self.capsys.readouterr()

    def made(self) -> tuple[list[str], dict[str, tuple[int, ...]], np.ndarray]:
        """The operators, the shapes of the weights, and the outputs of what was written."""
        model = onnx.load(self.folder / "out.onnx")
        session = ort.InferenceSession(self.folder / "out.onnx", providers=["CPUExecutionProvider"])
        outputs = session.run(None, {"image": np.load(self.folder / "calib.npz")["image"]})[0]
        shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        return [node.op_type for node in model.graph.node], shapes, outputs


@pytest.fixture
def bench(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    monkeypatch.chdir(workplace)
    return Bench(workplace, capsys)


def put(path: str, value: Any) -> Callable[[Document], None]:
    """An edit: the field at ``path`` becomes ``value``."""

    def edit(document: Document) -> None:
        *parents, last = path.split("/")
        place: Any = document
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[int(last) if isinstance(place, list) else last] = value

    return edit


def array(dtype: str, values: list[Any]) -> dict[str, Any]:
    raw = np.array(values, {"int32": "<i4", "float64": "<f8"}[dtype]).tobytes()
    return {"dtype": dtype, "shape": [len(values)], "base64": base64.b64encode(raw).decode()}


def rename_dim(name: str) -> Callable[[Document], None]:
    return put("dims/0/name", name)


def rename_reader(document: Document) -> None:
    scales = document["dims"][0]["scales"]
    scales["nobody"] = scales.pop("u")


def resize(document: Document) -> None:
    """The dim and its arrays have 12 channels, consistently."""
    kept = document["dims"][0]["kept"]
    document["dims"][0]["size"] = 12
    target = [at if at in kept else -1 for at in range(12)]
    document["arrays"][document["dims"][0]["target"]] = array("int32", target)
    document["arrays"][document["dims"][0]["scales"]["u"]] = array("float64", [1.0] * 12)


def moved(name: str, size: int) -> Callable[[Document], None]:
    """The dim is another one, of which the first channel stays."""

    def edit(document: Document) -> None:
        dim = document["dims"][0]
        dim.update(name=name, size=size, kept=[0])
        document["arrays"][dim["target"]] = array("int32", [0] + [-1] * (size - 1))
        del document["arrays"][dim["scales"].pop("u")]

    return edit


of_output, of_input = moved("u", 4), moved("w[1]", 3)


def factor(value: float) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        key = document["dims"][0]["scales"]["u"]
        document["arrays"][key] = array("float64", [value] * 8)

    return edit


def without_repairs(document: Document) -> None:
    """Channels are re-routed one by one, by the plan's own factors."""
    document["pipeline"] = "reroute-channels,prune-channels,collapse-spans,linearize-activations"
    dim = document["dims"][0]
    away = [dim["kept"][0] if at not in dim["kept"] else at for at in range(8)]
    document["arrays"][dim["target"]] = array("int32", away)


def overflow(document: Document) -> None:
    without_repairs(document)
    factor(3e38)(document)


def keep_first(count: int) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        document["dims"][0]["kept"] = list(range(count))
        target = [at if at < count else -1 for at in range(8)]
        document["arrays"][document["dims"][0]["target"]] = array("int32", target)

    return edit


def both(*edits: Callable[[Document], object]) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        for each in edits:
            each(document)

    return edit


REFUSED: dict[str, tuple[Callable[[Document], object], str]] = {
    "dim unknown": (rename_dim("nobody"), "dims[0].name: the model has no dim 'nobody'; "),
    "dim of an output": (of_output, "dims[0].name: u cannot be cut: it is blocked by model output logits"),
    "dim of an input": (of_input, "dims[0].name: w[1] cannot be cut: it is blocked by model input image"),
    "dim size": (put("dims/0/size", 9), "dims[0].target: arrays['t:target'] must be int32 of shape [9]"),
    "dim size, consistently": (resize, "dims[0].size: t has 8 channels, not 12"),
    "dim twice": (lambda d: d["dims"].append(d["dims"][0]), "dims: t is named twice"),
    "kept beyond": (put("dims/0/kept", [0, 8]), "dims[0].kept: has an index beyond the dim's size 8"),
    "kept nothing": (put("dims/0/kept", []), "dims[0].kept: [] "),
    "kept twice": (put("dims/0/kept", [1, 1]), "dims[0].kept: must ascend"),
    "kept less": (lambda d: d["dims"][0]["kept"].pop(), "dims[0].target: channel "),
    "target of another size": (
        put("arrays/t:target", array("int32", [0])),
        "dims[0].target: arrays['t:target']",
    ),
    "target unnamed": (put("dims/0/target", "nowhere"), "dims[0].target: names the array 'nowhere'"),
    "array unused": (put("arrays/more", array("int32", [0])), "arrays: no dim refers to 'more'"),
    "reader unknown": (rename_reader, "dims[0].scales: t is not read by 'nobody'; there is: u"),
    "factor beyond weights": (factor(1e300), "dims[0].scales['u']: a factor of 1e+300 is beyond"),
    "factor that overflows": (overflow, "values of output logits are not finite on calibration inputs"),
    "factor not finite": (factor(float("inf")), "dims[0].scales: arrays['t:scale:u'] holds a value that is"),
    "damage not a number": (put("dims/0/damage", "much"), "dims[0].damage: 'much' is not of type"),
    "pipeline empty": (put("pipeline", ""), "pipeline: '' should be non-empty"),
    "pipeline of blanks": (put("pipeline", " "), "pipeline, column 2: expected the name of a pass"),
    "pipeline unknown": (put("pipeline", "melt"), "pipeline, column 1: no pass is called 'melt'"),
    "pipeline without the cut": (put("pipeline", "cleanup"), "pipeline: cleanup leaves dim t whole"),
    "pipeline without the spans": (put("pipeline", "prune-channels"), "pipeline: prune-channels leaves "),
    "pipeline that chooses": (
        lambda d: d.update(pipeline=d["pipeline"].replace("prune-channels", "prune-channels{keep=0.1}")),
        "pipeline: prune-channels{keep=0.1}: option 'keep' chooses where there is no plan",
    ),
    "pipeline that chooses spans": (
        lambda d: d.update(pipeline=d["pipeline"].replace("collapse-spans", "collapse-spans{spans=[a]}")),
        "pipeline: collapse-spans{spans=[a]}: option 'spans' chooses where there is no plan",
    ),
    "pipeline without end": (
        lambda d: d.update(pipeline=d["pipeline"] + ",cleanup" * 20_000),
        "pipeline: has 20,008 passes, and 200 are the most",
    ),
    "engine": (put("engine", "steam"), "engine: there is no 'steam'; "),
    "criterion": (
        put("criterion", "cholesky2"),
        "criterion: there is no 'cholesky2'; did you mean 'cholesky'?",
    ),
    "seed too large": (put("seed", 2**80), f"seed: {2**80} is greater than the maximum of 2147483647"),
    "seed negative": (put("seed", -5), "seed: -5 is less than the minimum of 0"),
    "seed fraction": (put("seed", 0.5), "seed: 0.5 is not of type 'integer'"),
    "budget": (put("budget", "fast"), "budget: budget 'fast': write"),
    "version": (put("version", 99), "has version 99, this otgraph reads up to 3"),
    "fingerprint program": (
        put("fingerprint/program", "0" * 16),
        "made for another model: the tensors agree",
    ),
    "fingerprint tensor": (
        lambda d: d["fingerprint"]["tensors"].pop("u"),
        "made for another model: u is not",
    ),
    "fingerprint shape": (
        lambda d: d["fingerprint"]["tensors"]["u"].__setitem__(0, [8, 4]),
        "made for another model: u has shape [4, 8], not [8, 4]",
    ),
    "calibration count": (
        put("calibration/count", 5),
        "calibration.samples: are not the hashes of 5 samples",
    ),
    "calibration samples": (put("calibration/samples", "1 24 24 AAAA"), "calibration.samples: are not"),
    "calibration stretches": (
        both(put("calibration/drawn", 24), put("calibration/stretches", [[0, 12], [6, 18]])),
        "calibration.stretches: must ascend, from 0 to 24",
    ),
    "calibration drawn": (put("calibration/drawn", 24), "calibration: drawn and stretches go together"),
    "predictions": (put("predictions/damage", "none"), "predictions.damage: 'none' is not of type"),
    "field unknown": (put("more", 1), "unknown field 'more' at the top"),
    "field missing": (lambda d: d.pop("depth"), "field 'depth' is missing at the top"),
    "entry unknown": (put("depth/0/entry", "nobody"), "depth[0].entry: the model has no node 'nobody'; "),
    "node unknown": (
        lambda d: d["depth"][0]["nodes"].insert(0, "nobody"),
        "depth[0].nodes: the model has no node 'nobody'; ",
    ),
    "node left out": (lambda d: d["depth"][0]["nodes"].pop(0), "is no span of the model: "),
    "exit moved": (put("depth/0/exit", "nobody"), "depth[0].nodes: must end with the exit nobody"),
    "map that does not fit": (put("depth/0/map", "linear"), "depth[0].kernel: is [3, 3], but the map linear"),
    "map unknown": (put("depth/0/map", "melt"), "depth[0].map: 'melt' is not one of"),
    "kernel of another rank": (
        put("depth/0/kernel", [3]),
        "its kernel has 1 sizes, for 2 axes to slide along",
    ),
    "kernel without end": (put("depth/0/kernel", [10**9, 10**9]), "it would have more than 8,192 columns"),
    "kernel missing": (put("depth/0/kernel", []), "depth[0].kernel: is [], but the map conv has its sizes"),
    "estimator that there is not": (
        put("depth/0/estimator", "gaussian"),
        "depth[0].map: ",
    ),
    "span twice": (lambda d: d["depth"].append(d["depth"][0]), "goes in depth[0] already"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_out_is_refused(bench: Bench, name: str) -> None:
    edit, text = REFUSED[name]
    code, _, err = bench.apply(edit)
    assert code == 2, err
    assert text in err and err.startswith("error: edited.json: ") and err.count("\n") == 1
    assert "mistake of otgraph" not in err
    assert not (bench.folder / "out.onnx").exists()


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"seed": 0', '"seed": 0, "seed": 1', "the field 'seed' is there twice in one object"),
        ('"seed": 0', '"seed": 1e999', "1e999 is beyond what a number can be"),
    ],
)
def test_text_that_json_takes_for_something_else_is_refused(
    bench: Bench, old: str, new: str, text: str
) -> None:
    plan = json.dumps(bench.document())
    assert old in plan
    code, _, err = bench.apply_text(plan.replace(old, new))
    assert code == 2 and text in err and err.count("\n") == 1


RECORDS = {
    "model": "another name",
    "budget": "latency 0.25x",
    "engine": "openvino",
    "device": {"cpu": "another"},
    "criterion": "magnitude",
    "predictions/damage": 7.5,
    "predictions/time_ratio": None,
    "created_by": {},
    "dims/0/damage": 3.0,
    "dims/0/cost": 3.0,
    "dims/0/bound": 3.0,
    "depth/0/damage": 3.0,
    "depth/0/old_ms": 1.0,
    "depth/1/new_ms": 1.0,
    "version": 2,
}
"""Fields that tell how the plan came about: whatever they say, the same is done."""


@pytest.fixture(scope="module")
def unedited(workplace: Path) -> bytes:
    code = run_command(
        [
            *("apply", str(workplace / "net.onnx"), str(workplace / "plan.json")),
            *("--calib", str(workplace / "calib.npz"), "-o", str(workplace / "whole.onnx")),
        ]
    )
    assert code == 0
    return (workplace / "whole.onnx").read_bytes()


def test_the_unedited_plan_does_all_that_it_says(bench: Bench) -> None:
    code, _, err = bench.apply(lambda d: None)
    assert (code, err) == (0, "")
    operators, shapes, outputs = bench.made()
    assert shapes["t"][0] == 4 and shapes["u"] == (4, 4) and np.isfinite(outputs).all()
    assert operators.count("Relu") == 1


def test_records_change_nothing(bench: Bench, unedited: bytes) -> None:
    def edit(document: Document) -> None:
        for path, value in RECORDS.items():
            put(path, value)(document)

    code, _, err = bench.apply(edit)
    assert (code, err) == (0, "")
    assert (bench.folder / "out.onnx").read_bytes() == unedited


@pytest.mark.parametrize("count", [1, 3, 7])
def test_other_channels_are_kept(bench: Bench, count: int) -> None:
    code, out, err = bench.apply(keep_first(count))
    assert (code, err) == (0, "") and f"{count} of 8" in out
    assert bench.made()[1]["u"] == (4, count)


def test_all_channels_are_kept(bench: Bench) -> None:
    code, _, err = bench.apply(keep_first(8))
    assert (code, err) == (0, "") and bench.made()[1]["u"] == (4, 8)


@pytest.mark.parametrize("value", [0.5, -2.0])
def test_factors_are_those_of_the_plan(bench: Bench, value: float) -> None:
    code, _, err = bench.apply(
        both(
            without_repairs,
            factor(value),
            put("depth", []),
            put("pipeline", "reroute-channels,prune-channels"),
        ),
        "--remarks",
    )
    assert (code, err) == (0, "")
    document = bench.document()
    kept = document["dims"][0]["kept"]
    model = onnx.load(bench.folder / "net.onnx")
    (old,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "u")
    (new,) = (
        numpy_helper.to_array(t)
        for t in onnx.load(bench.folder / "out.onnx").graph.initializer
        if t.name == "u"
    )
    removed = [at for at in range(8) if at not in kept]
    wanted = old[:, kept].copy()
    wanted[:, 0] += value * old[:, removed].sum(1)
    np.testing.assert_allclose(new, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", ["least-squares", "moments"])
@pytest.mark.parametrize("kernel", [[1, 1], [3, 3], [5, 3]])
def test_the_map_is_that_of_the_plan(bench: Bench, kernel: list[int], estimator: str) -> None:
    edit = both(put("depth/0/kernel", kernel), put("depth/0/estimator", estimator))
    code, out, err = bench.apply(edit, "--remarks")
    assert (code, err) == (0, "")
    assert f"became a {kernel[0]}×{kernel[1]} convolution ({estimator})" in out


def test_a_span_that_becomes_the_identity_is_deleted(bench: Bench) -> None:
    code, out, err = bench.apply(both(put("depth/0/map", "identity"), put("depth/0/kernel", [])), "--remarks")
    assert (code, err) == (0, "") and "deleted" in out
    assert "Add" not in bench.made()[0]


def test_no_decisions_leave_the_function_alone(bench: Bench) -> None:
    code, _, err = bench.apply(both(put("dims", []), put("depth", []), put("arrays", {})))
    assert (code, err) == (0, "")
    session = ort.InferenceSession(bench.folder / "net.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"image": np.load(bench.folder / "calib.npz")["image"]})[0]
    np.testing.assert_allclose(bench.made()[2], outputs, rtol=1e-4, atol=1e-5)


def test_inputs_that_are_not_those_of_the_plan_are_said_to_be(bench: Bench) -> None:
    code, out, _ = bench.apply(put("calibration/digest", "0" * 16))
    assert code == 0
    assert "left out: calib.npz holds other data than the plan was made with" in out


def test_a_cut_that_comes_twice_is_made_once(bench: Bench) -> None:
    def edit(document: Document) -> None:
        document["pipeline"] = document["pipeline"].replace("prune-channels", "prune-channels,prune-channels")

    code, out, err = bench.apply(edit, "--remarks")
    assert (code, err) == (0, "")
    assert "the plan is for 8 channels, of which 4 are left" in out and bench.made()[1]["u"] == (4, 4)


@pytest.mark.parametrize("seed", ["-5", str(2**80), "0.5"])
@pytest.mark.parametrize("command", ["plan", "optimize", "run"])
def test_seeds_of_the_command_line(bench: Bench, command: str, seed: str) -> None:
    what = ["-p", "cleanup"] if command == "run" else ["--calib", "calib.npz", "--keep", "0.5"]
    code = run_command([command, "net.onnx", *what, "-o", "no.onnx", "--seed", seed])
    err = bench.capsys.readouterr().err
    assert code == 2 and "--seed" in err and "mistake" not in err
    assert not (bench.folder / "no.onnx").exists()


def test_a_pipeline_of_many_passes_is_refused(bench: Bench) -> None:
    code = run_command(["run", "net.onnx", "-p", ",".join(["cleanup"] * 20_000), "-o", "no.onnx"])
    assert code == 2 and "has 20,000 passes, and 200 are the most" in bench.capsys.readouterr().err


def test_python_refuses_as_the_command_line_does(bench: Bench) -> None:
    document = copy.deepcopy(bench.document())
    rename_dim("nobody")(document)
    plan = otg.Plan.from_json(document)
    with pytest.raises(otg_errors.PlanError, match=r"plan: dims\[0\]\.name: the model has no dim 'nobody'"):
        plan.apply(otg.load("net.onnx"))
    with pytest.raises(otg_errors.UsageError, match="seed: -5 is no seed"):
        otg.run_pipeline(otg.load("net.onnx"), "cleanup", seed=-5)
