"""What least squares must recover exactly, and what it must leave alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.calibrate.divergence import output_divergence
from otgraph.data import Chunk, Data
from otgraph.errors import DataError
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.repair.least_squares import LeastSquaresOptions, Repair, repair_least_squares
from otgraph.repair.lockstep import Lockstep, run_with, same_nodes
from otgraph.repair.memory import Memory
from otgraph.repair.target import TargetMode

KEPT = [0, 2, 3, 5]


def dependent(layer: nn.Module) -> None:
    """Channels 1 and 4 of six become combinations of the kept ones."""
    mix = torch.randn(2, 4)
    for tensor in (layer.weight, layer.bias):
        tensor.data[[1, 4]] = torch.einsum("ij,j...->i...", mix, tensor.data[KEPT])


def inputs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5


def as_data(x: torch.Tensor) -> Data:
    return Data((Chunk({"x": x.numpy()}),))


def cut(module: nn.Module, x: torch.Tensor, edit: Callable[[nn.Module], None]) -> tuple[Graph, Graph]:
    """The captured original and an edited copy, nodes that lost channels on axis 1 or -1 annotated."""
    small = copy.deepcopy(module)
    edit(small)
    original, new = capture(module.eval(), x[:2]), capture(small.eval(), x[:2])
    annotate(original, new, x)
    return original, new


def annotate(original: Graph, new: Graph, x: torch.Tensor) -> None:
    pair = Lockstep(new, original, [(x[:2],)], Memory(1 << 40))

    def note(node: torch.fx.Node) -> None:
        value, reference = pair.new.values.get(node.name), pair.reference(node.name)
        if node.op != "call_function" or value is None or reference is None:
            return
        for axis, (a, b) in enumerate(zip(value[0].shape, reference[0].shape, strict=True)):
            if a != b:
                node.meta["otgraph"] = {"kept": {axis: np.array(KEPT)}}

    every = [n.name for n in new.module.graph.nodes if n.op == "call_function"]
    pair.walk(lambda _: None, note, {name: [name] for name in every})


def error(original: Graph, new: Graph, repair: Repair, x: torch.Tensor) -> float:
    outputs = run_with(new, repair.updates, [(x,)])
    return output_divergence([original(x)], outputs).relative_l2


def narrow(layer: nn.Module, axis: int) -> None:
    layer.weight = nn.Parameter(layer.weight.data.index_select(axis, torch.tensor(KEPT)))
    if axis == 0 and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.data[KEPT])


@pytest.mark.parametrize(
    "reader",
    [
        {},
        {"stride": 2, "padding": 1},
        {"padding": 2, "dilation": 2},
        {"kernel_size": 1},
        {"bias": False},
    ],
)
def test_a_convolution_recovers_dependent_channels(reader: dict[str, int]) -> None:
    torch.manual_seed(0)
    options = {"kernel_size": 3, **reader}
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, **options))
    dependent(module[0])
    x = inputs(24, 3, 9, 9)
    original, new = cut(module, x, lambda m: (narrow(m[0], 0), narrow(m[1], 1)))
    repair = repair_least_squares(new, original, as_data(x))
    fresh = inputs(8, 3, 9, 9, seed=1)
    assert error(original, new, Repair({}, ()), fresh) > 0.1
    assert error(original, new, repair, fresh) < 1e-5
    assert repair.strength == 1.0 and repair.before.damage > 0.1 and repair.after.damage < 1e-5


def test_a_linear_layer_on_sequences_recovers() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    dependent(module[0])
    x = inputs(24, 7, 4)
    original, new = cut(module, x, lambda m: (narrow(m[0], 0), narrow(m[1], 1)))
    repair = repair_least_squares(new, original, as_data(x))
    assert error(original, new, repair, inputs(5, 7, 4, seed=1)) < 1e-5


def test_a_known_ridge_spares_the_choice_of_one() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    dependent(module[0])
    x = inputs(24, 7, 4)
    original, new = cut(module, x, lambda m: (narrow(m[0], 0), narrow(m[1], 1)))
    mild = repair_least_squares(new, original, as_data(x), LeastSquaresOptions(ridge=1e-8))
    harsh = repair_least_squares(new, original, as_data(x), LeastSquaresOptions(ridge=1e4))
    tried = [
        {key for key in r.remarks[-1].metrics if "common" in key or "layer" in key} for r in (mild, harsh)
    ]
    assert tried == [{"damage_common_1e-08"}, {"damage_common_10000"}]
    fresh = inputs(5, 7, 4, seed=1)
    assert error(original, new, mild, fresh) < 1e-5 < 0.1 < error(original, new, harsh, fresh)


def test_a_known_strength_is_taken_as_told_and_fits_on_all_inputs() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    dependent(module[0])
    x = inputs(24, 7, 4)
    original, new = cut(module, x, lambda m: (narrow(m[0], 0), narrow(m[1], 1)))
    fresh = inputs(5, 7, 4, seed=1)
    whole, half, none = (
        repair_least_squares(new, original, as_data(x), LeastSquaresOptions(ridge=1e-8, strength=strength))
        for strength in (1.0, 0.5, 1e-9)
    )
    assert error(original, new, whole, fresh) < 1e-5 and whole.before is None and whole.strength == 1.0
    assert error(original, new, half, fresh) == pytest.approx(error(original, new, none, fresh) / 2, rel=1e-2)
    for name, value in whole.updates.items():
        torch.testing.assert_close(half.updates[name], (value + new.tensor(name)) / 2)


@pytest.mark.parametrize("groups", [3, 6])
def test_grouped_and_depthwise_convolutions_undo_a_change_of_their_input(groups: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=groups, bias=False), nn.BatchNorm2d(6)
    )
    x = inputs(24, 3, 9, 9)

    def edit(m: nn.Module) -> None:
        m[0].weight.data *= torch.linspace(0.5, 3, 6).view(-1, 1, 1, 1)
        m[0].bias.data += 1

    original, new = cut(module, x, edit)
    repair = repair_least_squares(new, original, as_data(x), LeastSquaresOptions(depthwise=True))
    fresh = inputs(8, 3, 9, 9, seed=1)
    assert error(original, new, Repair({}, ()), fresh) > 0.1
    assert error(original, new, repair, fresh) < 1e-5
    left = repair_least_squares(new, original, as_data(x)).updates
    assert ("1.weight" in left) == (groups < 6)  # by default depthwise layers keep their weights


def test_the_constant_goes_into_the_batch_norm_exactly() -> None:
    """Without padding an input shifted by a constant shifts the output by one: only the intercept can mend
    it."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5))
    module[2].running_mean.uniform_(-1, 1)
    module[2].running_var.uniform_(0.5, 2)
    module[2].weight.data.uniform_(-1, 1)
    x = inputs(16, 3, 7, 7)

    def edit(m: nn.Module) -> None:
        m[0].bias.data += torch.randn(6)

    original, new = cut(module, x, edit)
    repair = repair_least_squares(
        new, original, as_data(x), LeastSquaresOptions(ridges=(float("inf"),), common=())
    )
    changed = [name for name, value in repair.updates.items() if not torch.equal(value, new.tensor(name))]
    assert changed == ["2.running_mean"]
    assert error(original, new, repair, inputs(4, 3, 7, 7, seed=1)) < 1e-5
    bare = copy.deepcopy(module)
    original, new = cut(nn.Sequential(*list(bare)[:2]), x, edit)  # no place for a constant
    repair = repair_least_squares(
        new, original, as_data(x), LeastSquaresOptions(ridges=(float("inf"),), common=())
    )
    assert repair.updates == {} and repair.strength == 0


