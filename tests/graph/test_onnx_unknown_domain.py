"""A node of a domain that no engine here knows is left as it is, and the rest is worked on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from otgraph.cli.main import run_command
from otgraph.errors import ModelError, PassError
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.onnx.importer import import_model, load_onnx
from otgraph.graph.onnx.uninterpreted import uninterpreted
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.rewriter import Rewriter

PLACES = ("beginning", "middle", "end")


def network(place: str = "middle", *, declared: bool = True, batch: str = "N") -> onnx.ModelProto:
    """Three pairs of products that can be fused, and an unknown operator before, between or behind them."""
    random = np.random.default_rng(0)
    widths = [6, 16, 6, 16, 6]
    nodes, stored, infos, value = [], [], [], "x"
    spot = PLACES.index(place) * 2
    for k in range(5):
        if k == spot:
            nodes.append(
                helper.make_node(
                    "Fold", [value], ["folded"], "odd", domain="acme.ops", strength=3, tags=["a"]
                )
            )
            infos.append(helper.make_tensor_value_info("folded", TensorProto.FLOAT, [batch, 6]))
            value = "folded"
        if k == 4:
            break
        weight = random.normal(0, 0.4, (widths[k], widths[k + 1])).astype(np.float32)
        stored.append(numpy_helper.from_array(weight, f"w{k}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{k}"], [f"m{k}"], f"product{k}"))
        value = f"m{k}"
        if k == 0:
            nodes.append(helper.make_node("Relu", [value], ["r"], "relu"))
            value = "r"
    nodes.append(helper.make_node("Identity", [value], ["y"], "nothing"))
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 6])],
        stored,
        value_info=infos if declared else [],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("acme.ops", 2)]
    return helper.make_model(graph, opset_imports=sets, ir_version=8)


def odd_node(path: Path) -> bytes:
    """The node as it is stored, but for the names of the values around it: other passes may change these."""
    model = onnx.load(path)
    assert any(entry.domain == "acme.ops" and entry.version == 2 for entry in model.opset_import)
    (node,) = [node for node in model.graph.node if node.domain == "acme.ops"]
    node.ClearField("input")
    node.ClearField("output")
    return node.SerializeToString()


@pytest.mark.parametrize("place", PLACES)
def test_it_is_read_and_written_as_it_was(place: str, tmp_path: Path) -> None:
    onnx.save(network(place), tmp_path / "net.onnx")
    graph = load_onnx(tmp_path / "net.onnx")
    assert uninterpreted(graph) == (("odd", "acme.ops.Fold"),)
    (said,) = [remark for remark in graph.remarks if remark.where == "odd" and remark.kind == "missed"]
    assert "acme.ops:Fold" in said.message and "values of its declared shape stand in" in said.message
    (written,) = graph.save(tmp_path / "out.onnx")
    assert written.message.endswith("run it where the library of that operator is, or replace the node")
    assert onnx.load(tmp_path / "out.onnx") == onnx.load(tmp_path / "net.onnx")


@pytest.mark.parametrize("place", PLACES)
def test_its_value_depends_on_all_it_reads_and_has_the_declared_shape(place: str) -> None:
    graph = import_model(network(place))
    x = torch.randn(5, 6)
    (y,) = graph(x)
    assert y.shape == (5, 6) and torch.equal(y, graph(x)[0])
    for row, column in ((0, 0), (4, 5)):
        other = x.clone()
        other[row, column] += 1
        assert not torch.allclose(graph(other)[0], y, rtol=1e-4)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("batch", ["N", ""])
def test_commands_work_on_the_rest(
    place: str, batch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(network(place, batch=batch), tmp_path / "net.onnx")
    old, new = str(tmp_path / "net.onnx"), str(tmp_path / "new.onnx")
    assert run_command(["inspect", old, "--dims", "--blockers", "--graph"]) == 0
    shown = capsys.readouterr().out
    assert "acme.ops:Fold" in shown and "Fold" in shown.partition("operator")[2]
    assert run_command(["run", old, "-p", "fuse-linear,cleanup,prune-channels{keep=0.5}", "-o", new]) == 0
    said = capsys.readouterr().out
    assert "acme.ops:Fold" in said
    assert odd_node(tmp_path / "new.onnx") == odd_node(tmp_path / "net.onnx")
    sizes = [sum(np.prod(t.dims) for t in onnx.load(path).graph.initializer) for path in (old, new)]
    assert sizes[1] < sizes[0]
    assert not [node for node in onnx.load(new).graph.node if node.op_type == "Identity"]
    assert run_command(["run", old, "-p", "prune-channels{keep=0.5}", "-o", new]) == 0
    widths = {t.name: tuple(t.dims) for t in onnx.load(new).graph.initializer}
    assert widths["w0"] == (6, 8) and widths["w2"][1] == 8


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "--calib"],
        ["run", "-p", "annotate-width,prune-channels{keep=0.5}", "-o", "new.onnx", "--calib"],
        ["plan", "--keep", "0.5", "-o", "plan.json", "--calib"],
        ["optimize", "--keep", "0.5", "-o", "new.onnx", "--calib"],
    ],
)
def test_what_needs_it_to_run_says_so(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    np.savez("calib.npz", x=np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32))
    assert run_command([arguments[0], "net.onnx", *arguments[1:], "calib.npz"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "error: net: inputs need a network that runs, and node 'odd' cannot: no engine here knows"
        " acme.ops.Fold; without them, inspect and run work on the rest of the network"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calib.npz", "net.onnx"]


def test_where_nothing_is_declared_that_is_the_error() -> None:
    with pytest.raises(
        ModelError,
        match=r"node 'odd': .*; replace it, or declare it: its output 'folded' has no declared type",
    ):
        import_model(network(declared=False))
    model = network()
    model.graph.value_info[0].type.tensor_type.shape.dim[1].dim_param = "K"
    with pytest.raises(
        ModelError, match=r"or declare it: axis 1 of its output 'folded' has no declared size"
    ):
        import_model(model)


def test_a_named_size_comes_from_the_inputs() -> None:
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    model.graph.value_info[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    assert import_model(model)(torch.randn(7, 6))[0].shape == (7, 6)


def test_an_operator_of_a_newer_standard_is_left_too() -> None:
    model = network()
    model.graph.node[next(i for i, n in enumerate(model.graph.node) if n.name == "odd")].domain = ""
    graph = import_model(model)
    assert uninterpreted(graph) == (("odd", "Fold"),)


class Shift(TransformPass):
    """Claims to change nothing, and adds to one weight."""

    name = "shift"
    exactness = Exactness.EXACT

    def __init__(self, weight: str) -> None:
        self.weight = weight

    def __str__(self) -> str:
        return self.name

    def run(self, rewriter: Rewriter, context: Context) -> None:
        weight = rewriter.graph.tensor(self.weight).clone()
        weight[0, 0] += 0.05
        rewriter.set_tensor(self.weight, weight)


@pytest.mark.parametrize("weight", ["w0", "w1", "w2", "w3"])
@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_pass_is_caught_on_either_side_of_it(weight: str, place: str) -> None:
    with pytest.raises(PassError, match="claims the same outputs"):
        PassManager([Shift(weight)]).run(import_model(network(place)))


def test_axes_end_at_it() -> None:
    axes = analyze(import_model(network()))
    reasons = {dim.blocked for dim in axes.dims.values() if dim.size == 6}
    assert "Fold at odd" in reasons
    assert {dim.name for dim in axes.prunable()} == {"w0", "w2"}
