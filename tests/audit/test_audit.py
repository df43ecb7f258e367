"""The whole audit on real files, its JSON against the published schema, its texts and its HTML."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from otgraph.audit import Audit, audit, audit_schema, summary
from otgraph.audit.changes import NodeRef
from otgraph.audit.economy import Optimization, break_even
from otgraph.audit.html import ratio_plot, render_html, round_ticks
from otgraph.audit.metric import load_metric
from otgraph.audit.quantities import amount, milliseconds, share
from otgraph.audit.report import drift_threshold, speedup_threshold, verdict
from otgraph.data import Chunk, Data
from otgraph.errors import DataError, EngineMissing, ModelError, OutputError, UsageError
from otgraph.latency.environment import Conditions
from otgraph.latency.protocol import Comparison

COST = {"cpu_seconds": 12.0, "wall_seconds": 8.0, "source": "a test"}


def classifier(path: Path, width: int, scale: float = 1.0) -> Path:
    """1×1 conv to ``width``, ReLU, 1×1 conv to 4 classes, mean over positions."""
    draw = np.random.default_rng(0)
    first = draw.normal(size=(width, 3, 1, 1)).astype(np.float32)
    second = (scale * draw.normal(size=(4, width, 1, 1))).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def data(count: int = 12) -> Data:
    draw = np.random.default_rng(1)
    images = draw.normal(size=(count, 3, 8, 8)).astype(np.float32)
    return Data((Chunk({"x": images}, draw.integers(0, 4, count)),), "test.npz")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return classifier(folder / "a.onnx", 32), classifier(folder / "b.onnx", 8)


@pytest.fixture(scope="module")
def report(files: tuple[Path, Path]) -> Audit:
    return audit(*files, data(), min_speedup=1e-6, max_drift=1e-9, optimization=COST, repeats=2)


def comparison(ratio: float, low: float, high: float, clock: str = "wall") -> Comparison:
    return Comparison(
        ratio=ratio,
        low=low,
        high=high,
        a_ms=10.0,
        b_ms=10.0 * ratio,
        clock="wall" if clock == "wall" else "CPU time",
        per_repeat=(low, ratio, high),
        pairs=40,
        calls=1,
        threads=1,
        seed=0,
        conditions=Conditions(1.5, 0.0, 0.99, 2, None),
    )


def validate(document: object) -> None:
    jsonschema.validate(document, audit_schema(), cls=jsonschema.Draft202012Validator)


def test_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(audit_schema())


def test_json_obeys_the_schema(report: Audit) -> None:
    validate(json.loads(json.dumps(report.to_json(), allow_nan=False)))


def test_json_with_everything_optional_absent_obeys_the_schema(report: Audit) -> None:
    validate(dataclasses.replace(report, optimization=None, break_even=None, thresholds=()).to_json())


def test_what_the_command_line_prints_obeys_the_schema(report: Audit) -> None:
    validate({"command": "audit", **report.to_json()})


def test_schema_refuses_what_is_not_an_audit(report: Audit) -> None:
    good = report.to_json()
    for spoil in (
        lambda doc: doc.pop("verdict"),
        lambda doc: doc.update(surprise=1),
        lambda doc: doc.update(version=2),
        lambda doc: doc["latency"].update(clock="sundial"),
        lambda doc: doc["fidelity"]["classification"].update(top1_agreement=1.5),
        lambda doc: doc["a"].pop("macs"),
        lambda doc: doc.pop("changes"),
        lambda doc: doc["changes"]["gone"].append({"name": "x"}),
        lambda doc: doc["fidelity"].update(task="auto"),
    ):
        bad = copy.deepcopy(good)
        spoil(bad)
        with pytest.raises(jsonschema.ValidationError):
            validate(bad)


def test_figures_of_both_models(report: Audit) -> None:
    assert report.a.structure.macs == 64 * (32 * 3 + 4 * 32)
    assert report.b.structure.macs == 64 * (8 * 3 + 4 * 8)
    assert report.a.structure.compute_depth == 2
    assert report.fidelity.samples == 12
    assert report.fidelity.classification is not None
    assert report.fidelity.classification.accuracy_a is not None
    assert report.environment.engine["engine"] == "onnxruntime"
    assert len(report.latency.per_repeat) == 2


def test_thresholds_decide_whether_it_passed(report: Audit) -> None:
    speed, drift = report.thresholds
    assert speed.met
    assert not drift.met
    assert not report.passed
    assert dataclasses.replace(report, thresholds=(speed,)).passed
    assert dataclasses.replace(report, thresholds=()).passed


def test_a_model_against_itself_is_faithful(files: tuple[Path, Path]) -> None:
    found = audit(files[0], files[0], data(), max_drift=0.0, repeats=1)
    assert found.passed
    assert found.fidelity.drift == 0
    assert found.fidelity.classification is not None
    assert found.fidelity.classification.top1_agreement == 1


def test_unnamed_data_takes_the_only_input(files: tuple[Path, Path]) -> None:
    unnamed = Data((Chunk({"": data().chunks[0].arrays["x"]}),), "callable")
    assert audit(files[0], files[0], unnamed, repeats=1).fidelity.drift == 0


def test_verdicts() -> None:
    assert verdict(comparison(0.6173, 0.5882, 0.6452)) == "B is 1.62x faster [1.55, 1.70]"
    assert verdict(comparison(0.6173, 0.5882, 0.6452, "CPU")) == "B is 1.62x faster [1.55, 1.70] (CPU time)"
    assert (
        verdict(comparison(0.99, 0.96, 1.02)) == "no credible gain: B takes 0.99x the time of A [0.96, 1.02]"
    )
    assert verdict(comparison(1.2, 1.1, 1.3)) == "B is 1.20x slower [1.10, 1.30]"


def test_min_speedup_is_held_against_the_careful_end() -> None:
    found = speedup_threshold(comparison(0.5, 0.45, 0.55), 1.9)
    assert not found.met
    assert found.text == "speed-up of at least 1.82x with 95 % confidence; 1.9x was wanted: missed"
    assert speedup_threshold(comparison(0.5, 0.45, 0.55), 1.8).met


def test_max_drift_names_the_figure_it_limits(report: Audit) -> None:
    assert drift_threshold(report.fidelity, 1e9).text.startswith("KL divergence of ")
    other = dataclasses.replace(report.fidelity, classification=None)
    assert drift_threshold(other, 1e9).text.startswith("relative L2 of ")


def test_break_even_is_cost_over_saving() -> None:
    cost = Optimization.from_json(COST)
    found = break_even(cost, comparison(0.6, 0.5, 0.7))
    assert (found.inferences, found.low, found.high) == (3000, 2400, 4000)
    assert found.text == "after 3,000 inferences (2,400 to 4,000), 30 s of running A"


def test_break_even_is_never_without_a_credible_gain() -> None:
    found = break_even(Optimization.from_json(COST), comparison(0.98, 0.95, 1.01))
    assert found.inferences is None
    assert found.text == "never: B is not credibly faster, so nothing is paid back"


@pytest.mark.parametrize(
    "fields", [{}, {**COST, "more": 1}, {**COST, "cpu_seconds": -1}, {**COST, "wall_seconds": "8"}]
)
def test_cost_must_be_complete(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"^optimization: "):
        Optimization.from_json(fields)


def shallower(path: Path) -> Path:
    """``classifier`` without its ReLU, its second convolution called otherwise."""
    model = onnx.load(classifier(path, 32))
    names = ("first", "rectify", "second", "pool", "flatten")
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    onnx.save(model, path)
    model.graph.node[2].input[0] = "a"
    model.graph.node[2].name = "fitted"
    del model.graph.node[1]
    other = path.with_name("shallower.onnx")
    onnx.save(model, other)
    return other


def shown(found: Audit) -> str:
    console = Console(width=120, file=io.StringIO())
    with console.capture() as captured:
        console.print(summary(found))
    return captured.get()


def flat(text: str) -> str:
    return " ".join(text.split())


def test_what_went_and_what_is_new_is_listed_by_name(tmp_path: Path) -> None:
    small = shallower(tmp_path / "a.onnx")
    found = audit(tmp_path / "a.onnx", small, data(), repeats=1)
    document = found.to_json()
    validate(document)
    assert document["changes"] == {
        "shared": 3,
        "gone": [
            {"name": "rectify", "op": "Relu", "compute": False},
            {"name": "second", "op": "Conv", "compute": True},
        ],
        "new": [{"name": "fitted", "op": "Conv", "compute": True}],
    }
    assert (document["a"]["depth"], document["b"]["depth"]) == (5, 4)
    assert (document["a"]["compute_depth"], document["b"]["compute_depth"]) == (2, 2)
    text, page = shown(found), render_html(found)
    for line in ("gone: 2 nodes (1 Conv, 1 Relu): second", "new: 1 node (1 Conv): fitted"):
        assert line in text and line in page
    assert "<td>rectify</td><td>Relu</td><td>gone</td>" in page
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []


def test_nothing_is_listed_where_nothing_went(report: Audit, files: tuple[Path, Path]) -> None:
    same = dataclasses.replace(report, b=report.a)
    assert same.to_json()["changes"] == {"shared": 5, "gone": [], "new": []}
    assert "gone:" not in shown(same) and "What went" not in render_html(same)


def test_models_that_share_no_name_are_not_listed_against_each_other(tmp_path: Path) -> None:
    small = shallower(tmp_path / "a.onnx")
    model = onnx.load(small)
    for node in model.graph.node:
        node.name = f"other_{node.name}"
    onnx.save(model, small)
    found = audit(tmp_path / "a.onnx", small, data(), repeats=1)
    assert "share no name" in shown(found) and "gone:" not in shown(found)
    assert len(found.to_json()["changes"]["gone"]) == 5


def test_long_lists_are_cut_in_the_text_only(report: Audit) -> None:
    many = tuple(NodeRef(f"layer{i}", "Conv", compute=True) for i in range(9))
    a = dataclasses.replace(report.a.structure, listing=(*report.b.structure.listing, *many))
    found = dataclasses.replace(report, a=dataclasses.replace(report.a, structure=a))
    assert "gone: 9 nodes (9 Conv): layer0, layer1, layer2, layer3, layer4, layer5 and 3 more" in shown(found)
    assert "<td>layer8</td>" in render_html(found) and "layer8" not in shown(found)


def test_the_task_decides_how_outputs_are_read(files: tuple[Path, Path]) -> None:
    unlabeled = Data((Chunk(data().chunks[0].arrays),), "test.npz")
    told: list[str] = []
    auto = audit(*files, unlabeled, on_reading=lambda reading: told.append(reading.text), repeats=1)
    asked = audit(*files, unlabeled, task="classifier", repeats=1)
    values = audit(*files, unlabeled, task="regression", max_drift=1e-9, repeats=1)
    tasks = [(f.to_json()["fidelity"]["task"], f.fidelity.task_asked) for f in (auto, asked, values)]
    assert tasks == [("classifier", "auto"), ("classifier", "classifier"), ("regression", "regression")]
    assert values.fidelity.classification is None
    assert values.fidelity.drift == values.fidelity.outputs[0].relative_l2
    assert values.thresholds[0].text.startswith("relative L2 of ")
    for found in (auto, asked, values):
        validate(found.to_json())
    hint = "classifier of 4 classes, damage is KL; y: rows look like logits; --task regression reads it as"
    hint += " values"
    assert told == [hint]  # before anything is measured
    assert hint in flat(shown(auto)) and hint in render_html(auto)
    assert "look like" not in shown(asked) and "look like" not in shown(values)


def test_a_task_that_does_not_suit_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="task 'ranking': unknown; give auto, classifier, regression"):
        audit(*files, data(), task="ranking")


def test_summary_is_returned_and_says_what_matters(report: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    renderable = summary(report)
    assert capsys.readouterr().out == ""
    console = Console(width=100, file=io.StringIO())
    with console.capture() as captured:
        console.print(renderable)
    text = captured.get()
    for expected in (
        report.verdict,
        "MACs",
        "top-1 agreement",
        "was allowed: missed",
        "pairs",
        "optimization paid back",
    ):
        assert expected in text


class _Checker(HTMLParser):
    """Collects references to anything outside and unclosed tags."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "iframe"}:
            self.outside.append(tag)
        self.outside += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_well_formed_self_contained_file(report: Audit, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report.save_html(path)
    text = path.read_text(encoding="utf-8")
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.outside == []
    spoilt = _Checker()
    spoilt.feed("<p><img src='https://elsewhere/x.png'><b></b>")
    assert spoilt.outside == ["img", "https://elsewhere/x.png"]
    assert spoilt.open == ["p", "img"]
    assert not re.search(r"https?://|url\(|@import", text)
    assert report.verdict in text
    assert "A threshold is missed" in text


def test_html_escapes_names(report: Audit) -> None:
    odd = dataclasses.replace(report, samples_from="<script>alert(1)</script>")
    assert "<script>" not in render_html(odd)


def test_html_into_a_missing_folder_is_an_output_error(report: Audit, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        report.save_html(tmp_path / "nowhere" / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_ratio_plot_keeps_one_and_the_interval_in_sight() -> None:
    plot = ratio_plot(0.6, 0.58, 0.63, (0.59, 0.6, 0.62))
    assert 0 < plot.low < plot.ratio < plot.high < plot.one < 640
    assert [label for _, label in plot.ticks] == ["0.6", "0.7", "0.8", "0.9", "1"]
    assert all(0 <= x <= 640 for x, _ in plot.ticks)


def test_round_ticks() -> None:
    assert round_ticks(0.98, 1.03) == [0.98, 0.99, 1.0, 1.01, 1.02, 1.03]
    assert round_ticks(0.1, 12) == [2, 4, 6, 8, 10, 12]


def test_numbers_for_people() -> None:
    assert [amount(v) for v in (0, 999, 1234, 999_600, 407e6, 2.5e12)] == [
        "0",
        "999",
        "1.23 k",
        "1,000 k",
        "407 M",
        "2,500 G",
    ]
    assert amount(1.5e6, "B") == "1.50 MB"
    assert [milliseconds(v) for v in (0.0123, 0.39, 12.345, 1234.5)] == [
        "12.3 µs",
        "0.390 ms",
        "12.3 ms",
        "1,234 ms",
    ]
    assert share(0.999999) == "99.99 %"
    assert share(1.0) == "100.00 %"


def test_metric_by_name(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metric.py").write_text(
        "def top(outputs, labels):\n    return (outputs['y'].argmax(1) == labels).mean()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_metric", raising=False)
    found = audit(*files, data(), metric="my_metric:top", repeats=1).fidelity
    assert found.metric is not None
    assert found.classification is not None
    assert found.metric.a == pytest.approx(found.classification.accuracy_a)
    assert found.metric.b == pytest.approx(found.classification.accuracy_b)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_colon", "write it as package.module:callable"),
        (
            "no_such_module_anywhere:f",
            "no_such_module_anywhere:f: there is no module no_such_module_anywhere",
        ),
        ("json:nothing", "json:nothing: json has no nothing"),
    ],
)
def test_metric_that_cannot_be_found(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_metric(text)


def test_bad_inputs_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = files
    with pytest.raises(ModelError, match=r"nowhere\.onnx: no such file; check the path$"):
        audit(a, tmp_path / "nowhere.onnx", data())
    wrong = Data((Chunk({"z": data().chunks[0].arrays["x"]}),), "test.npz")
    with pytest.raises(DataError, match=r"test\.npz: no array for input 'x' \(has: z\); rename it"):
        audit(a, b, wrong)
    with pytest.raises(UsageError, match="engine 'warp': unknown"):
        audit(a, b, data(), engine="warp")
    assert EngineMissing.exit_code == 3


def test_models_with_other_inputs_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(files[0])
    model.graph.input[0].name = model.graph.node[0].input[0] = "pixels"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(
        ModelError,
        match=r"other\.onnx: has inputs pixels: float32, .*a\.onnx has x: float32; compare models of the",
    ):
        audit(files[0], tmp_path / "other.onnx", data())
