"""``fold-batch-norm``: the batch norm is gone, the function stays; in both dialects and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from otgraph.errors import PassError
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.onnx.importer import load_onnx
from otgraph.rewrite.manager import PassManager, Result
from otgraph.rewrite.masking import relative_error
from passes import fold_batch_norm
from passes.fold_batch_norm import FoldBatchNorm


def fold(graph: Graph) -> Result:
    return PassManager([FoldBatchNorm()]).run(graph)


def norms(graph: Graph) -> int:
    return sum("atch" in op_name(node) for node in graph.module.graph.nodes)


def shake(net: nn.Module) -> nn.Module:
    """Batch-norm statistics far from the identity."""
    for norm in net.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.uniform_(-2, 2)
            norm.running_var.uniform_(0.05, 4)
            if norm.affine:
                nn.init.uniform_(norm.weight, -1.5, 1.5)
                nn.init.uniform_(norm.bias, -1, 1)
    return net.eval()


@given(
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 0.5]),
    seed=st.integers(0, 9),
)
@settings(max_examples=8, deadline=None)
def test_a_convolution_takes_it_in(groups: int, bias: bool, affine: bool, eps: float, seed: int) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 8, 3, groups=groups, bias=bias, padding=1)
    net = shake(nn.Sequential(conv, nn.BatchNorm2d(8, eps=eps, affine=affine), nn.ReLU()))
    x = torch.randn(2, 4, 5, 5)
    result = fold(capture(net, (x,)))
    assert norms(result.graph) == 0
    assert set(result.graph.tensors()) == {"0.weight", "0.bias"}
    with torch.no_grad():
        assert relative_error((net(x),), result.graph(x)) < 1e-6


def test_another_batch_size_and_other_inputs() -> None:
    net = shake(nn.Sequential(nn.Conv1d(3, 5, 2), nn.BatchNorm1d(5)))
    result = fold(capture(net, (torch.randn(2, 3, 7),)))
    x = 10 * torch.randn(5, 3, 7) + 3
    assert relative_error((net(x).detach(),), result.graph(x)) < 1e-6


def test_composition_is_rounded_once() -> None:
    """float64 then one rounding: the stored weight is the correctly rounded product."""
    net = shake(nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6)))
    graph = capture(net, (torch.randn(2, 7),))
    folded = fold(graph).graph.tensor("0.weight")
    norm = net[1]
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    expected = (net[0].weight.double() * scale[:, None]).float()
    assert (folded != expected).float().mean() < 0.05  # rsqrt and 1 / sqrt differ in the last bit of float64
    torch.testing.assert_close(folded, expected, rtol=1.2e-7, atol=0)


def test_float64_stays_float64() -> None:
    net = shake(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))).double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    result = fold(capture(net, (x,)))
    assert result.graph.tensor("0.weight").dtype == torch.float64
    assert relative_error((net(x).detach(),), result.graph(x)) < 1e-14


class Twice(nn.Module):
    """One batch norm on two layers: its tensors are shared, the layers' are not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(3, 4), nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.a(x)) + self.norm(self.b(x))


def test_a_batch_norm_used_twice_folds_twice() -> None:
    net = shake(Twice())
    x = torch.randn(3, 3)
    result = fold(capture(net, (x,)))
    assert norms(result.graph) == 0
    assert relative_error((net(x).detach(),), result.graph(x)) < 1e-6


def test_weights_that_would_not_be_finite_are_left() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, eps=0.0)).eval()
    net[1].running_var.zero_()
    result = fold(capture(net, (torch.randn(2, 3),)))
    assert norms(result.graph) == 1
    assert [r.message for r in result.remarks] == ["the folded weights of 0 would not be finite"]


def test_the_original_is_untouched_and_nothing_is_left_to_do() -> None:
    graph = capture(shake(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))), (torch.randn(2, 3),))
    before = {name: tensor.clone() for name, tensor in graph.tensors().items()}
    once = fold(graph)
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.tensors().items())
    again = fold(once.graph)
    assert again.records[0].edits == 0 and not again.remarks


def test_a_wrong_fold_is_caught_by_the_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_eps(graph, norm, affine):
        weight, bias = composed(graph, norm, affine)
        return weight * 1.001, bias

    composed = fold_batch_norm._composed
    monkeypatch.setattr(fold_batch_norm, "_composed", without_eps)
    graph = capture(shake(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))), (torch.randn(2, 3),))
    with pytest.raises(PassError, match=r"fold-batch-norm: claims the same outputs \(exact\)"):
        fold(graph)


def test_an_onnx_file_keeps_its_names_and_its_function_in_onnxruntime(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)),
        **{name: rng.uniform(0.5, 2, 4) for name in ("g", "b", "m", "v")},
        "p": rng.normal(size=(4, 5)),
        **{f"{name}2": rng.uniform(0.5, 2, 5) for name in ("g", "b", "m", "v")},
    }
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,5,5] image) => (float[N,5] logits) {
            c = Conv <pads = [1, 1, 1, 1]> (image, w)
            n = BatchNormalization <epsilon = 0.01> (c, g, b, m, v)
            r = Relu (n)
            a = GlobalAveragePool (r)
            f = Flatten (a)
            k = MatMul (f, p)
            logits = BatchNormalization (k, g2, b2, m2, v2)
        }"""
    )
    for name, value in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(model, before)
    result = fold(load_onnx(before))
    result.graph.save(after)
    x = {"image": rng.normal(size=(7, 3, 5, 5)).astype(np.float32)}
    sessions = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (before, after)]
    (a,), (b,) = (session.run(["logits"], x) for session in sessions)
    assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a)
    written = onnx.load(after)
    onnx.checker.check_model(written)
    assert [node.op_type for node in written.graph.node] == [
        *("Conv", "Relu", "GlobalAveragePool", "Flatten", "MatMul", "Add")
    ]