def test_asymmetric_beats_symmetric() -> None:
    """A drift that its own layer cannot mend: fitted on the original's values the reader would not change."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4))
    x, fresh = inputs(256, 8), inputs(256, 8, seed=1)
    original, new = cut(module, x, lambda m: m[0].weight.data.mul_(0.4))
    symmetric = error(original, new, Repair({}, ()), fresh)
    assert error(original, new, repair_least_squares(new, original, as_data(x)), fresh) < 0.6 * symmetric


class Stream(nn.Module):
    """y = (x + drifting branch) + linear branch of x: the second branch can mend what the first one lost."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 1)
        self.b = nn.Conv2d(4, 4, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stream = x + self.a(x)
        return stream + self.norm(self.b(stream))


@pytest.mark.parametrize("norm", [False, True])
def test_the_stream_target_mends_the_drift_of_the_stream(norm: bool) -> None:
    torch.manual_seed(0)
    module = Stream(norm)
    if norm:
        module.norm.running_var.uniform_(0.5, 2)
        module.norm.running_mean.uniform_(-1, 1)
        module.norm.weight.data.uniform_(0.3, 2)
    x = inputs(24, 4, 5, 5)

    def edit(m: nn.Module) -> None:
        m.a.weight.data *= 0.7

    original, new = cut(module, x, edit)
    fresh = inputs(8, 4, 5, 5, seed=1)
    errors = {
        mode: error(
            original,
            new,
            repair_least_squares(new, original, as_data(x), LeastSquaresOptions(target=mode)),
            fresh,
        )
        for mode in TargetMode
    }
    assert errors[TargetMode.STREAM] < 1e-5 < 0.01 < errors[TargetMode.OUTPUT]


def test_nothing_is_touched_before_the_first_cut() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(3, 2))
    x = inputs(32, 4)
    original, new = cut(module, x, lambda m: (narrow(m[1], 0), narrow(m[2], 1)))
    same = same_nodes(new, original)
    calls = [n.name for n in new.module.graph.nodes if n.op == "call_function"]
    assert [name in same for name in calls] == [True, False, False, False]
    repair = repair_least_squares(new, original, as_data(x))
    assert {name.split(".")[0] for name in repair.updates} == {"2", "3"}


