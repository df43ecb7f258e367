"""Plan files: they read back as they were, obey their schema, and every damage to them is named."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from otgraph.data import Data
from otgraph.errors import OutputError, PlanError
from otgraph.graph.span import Collapse, Span
from otgraph.plan.budget import Budget
from otgraph.plan.calibration import CalibrationReference
from otgraph.plan.decision import DepthAction, DimDecision, Predictions
from otgraph.plan.fingerprint import fingerprint
from otgraph.plan.plan import Plan
from otgraph.plan.schema import plan_schema
from otgraph.transport.coupling import Coupling


def _coupling(size: int, seed: int) -> Coupling:
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(size)[: size // 2])
    target = rng.choice([*kept, -1], size)
    target[kept] = kept
    scales = {"next.weight": rng.normal(size=size), "other.weight": np.array([1e-300, np.pi] * (size // 2))}
    return Coupling(kept, target, cost=0.25, bound=0.2, scales=scales)


@pytest.fixture
def plan() -> Plan:
    data = Data.from_arrays({"x": np.ones((4, 3), np.float32)}, source="calib.npz")
    return Plan(
        model="résnet",
        fingerprint=fingerprint({"a.weight": np.ones((3, 4), np.float32), "t": np.array(2)}, ["aten.linear"]),
        budget=Budget("ratio", 0.6),
        pipeline="reroute-channels,prune-channels,fold-batch-norm",
        dims=(
            DimDecision.of("a.weight", _coupling(16, 0), damage=0.01),
            DimDecision.of("b.weight", _coupling(200, 1)),
            DimDecision("whole.weight", 3, (0, 1, 2), (0, 1, 2)),
        ),
        predictions=Predictions(time_ratio=0.61, damage=0.011, macs_ratio=0.5, bound=0.0105, gap=0.05),
        device={"cpu": "some cpu", "threads": 1, "load": 0.5, "gpu": None, "steady": True},
        criterion="rerouting",
        seed=7,
        calibration=CalibrationReference.of(data),
        created_by={"otgraph": "0.1.0"},
    )


DEPTH = (
    DepthAction(
        Collapse(Span("relu", "add", ("conv", "norm", "add"), "norm"), "conv", (3, 3), "moments"),
        0.1,
        0.5,
        0.25,
    ),
    DepthAction(Collapse(Span("add", "relu_3", ("relu_2", "conv_4", "relu_3")), "identity")),
)


def test_a_file_reads_back(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    again = Plan.load(path)
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert replace(plan, seed=8) != again
    assert list(tmp_path.iterdir()) == [path]


def test_couplings_read_back_bit_for_bit(plan: Plan) -> None:
    couplings = Plan.from_json(json.loads(json.dumps(plan.to_json()))).couplings()
    assert list(couplings) == ["a.weight", "b.weight"]
    for name, made in (("a.weight", _coupling(16, 0)), ("b.weight", _coupling(200, 1))):
        found = couplings[name]
        np.testing.assert_array_equal(found.kept, made.kept)
        np.testing.assert_array_equal(found.target, made.target)
        assert (found.cost, found.bound, found.kept.dtype) == (0.25, 0.2, np.int64)
        for reader, values in made.scales.items():
            np.testing.assert_array_equal(found.scales[reader], values)


def test_what_becomes_of_spans_reads_back(plan: Plan, tmp_path: Path) -> None:
    deep = replace(plan, depth=DEPTH)
    deep.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again.depth == DEPTH
    assert again.collapses() == (DEPTH[0].collapse, DEPTH[1].collapse)
    assert (tmp_path / "plan.json").read_text() == _resaved(again, tmp_path)
    text = str(deep)
    assert text.splitlines()[-4:-1] == [
        "span         nodes             becomes  damage alone   ms  ms after",
        "relu..add        3  3×3 conv (moments)           0.1  0.5      0.25",
        "add..relu_3      3            identity             –    –         –",
    ]


def _resaved(plan: Plan, folder: Path) -> str:
    plan.save(folder / "again.json")
    return (folder / "again.json").read_text()


def test_a_plan_of_the_first_version_still_reads(plan: Plan) -> None:
    document = plan.to_json()
    assert document["version"] == 3
    old = Plan.from_json({**document, "version": 1})
    assert replace(old, version=3) == plan and old.to_json()["version"] == 1


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (
            lambda d: d["depth"][0].update(map="melt"),
            "depth[0].map: 'melt' is not one of ['identity', 'affine', 'linear', 'conv']; make a new plan",
        ),
        (
            lambda d: d["depth"][0].update(kind="x"),
            "unknown field 'kind' at depth[0]; remove it or make a new plan",
        ),
        (lambda d: d["depth"][1].pop("nodes"), "field 'nodes' is missing at depth[1]; make a new plan"),
        (lambda d: d["depth"][1].update(nodes=[]), "depth[1].nodes: [] "),
        (
            lambda d: d["depth"][0].update(kernel=[0, 3]),
            "depth[0].kernel[0]: 0 is less than the minimum of 1",
        ),
        (lambda d: d["depth"][0].update(estimator="guess"), "depth[0].estimator: 'guess' is not one of"),
        (lambda d: d["depth"][0].update(old_ms="fast"), "depth[0].old_ms: 'fast' is not of type"),
        (lambda d: d["depth"][0].update(exit="relu_9"), "depth[0].nodes: must end with the exit relu_9"),
        (lambda d: d["depth"][0].update(entry="conv"), "depth[0].nodes: must not hold the entry conv"),
        (
            lambda d: d["depth"][0].update(branch="add"),
            "depth[0].branch: add is none of the nodes before the exit",
        ),
        (
            lambda d: d["depth"][1].update(nodes=["norm", "conv_4", "relu_3"]),
            "depth[1].nodes: norm goes in depth[0] already; keep one",
        ),
    ],
)
def test_damage_to_the_depth_is_named(plan: Plan, edit: Any, text: str) -> None:
    document = copy.deepcopy(replace(plan, depth=DEPTH).to_json())
    assert Plan.from_json(copy.deepcopy(document)).depth == DEPTH
    edit(document)
    with pytest.raises(PlanError) as error:
        Plan.from_json(document, "p.json")
    assert str(error.value).startswith(f"p.json: {text}")


def test_the_schema_is_valid_and_accepts_every_plan(plan: Plan) -> None:
    schema = plan_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    deep = replace(plan, depth=DEPTH, calibration=None)
    for each in (plan, deep):
        jsonschema.Draft202012Validator(schema).validate(each.to_json())
        assert Plan.from_json(each.to_json()) == each
    objects = [schema, *schema["$defs"].values()]
    assert all("additionalProperties" in each for each in objects if each["type"] == "object")


def test_the_part_for_people_is_short(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    people, _, machine = (tmp_path / "plan.json").read_text().partition('"arrays"')
    assert "base64" not in people and "base64" in machine
    assert max(map(len, people.splitlines())) <= 120
    assert '"model": "résnet"' in people
    assert len(people.splitlines()) < 65


def test_as_text(plan: Plan) -> None:
    small = replace(plan, dims=(plan.dims[0], plan.dims[2]), device={"threads": 1})
    assert str(small) == (
        f"plan for:    résnet ({plan.fingerprint.digest})\n"
        "budget:      latency 0.6x\n"
        "engine:      onnxruntime (threads 1)\n"
        "criterion:   rerouting, seed 7\n"
        "calibration: 4 inputs of calib.npz\n"
        "predicted:   time 0.61x, MACs 0.5x, relative L2 0.011, gap to the best allocation at most 0.05\n"
        "passes:      reroute-channels,prune-channels,fold-batch-norm\n"
        "\n"
        "dim          kept  damage alone  cost  cost at least\n"
        "a.weight  8 of 16          0.01  0.25            0.2\n"
        "1 more dim is kept whole"
    )


def _set(path: str, value: Any) -> Any:
    """An edit of a document: the field at ``path`` becomes ``value``."""

    def edit(document: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        place: Any = document
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[int(last) if isinstance(place, list) else last] = value

    return edit


def _array(dtype: str, values: list[float]) -> dict[str, Any]:
    raw = np.array(values, {"int32": "<i4", "float64": "<f8"}[dtype]).tobytes()
    return {"dtype": dtype, "shape": [len(values)], "base64": base64.b64encode(raw).decode()}


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (_set("foo", 1), "unknown field 'foo' at the top; remove it or make a new plan"),
        (_set("dims/0/foo", 1), "unknown field 'foo' at dims[0]; remove it or make a new plan"),
        (_set("predictions/speed", 1), "unknown field 'speed' at predictions; remove it or make a new plan"),
        (lambda d: d.pop("seed"), "field 'seed' is missing at the top; make a new plan"),
        (lambda d: d["dims"][1].pop("kept"), "field 'kept' is missing at dims[1]; make a new plan"),
        (_set("seed", "x"), "seed: 'x' is not of type 'integer'; make a new plan"),
        (
            _set("dims/2/kept", [0, 1, 2, 3, 4, 5, 6, 7]),
            "dims[2].kept: has 5 indices beyond the dim's size 3",
        ),
        (_set("dims/2/kept", [0, 3]), "dims[2].kept: has an index beyond the dim's size 3"),
        (_set("dims/2/kept", [1, 0]), "dims[2].kept: must ascend without repetition"),
        (_set("dims/2/kept", [0, 0]), "dims[2].kept: must ascend without repetition"),
        (_set("dims/2/kept", [0, 1]), "dims[2].target: channel 2 goes to 2, which is not kept"),
        (
            _set("dims/2/target", "nowhere"),
            "dims[2].target: names the array 'nowhere', which the table 'arrays' does not have",
        ),
        (
            _set("arrays/whole.weight:target", _array("int32", [0, 0, 2])),
            "dims[2].target: channel 1 is kept but goes to 0",
        ),
        (
            _set("arrays/whole.weight:target", _array("int32", [0, 1])),
            "dims[2].target: arrays['whole.weight:target'] must be int32 of shape [3],"
            " but is int32 of shape [2]",
        ),
        (
            _set("arrays/whole.weight:target", _array("float64", [0, 1, 2])),
            "dims[2].target: arrays['whole.weight:target'] must be int32 of shape [3],"
            " but is float64 of shape [3]",
        ),
        (
            _set("arrays/whole.weight:target/base64", "AAAA"),
            "dims[2].target: arrays['whole.weight:target'] holds 3 bytes, which is not 3 of int32",
        ),
        (
            _set("arrays/whole.weight:target/base64", "=!"),
            "dims[2].target: arrays['whole.weight:target'] is not base64",
        ),
        (
            _set("arrays/a.weight:scale:next.weight", _array("float64", [0.0] * 15 + [float("nan")])),
            "dims[0].scales: arrays['a.weight:scale:next.weight'] holds a value that is not finite",
        ),
        (_set("dims/1/name", "a.weight"), "dims: a.weight is named twice; keep one"),
        (_set("budget", "quick"), "budget: budget 'quick': write 'latency 0.6x'"),
        (_set("version", 4), "has version 4, this otgraph reads up to 3; update otgraph or make a new plan"),
        (_set("version", 0), "version: 0 is not one of [1, 2, 3]; make a new plan"),
        (_set("fingerprint/program", "zz"), "fingerprint.program: 'zz' does not match"),
        (_set("device/cores", [1]), "device.cores: [1] is not of type"),
        (_set("calibration", {"source": "x"}), "calibration"),
    ],
)
def test_damage_is_named_with_its_place(plan: Plan, tmp_path: Path, edit: Any, text: str) -> None:
    document = copy.deepcopy(plan.to_json())
    edit(document)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PlanError) as error:
        Plan.load(path)
    assert str(error.value).startswith(f"{path}: {text}")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"[]", "is no plan; a plan is a JSON object"),
        (b"\xff\xfe\x00", "is no text; a plan is a JSON file"),
        (b'{"seed": NaN}', "is no JSON (NaN is no JSON number); make a new plan"),
        (b"[" * 100_000, "is no JSON"),
        (b"\x80\x04\x95pickle", "is no text"),
    ],
)
def test_files_that_are_no_plan(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanError) as error:
        Plan.load(path)
    assert str(error.value).startswith(f"{path}: {text}")


def test_no_file_and_no_place(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(
        PlanError, match=r"none\.json: cannot be read \(No such file or directory\); give a plan"
    ):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(OutputError, match="does not exist; create it first"):
        plan.save(tmp_path / "no" / "plan.json")


def test_a_figure_that_is_not_finite_is_not_written(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="holds a figure that is not finite"):
        replace(plan, predictions=Predictions(damage=float("nan"))).save(tmp_path / "plan.json")
    assert not list(tmp_path.iterdir())
