"""Arguments and results in containers of every kind: names, values in the saved file, and what is refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import otgraph as otg
from otgraph.cli.main import run_command
from otgraph.errors import DataError, ModelError
from otgraph.graph.capture import capture, load_program
from otgraph.graph.graph import Graph


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@dataclass
class Fields:
    logits: torch.Tensor
    states: tuple[torch.Tensor, ...]
    loss: torch.Tensor | None = None


@dataclass
class Registered:
    a: torch.Tensor
    b: torch.Tensor


torch.export.register_dataclass(Registered)


@dataclass
class Unknown:
    a: torch.Tensor


@dataclass
class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As in transformers: a data class that is a dict of those of its fields that are not None."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if value is not None:
                self[name] = value


class Opaque:
    def __init__(self, value: torch.Tensor) -> None:
        self.value = value


class Returning(nn.Module):
    def __init__(self, pack: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.pack, self.body, self.head = pack, nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.pack(self.head(self.body(x).relu()))


def flat(value: Any) -> list[torch.Tensor]:
    """Tensors of a result, taken apart by hand."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        value = list(vars(value).values())
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, (list, tuple)) else []


def check(graph: Graph, path: Path, feeds: dict[str, torch.Tensor], expected: list[torch.Tensor]) -> None:
    """The graph and its file compute what the module does, under the names of the graph."""
    assert [port.name for port in graph.signature.inputs] == list(feeds)
    for got, want in zip(graph(*feeds.values()), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    graph.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == list(feeds)
    assert [o.name for o in session.get_outputs()] == [port.name for port in graph.signature.outputs]
    ran: list[Any] = list(session.run(None, {name: feed.numpy() for name, feed in feeds.items()}))
    for got, want in zip(ran, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-5, atol=1e-6)


RESULTS: dict[str, tuple[Callable[[torch.Tensor], Any], list[str]]] = {
    "tensor": (lambda y: y, ["output"]),
    "tuple of one": (lambda y: (y,), ["output"]),
    "tuple": (lambda y: (y, y + 1), ["output_0", "output_1"]),
    "list in tuple": (lambda y: (y, [y + 1, {"deep": y * 2}]), ["output_0", "output_1_0", "output_1_1_deep"]),
    "dict": (lambda y: {"b": y, "a": y + 1}, ["b", "a"]),
    "nested dict": (lambda y: {"scores": {"fine": y}, "rest": (y + 1,)}, ["scores_fine", "rest_0"]),
    "named tuple": (lambda y: Pair(y, y + 1), ["left", "right"]),
    "data class": (lambda y: Fields(y, (y + 1, y * 2)), ["logits", "states_0", "states_1"]),
    "registered": (lambda y: Registered(y, y + 1), ["a", "b"]),
    "model output": (
        lambda y: ModelOutput(logits=y, hidden_states=(y + 1, y * 2)),
        ["logits", "hidden_states_0", "hidden_states_1"],
    ),
    "torch's own tuple": (lambda y: torch.max(y, 1), ["output_0", "output_1"]),
    "names in use": (
        lambda y: {
            "x": y,
            "weight": y + 1,
            "add": y + 2,
            "linear": y + 3,
            "relu": y + 4,
            "body.weight": y - 1,
        },
        ["x_1", "weight", "add", "linear", "relu", "body_weight"],
    ),
    "odd keys": (lambda y: {"a b/c": y, 7: y + 1, "a_b_c": y + 2}, ["a_b_c", "output_7", "a_b_c_1"]),
    "one tensor twice": (lambda y: {"a": y, "b": y}, ["a", "b"]),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_results(kind: str, tmp_path: Path) -> None:
    pack, names = RESULTS[kind]
    torch.manual_seed(0)
    module = Returning(pack).eval()
    graph = capture(module, torch.randn(2, 3))
    assert graph.remarks == () and [port.name for port in graph.signature.outputs] == names
    x = torch.randn(5, 3)
    with torch.no_grad():
        result = module(x)
    expected = flat(tuple(result)) if kind == "torch's own tuple" else flat(result)
    check(graph, tmp_path / "net.onnx", {"x": x}, expected)


@pytest.mark.parametrize("kind", ["dict", "named tuple", "data class", "registered", "torch's own tuple"])
def test_results_of_a_program(kind: str, tmp_path: Path) -> None:
    if kind == "data class":
        torch.export.register_dataclass(Fields)
    pack, names = RESULTS[kind]
    program = torch.export.export(Returning(pack).eval(), (torch.randn(2, 3),), strict=False)
    assert [port.name for port in capture(program).signature.outputs] == names
    if kind == "dict":  # torch.export.save takes the others only with names for the file
        torch.export.save(program, tmp_path / "net.pt2")
        assert [port.name for port in load_program(tmp_path / "net.pt2").signature.outputs] == names


def test_results_that_are_no_tensors() -> None:
    graph = capture(
        Returning(lambda y: {"y": y, "size": y.shape[0], "kind": "a", "none": None}), torch.randn(2, 3)
    )
    assert [port.name for port in graph.signature.outputs] == ["y"]
    assert [str(remark) for remark in graph.remarks] == [
        "analysis: capture: output size: is no tensor (SymInt); it is left out",
        "analysis: capture: output kind: is no tensor (str); it is left out",
    ]


@pytest.mark.parametrize(
    ("pack", "message"),
    [
        (
            lambda y: {"found": [Opaque(y)]},
            r"^Returning: output found\.0: is a Opaque, which cannot be taken apart; use tensors in tuples.* "
            r"or register Opaque with torch\.export\.register_dataclass$",
        ),
        (lambda y: y.numpy(), r"^Returning: output: is a ndarray; use a torch tensor$"),
        (lambda y: None, r"^Returning: returns no tensor; return at least one$"),
        (lambda y: {"n": 3}, r"^Returning: returns no tensor; return at least one$"),
    ],
)
def test_results_that_are_refused(pack: Callable[[torch.Tensor], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        capture(Returning(pack).eval(), torch.randn(2, 3))


class Taking(nn.Module):
    """Arguments of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(
        self, x: Any, pair: Any, *rest: Any, mask: Any = None, scale: float = 1.0, **options: Any
    ) -> torch.Tensor:
        y = x + (pair["left"] + pair["more"][0] if isinstance(pair, dict) else pair[0] * pair[1])
        y = sum(rest, y)
        y = y if mask is None else y * mask
        y = y + options["extra"].a * options["extra"].b if "extra" in options else y
        return self.head(self.body(y * scale).relu())


def row() -> torch.Tensor:
    return torch.randn(2, 3)


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], list[str]]] = {
    "positions": ((row(), (row(), row())), {}, ["x", "pair_0", "pair_1"]),
    "keywords": ((), {"x": row(), "pair": [row(), row()]}, ["x", "pair_0", "pair_1"]),
    "keyword only": ((row(), Pair(row(), row())), {"mask": row()}, ["x", "pair_left", "pair_right", "mask"]),
    "nested": ((row(), {"left": row(), "more": (row(),)}), {}, ["x", "pair_left", "pair_more_0"]),
    "rest": ((row(), (row(), row()), row(), row()), {}, ["x", "pair_0", "pair_1", "rest_0", "rest_1"]),
    "options": (
        (row(), (row(), row())),
        {"extra": Registered(row(), row()), "mask": None},
        ["x", "pair_0", "pair_1", "extra_a", "extra_b"],
    ),
    "constants": ((row(), (row(), row())), {"scale": 2.0}, ["x", "pair_0", "pair_1"]),
    "batch of one": (
        (row()[:1], (row()[:1], row()[:1])),
        {"mask": row()[:1]},
        ["x", "pair_0", "pair_1", "mask"],
    ),
}


@pytest.mark.parametrize("kind", CALLS)
def test_calls(kind: str, tmp_path: Path) -> None:
    args, kwargs, names = CALLS[kind]
    torch.manual_seed(0)
    module = Taking().eval()
    graph = capture(module, args, kwargs)
    where = [remark.where for remark in graph.remarks]
    assert where == (["input scale"] if kind == "constants" else [])
    with torch.no_grad():
        expected = module(*args, **kwargs)
    feeds = dict(zip(names, flat([args, kwargs]), strict=True))
    check(graph, tmp_path / "net.onnx", feeds, [expected])
    assert {port.shape[0] for port in graph.signature.inputs} == {"batch"}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"^Taking: no example inputs; pass the arguments of one call$"),
        (
            {"x": 1},
            None,
            r"^Taking: example inputs: are a dict; give keyword arguments as kwargs, or \(dict,\)",
        ),
        (
            3,
            None,
            r"^Taking: example inputs: are a int; give a tensor, or a tuple of the arguments of one call$",
        ),
        ((row(),), [row()], r"^Taking: kwargs: are a list; give a dict from name to value$"),
        ((row(),), {1: row()}, r"^Taking: kwargs: are a dict; give a dict from name to value$"),
        (
            (row(), [Unknown(row())]),
            None,
            r"^Taking: input pair\[0\]: is a Unknown, which torch\.export cannot take apart; register a data "
            r"class with torch\.export\.register_dataclass\(Unknown\), or pass its tensors$",
        ),
        ((row(),), {"mask": np.zeros(3)}, r"^Taking: input mask: is a ndarray; give a torch tensor$"),
        ((row(),), {}, r"^Taking: cannot be captured by torch\.export \(.*missing 1 required .*: 'pair'\)$"),
    ],
)
def test_calls_that_are_refused(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        capture(Taking(), args, kwargs)


def test_what_is_no_module() -> None:
    with pytest.raises(
        ModelError, match=r"^dict: is no torch\.nn\.Module and no exported program; give one of"
    ):
        capture({}, row())  # type: ignore[arg-type]


def test_such_a_graph_can_be_optimized(tmp_path: Path) -> None:
    """Data go by the names of the inputs; what is cut is cut, and outputs keep their names."""
    torch.manual_seed(0)

    class Whole(Taking):
        def forward(self, x: Any, pair: Any, *, mask: Any = None) -> Any:
            return Fields(super().forward(x, pair, mask=mask), (x * 2,))

    graph = capture(Whole().eval(), (row(),), {"pair": Pair(row(), row()), "mask": row()})
    rng = np.random.default_rng(0)
    data = {
        name: rng.normal(size=(64, 3)).astype(np.float32) for name in ("x", "pair_left", "pair_right", "mask")
    }
    assert [port.name for port in graph.signature.inputs] == list(data)
    small = otg.run_pipeline(
        graph, "annotate-width,prune-channels{keep=0.5},repair-least-squares", data
    ).graph
    assert small.tensor("body.weight").shape == (4, 3)
    assert [port.name for port in small.signature.outputs] == ["logits", "states_0"]
    feeds = {name: torch.from_numpy(value) for name, value in data.items()}
    check(small, tmp_path / "small.onnx", feeds, list(small(*feeds.values())))
    with pytest.raises(DataError, match="no array for input 'pair_left'"):
        otg.run_pipeline(graph, "annotate-width", {"x": data["x"]})


CODE = """import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)
    def forward(self, x, *, mask):
        return {'logits': self.head(self.body(x * mask).relu())}
def pair(): return Net(), (torch.ones(2, 3),), {'mask': torch.ones(2, 3)}
"""


def test_a_callable_may_give_keyword_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keyword_models.py").write_text(CODE)
    np.savez("data.npz", x=np.ones((4, 3), np.float32), mask=np.ones((4, 3), np.float32))
    spec = "keyword_models:pair"
    pipeline = "annotate-width,prune-channels{keep=0.5}"
    code = run_command(["run", spec, "-p", pipeline, "--calib", "data.npz", "-o", "n.onnx"])
    assert code == 0, capsys.readouterr().err
    session = onnxruntime.InferenceSession("n.onnx")
    assert [i.name for i in session.get_inputs()] == ["x", "mask"]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    np.savez("data.npz", x=np.ones((4, 3), np.float32))
    capsys.readouterr()
    assert run_command(["inspect", spec, "--calib", "data.npz"]) == 2
    assert "no array for input 'mask' (has: x); rename it" in capsys.readouterr().err
