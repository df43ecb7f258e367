"""MODEL texts: files, callables, shapes, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn

from otgraph.errors import ModelError, UsageError
from otgraph.graph.capture import capture
from otgraph.load import check_weights, load_model

ONNX = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,H,8] image, int64[N] index) => (float[N,4,H,8] y, int64[N] z) {
    y = Conv (image, w)
    z = Neg (index)
}"""


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.linear(x) + self.mask, -1)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model in each form, in the current directory."""
    monkeypatch.chdir(tmp_path)
    model = parser.parse_model(ONNX)
    model.graph.initializer.append(numpy_helper.from_array(torch.randn(4, 3, 1, 1).numpy(), "w"))
    onnx.save(model, "net.onnx")
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.randn(2, 3),)), "net.pt2")
    (tmp_path / "made_up_models.py").write_text(
        "import torch\n"
        "def pair(): return torch.nn.Linear(3, 2).eval(), (torch.randn(2, 3),)\n"
        "def program(): return torch.export.export(*pair())\n"
        "def alone(): return torch.nn.Linear(3, 2)\n"
        "def fails(): raise RuntimeError('no weights here')\n"
        "def nan():\n"
        "    net, x = pair()\n"
        "    net.weight.data[0, 0] = float('nan')\n"
        "    return net, x\n"
    )
    monkeypatch.delitem(sys.modules, "made_up_models", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "dialect", "name"),
    [
        ("net.onnx", "onnx", "net"),
        ("net.pt2", "aten", "net"),
        ("made_up_models:pair", "aten", "pair"),
        ("made_up_models:program", "aten", "program"),
    ],
)
def test_every_form(models: Path, spec: str, dialect: str, name: str) -> None:
    graph = load_model(spec)
    assert (graph.dialect, graph.name) == (dialect, name)
    assert graph(*graph.example)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.onnx", r"none\.onnx: "),
        ("none.pt2", r"none\.pt2: no such file; check the path$"),
        (
            "net.tflite",
            r"net\.tflite: is no \.onnx file, no \.pt2 file and no package\.module:callable; give one",
        ),
        ("made_up_models:none", "made_up_models has no none"),
        ("no_such_module:f", "there is no module no_such_module"),
        ("made_up_models:alone", r"returns a Linear; return \(module, example_inputs\)"),
        ("made_up_models:fails", "made_up_models:fails: raised RuntimeError: no weights here"),
        ("made_up_models:nan", "made_up_models:nan: weight weight holds 1 values that are not finite; mend"),
    ],
)
def test_what_is_no_model(models: Path, spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(spec)


def test_a_text_file_is_no_exported_program(models: Path) -> None:
    Path("bad.pt2").write_text("nothing")
    with pytest.raises(ModelError, match=r"bad\.pt2: "):
        load_model("bad.pt2")


def test_infinities_of_a_mask_are_fine_and_of_a_weight_are_not() -> None:
    net = Masked().eval()
    check_weights(capture(net, torch.randn(2, 3)), "net")
    net.linear.weight.data[1, 1] = torch.inf
    with pytest.raises(ModelError, match=r"net: weight linear\.weight holds 1 values"):
        check_weights(capture(net, torch.randn(2, 3)), "net")
    net.linear.weight.data.zero_()
    net.mask.data[0] = torch.nan
    with pytest.raises(ModelError, match="net: weight mask holds 1 values"):
        check_weights(capture(net, torch.randn(2, 3)), "net")


def test_shapes_are_used(models: Path) -> None:
    graph = load_model("net.onnx", {"image": (2, 3, 5, 8), "index": (2,)})
    assert [tuple(x.shape) for x in graph.example] == [(2, 3, 5, 8), (2,)]
    assert graph.example[1].dtype == torch.int64
    assert graph(*graph.example)[0].shape == (2, 4, 5, 8)


Shapes = dict[str, tuple[int, ...]]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"picture": (2, 3, 5, 8)},
            r"shape of 'picture': the model has no such input \(it has image, index\)",
        ),
        (
            {"image": (2, 3, 5, 9)},
            r"shape of 'image': \(2, 3, 5, 9\) does not fit image: float32\[N, 3, H, 8\]",
        ),
        ({"image": (2, 3, 5)}, r"shape of 'image': \(2, 3, 5\) does not fit"),
        ({"image": (1, 3, 10**9, 8)}, r"shape of 'image': \(1, 3, 1000000000, 8\) are 96 GB, too much"),
    ],
)
def test_shapes_that_do_not_fit(models: Path, shapes: Shapes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_model("net.onnx", shapes)


def test_shapes_that_make_large_values(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["otgraph.load"], "LARGEST_VALUE", 10_000_000)
    with pytest.raises(UsageError, match=r"the model makes a value of 12\.8 MB, too much to go on with"):
        load_model("net.onnx", {"image": (1, 3, 100_000, 8)})


def test_shapes_that_the_model_does_not_run_on(models: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        sums (float[N,3] a, float[M,3] b) => (float[N,3] y) { y = Add (a, b) }"""
    onnx.save(parser.parse_model(text), "sums.onnx")
    with pytest.raises(UsageError, match="the model does not run on them: The size of tensor a"):
        load_model("sums.onnx", {"a": (4, 3), "b": (5, 3)})
