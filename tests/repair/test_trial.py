"""Trial repairs: the same mending as a walk through both networks, from values that are held."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from otgraph.calibrate.divergence import output_divergence
from otgraph.data import Chunk, Data
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.repair.checkpoints import Checkpoints
from otgraph.repair.frontier import Execution
from otgraph.repair.least_squares import LeastSquaresOptions
from otgraph.repair.lockstep import run_with
from otgraph.repair.trial import TrialRepair


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.b, self.norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.norm(self.b(self.a(x)))
        return self.head(torch.relu(x).mean((2, 3)))


@pytest.fixture(scope="module")
def pair() -> tuple[Graph, Graph]:
    """A network and one whose second layer drifted; the third can undo it."""
    torch.manual_seed(0)
    net = Net().eval()
    changed = copy.deepcopy(net)
    changed.a.weight.data *= torch.linspace(0.3, 2, 6).view(-1, 1, 1, 1)
    changed.a.bias.data *= torch.linspace(0.3, 2, 6)
    x = torch.zeros(2, 3, 7, 7)
    return capture(net, x), capture(changed, x)


def data(n: int, seed: int = 0) -> Data:
    x = torch.randn(n, 3, 7, 7, generator=torch.Generator().manual_seed(seed))
    return Data((Chunk({"x": x.numpy()}),))


def test_a_trial_mends_what_can_be_mended(pair: tuple[Graph, Graph]) -> None:
    original, new = pair
    trial = TrialRepair(original, data(40), LeastSquaresOptions.quick(ridge=1e-6), judged=data(20, seed=1))
    before = {name: tensor.clone() for name, tensor in new.tensors().items()}
    updates = trial.repair(new)
    assert {name.split(".")[0] for name in updates} >= {"b", "norm"} and "stem.weight" not in updates
    fresh = torch.from_numpy(data(9, seed=2).chunks[0].arrays["x"])
    damage = [
        output_divergence([original(fresh)], run_with(new, u, [(fresh,)])).relative_l2 for u in ({}, updates)
    ]
    assert damage[0] > 0.01 and damage[1] < 1e-3 * damage[0]
    assert trial.damage(new).relative_l2 < 1e-3 * damage[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in new.tensors().items())


def test_what_is_held_changes_nothing(pair: tuple[Graph, Graph]) -> None:
    original, new = pair
    found = [TrialRepair(original, data(24), hold=hold).repair(new) for hold in (0, 20_000, 1 << 30)]
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_a_trial_begins_where_the_networks_part(
    pair: tuple[Graph, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, new = pair
    trial = TrialRepair(original, data(24))
    executed: set[str] = set()
    plain = Execution.evaluate

    def noted(self: Execution, node: torch.fx.Node, index: int, found: Mapping[str, Any]):
        executed.add(node.name)
        return plain(self, node, index, found)

    monkeypatch.setattr(Execution, "evaluate", noted)
    trial.repair(new)
    names = [n.name for n in new.module.graph.nodes if n.op == "call_function"]
    assert executed == set(names[2:-1])  # neither the stem nor the last layer, which is only fitted
    assert trial.damage(new).damage == trial.damage(new).damage
    executed.clear()
    assert trial.repair(original.copy()) == {} and not executed
    assert trial.damage(original.copy()).damage == 0


def test_values_between_are_computed_from_those_held(pair: tuple[Graph, Graph]) -> None:
    original, _ = pair
    batches = [(torch.randn(2, 3, 7, 7),) for _ in range(2)]
    seen: dict[tuple[str, int], torch.Tensor] = {}

    def visit(node: torch.fx.Node, batch: int, value: torch.Tensor) -> None:
        seen[node.name, batch] = value

    points = Checkpoints(original, batches, 2 * 2 * 4 * 6 * 4, visit)
    names = sorted({name for name, _ in seen})
    found = list(points.values(names, range(2)))
    for (name, batch), value in seen.items():
        torch.testing.assert_close(found[batch][name], value, rtol=0, atol=0)
    for inputs, outputs in zip(batches, points.outputs, strict=True):
        assert torch.equal(original(*inputs)[0], outputs[0])


def test_an_infinite_ridge_refits_nothing(pair: tuple[Graph, Graph]) -> None:
    original, new = pair
    judged = data(20, seed=1)
    trial = TrialRepair(original, data(40), judged=judged)
    x = torch.from_numpy(judged.chunks[0].arrays["x"])
    plain = output_divergence([original(x)], [new(x)]).relative_l2
    assert trial.damage(new, math.inf).relative_l2 == pytest.approx(plain, rel=1e-4)
    assert trial.damage(new, 1e-6).relative_l2 < 0.1 * plain