def test_an_unchanged_network_is_left_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    graph = capture(module, inputs(2, 4))
    repair = repair_least_squares(graph.copy(), graph, as_data(inputs(16, 4)))
    assert repair.updates == {} and repair.before.damage == 0
    assert repair.remarks[-1].message == "nothing to repair: the outputs are the original's"


def test_a_repair_that_only_fits_noise_is_refused() -> None:
    """Few inputs, many channels, and a removed channel that nothing else can replace."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 3))
    module[0].weight.data = torch.eye(40)
    module[0].bias.data.zero_()
    module[1].weight.data[:, 1:] *= 0.1
    x, fresh = torch.randn(16, 40), torch.randn(500, 40)

    def edit(m: nn.Module) -> None:
        keep = torch.arange(1, 40)
        m[0].weight = nn.Parameter(m[0].weight.data[keep])
        m[0].bias = nn.Parameter(m[0].bias.data[keep])
        m[1].weight = nn.Parameter(m[1].weight.data[:, keep])

    small = copy.deepcopy(module)
    edit(small)
    original, new = capture(module, x[:2]), capture(small, x[:2])
    before = error(original, new, Repair({}, ()), fresh)
    repair = repair_least_squares(new, original, as_data(x))
    assert repair.after.damage <= repair.before.damage
    assert error(original, new, repair, fresh) < 1.1 * before
    only_tiny = LeastSquaresOptions(ridges=(1e-8,), common=(), strengths=(1.0,))
    assert repair_least_squares(new, original, as_data(x), only_tiny).updates == {}


def test_shared_weights_and_lost_names_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.shared(torch.relu(self.shared(self.first(x))))

    def edit(m: nn.Module) -> None:
        m.first.weight.data *= 0.5

    x = inputs(16, 4)
    original, new = cut(Twice(), x, edit)
    repair = repair_least_squares(new, original, as_data(x))
    texts = [remark.message for remark in repair.remarks if remark.kind == "missed"]
    assert sum("shared.weight has another user" in text for text in texts) == 2
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    original, new = cut(module, x, lambda m: m[0].weight.data.mul_(0.5))
    last = [n for n in new.module.graph.nodes if n.op == "call_function"][-1]
    last.name = last._rename("made_by_a_rewrite")
    texts = [remark.message for remark in repair_least_squares(new, original, as_data(x)).remarks]
    assert any("no node of this name" in text for text in texts)
    narrowed = LeastSquaresOptions(max_width=3)
    original, new = cut(module, x, lambda m: m[0].weight.data.mul_(0.5))
    texts = [remark.message for remark in repair_least_squares(new, original, as_data(x), narrowed).remarks]
    assert any("4 columns would need too large a system (limit 3)" in text for text in texts)


def test_too_few_inputs_and_none() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    x = inputs(16, 4)
    original, new = cut(module, x, lambda m: m[0].weight.data.mul_(0.5))
    repair = repair_least_squares(new, original, as_data(x[:1]))
    assert repair.updates == {} and "give more inputs" in repair.remarks[0].message
    with pytest.raises(DataError, match="holds no complete batch"):
        repair_least_squares(new, original, as_data(x[:0]))


def test_graphs_are_not_edited() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    x = inputs(16, 4)
    original, new = cut(module, x, lambda m: (narrow(m[0], 0), narrow(m[1], 1)))
    before = {name: tensor.clone() for name, tensor in new.tensors().items()}
    assert repair_least_squares(new, original, as_data(x)).updates
    assert all(torch.equal(before[name], tensor) for name, tensor in new.tensors().items())
