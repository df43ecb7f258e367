"""The masked original, against cuts made by hand; and a comparator that rejects what is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.graph.axes.axis_map import AxisMap, AxisPort, Dim
from otgraph.graph.axes.expression import Atom, Product
from otgraph.graph.capture import capture
from otgraph.rewrite.masking import mask_graph, masking_error, relative_error


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 4, 3)
    )


def axes(width: int) -> AxisMap:
    dim, fixed = Atom("c", width), Atom
    tensors = {
        "0.weight": (dim, fixed(None, 2), fixed(None, 3), fixed(None, 3)),
        "4.weight": (fixed(None, 3), Product((dim, fixed(None, 4)))),
        **dict.fromkeys(("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"), (dim,)),
    }
    return AxisMap({"c": Dim("c", width, (AxisPort("0.weight", 0, "writes"),))}, {}, tensors)


@pytest.fixture
def pair():
    """A network of width 6, the same cut by hand to 4, and the mask."""
    torch.manual_seed(0)
    big = network(6)
    for norm in big.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -1, 1)
    keep = np.array([True, False, True, True, False, True])
    small = network(4)
    state = {}
    for name, value in big.state_dict().items():
        if name == "4.weight":
            state[name] = value.reshape(3, 6, 4)[:, keep].reshape(3, 16)
        else:
            state[name] = value[keep] if value.dim() and value.shape[0] == 6 else value
    small.load_state_dict(state)
    x = torch.randn(2, 2, 4, 4)
    return capture(big, (x,)), capture(small, (x,)), keep


def test_cut_equals_masked_original(pair) -> None:
    original, cut, keep = pair
    assert masking_error(original, cut, axes(6), {"c": keep}, *original.example) < 1e-6


def test_another_mask_breaks_the_law(pair) -> None:
    original, cut, keep = pair
    assert masking_error(original, cut, axes(6), {"c": np.roll(keep, 1)}, *original.example) > 1e-3


def test_masking_sets_variances_to_one_and_leaves_the_original(pair) -> None:
    original, _, keep = pair
    before = original.tensor("1.running_var").clone()
    masked = mask_graph(original, axes(6), {"c": keep})
    removed = torch.from_numpy(~keep)
    assert (masked.tensor("1.running_var")[removed] == 1).all()
    assert (masked.tensor("1.running_mean")[removed] == 0).all()
    assert (masked.tensor("4.weight").reshape(3, 6, 4)[:, removed] == 0).all()
    assert (masked.tensor("1.running_var")[~removed] == before[~removed]).all()
    assert torch.equal(original.tensor("1.running_var"), before)


def test_nothing_removed_is_the_same_function(pair) -> None:
    original, _, _ = pair
    masked = mask_graph(original, axes(6), {})
    assert relative_error(original(*original.example), masked(*original.example)) == 0.0


def test_relative_error_is_strict() -> None:
    one = torch.ones(4)
    assert relative_error((one,), (one * 1.001,)) == pytest.approx(1e-3, rel=1e-3)
    assert relative_error((one, one), (one, one * 2)) == 1.0
    assert relative_error((one,), (one[:2],)) == math.inf
    assert relative_error((one,), (one, one)) == math.inf
    assert relative_error((torch.zeros(3),), (torch.tensor([0.0, 0.0, 1e-9]),)) == math.inf
    assert relative_error((torch.zeros(3),), (torch.zeros(3),)) == 0.0


def test_relative_error_of_entries_that_are_not_finite() -> None:
    a = torch.tensor([1.0, math.nan, math.inf])
    assert relative_error((a,), (a.clone(),)) == 0.0
    assert relative_error((a,), (torch.tensor([1.0, 0.0, math.inf]),)) == math.inf
    assert relative_error((a,), (torch.tensor([1.0, math.nan, -math.inf]),)) == math.inf


class Frequencies(nn.Module):
    """Positions divided by stored frequencies, and by roots of stored squares; read by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.tensor([1.0, 2.0, 5.0, 9.0]))
        self.register_buffer("square", torch.tensor([1.0, 2.0, 5.0, 9.0]))
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.sin(x / self.frequency) + x / torch.sqrt(self.square))


def test_nothing_is_divided_by_what_is_removed() -> None:
    original = capture(Frequencies(), (torch.randn(2, 5, 1),))
    dim = (Atom("c", 4),)
    tensors = {"frequency": dim, "square": dim, "out.weight": (Atom(None, 3), *dim)}
    found = AxisMap({"c": Dim("c", 4, (AxisPort("out.weight", 1, "reads"),))}, {}, tensors)
    keep = np.array([True, False, True, True])
    masked = mask_graph(original, found, {"c": keep})
    assert masked.tensor("frequency").tolist() == [1.0, 1.0, 5.0, 9.0]
    assert masked.tensor("square").tolist() == [1.0, 1.0, 5.0, 9.0]
    (outputs,) = masked(*original.example)
    x, weight = original.example[0], original.tensor("out.weight")[:, keep]
    features = torch.sin(x / original.tensor("frequency")) + x / original.tensor("square").sqrt()
    expected = features[..., torch.from_numpy(keep)] @ weight.T + original.tensor("out.bias")
    assert relative_error((expected,), (outputs,)) < 1e-6
