"""The pull-back against what changes really do: linear networks exactly, others to first order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.calibrate.feeds import Feed
from otgraph.calibrate.metric import OutputMetric, form_of
from otgraph.calibrate.pullback import Edge, Reach, pull_back
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph


class Probe:
    """Keeps everything it is shown."""

    def __init__(self) -> None:
        self.values: list[dict[Edge, torch.Tensor]] = []
        self.gradients: list[dict[Edge, torch.Tensor]] = []

    def begin(self, values: Mapping[Edge, torch.Tensor], samples: int) -> None:
        self.values.append({edge: value.clone() for edge, value in values.items()})

    def probe(self, gradients: Mapping[Edge, torch.Tensor]) -> None:
        self.gradients.append({edge: gradient.clone() for edge, gradient in gradients.items()})


def run(
    graph: Graph,
    edges: list[Edge],
    batches: list[Feed],
    form: str = "values",
    probes: int = 400,
    seed: int = 0,
) -> tuple[Probe, Reach, OutputMetric]:
    seen = Probe()
    metric = OutputMetric.of([graph(*batch) for batch in batches], form)  # type: ignore[arg-type]
    return seen, pull_back(graph, batches, metric, edges, seen, probes=probes, seed=seed), metric


class Two(nn.Module):
    """One value with two readers, the second of which squares."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.b(y) + self.c(y) ** 2


@pytest.fixture(scope="module")
def two() -> Graph:
    torch.manual_seed(0)
    return capture(Two().eval(), (torch.randn(2, 3),))


def test_an_edge_is_a_value_as_one_reader_takes_it(two: Graph) -> None:
    x = torch.randn(5, 3)
    whole, one, other = Edge("linear"), Edge("linear", "linear_1"), Edge("linear", "linear_2")
    seen, reach, _ = run(two, [whole, one, other], [(x,)], probes=1)
    assert reach.edges == {whole, one, other} and not reach.blocked
    gradients = seen.gradients[0]
    torch.testing.assert_close(gradients[whole], gradients[one] + gradients[other])
    weight = two.tensor("b.weight")
    assert torch.linalg.matrix_rank(gradients[one]) <= 2 and weight.shape == (2, 4)


@pytest.mark.parametrize("form", ["values", "logits", "probabilities"])
def test_probes_have_the_covariance_of_the_metric(form: str) -> None:
    torch.manual_seed(1)
    z = torch.randn(1, 5) * 2
    output = z.softmax(-1) if form == "probabilities" else z
    metric = OutputMetric.of([(output,)], form)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    draws = torch.cat([metric.probe((output,), generator)[0] for _ in range(20_000)]).double()  # type: ignore[misc]
    found = draws.T @ draws / len(draws)
    p = z.softmax(-1)[0].double()
    wanted = {
        "values": torch.eye(5, dtype=torch.float64) / float(z.double().square().sum()),
        "logits": (torch.diag(p) - torch.outer(p, p)) / 2,
        "probabilities": torch.diag(1 / p) / 2,
    }[form]
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize("form", ["values", "logits"])
def test_small_changes_do_what_is_priced(two: Graph, form: str) -> None:
    """E[t²] for a small random change of one edge against the damage it really does."""
    torch.manual_seed(2)
    x = torch.randn(16, 3)
    edge = Edge("linear")
    seen, _, metric = run(two, [edge], [(x,)], form)
    change = 1e-3 * torch.randn(16, 4)
    t = np.array([(g[edge] * change).sum(1).numpy() for g in seen.gradients])
    module = Two().eval()
    module.load_state_dict({name: two.tensor(name) for name in two.tensors()})
    with torch.no_grad():
        y = module.a(x) + change
        moved = module.b(y) + module.c(y) ** 2
    truth = metric.damage([two(x)], [(moved.double(),)])
    if form == "logits":  # KL of so small a change drowns in rounding: compare with its quadratic form
        p = two(x)[0].double().softmax(-1)
        delta = moved.double() - two(x)[0].double()
        truth = float(((p * delta**2).sum(-1) - (p * delta).sum(-1) ** 2).mean() / 2)
    assert np.mean(t**2) == pytest.approx(truth, rel=0.1)


def test_the_same_seed_gives_the_same(two: Graph) -> None:
    edges, batches = [Edge("linear")], [(torch.ones(2, 3),)]
    first, second, other = (run(two, edges, batches, probes=2, seed=seed)[0].gradients for seed in (0, 0, 1))
    torch.testing.assert_close(first[0][edges[0]], second[0][edges[0]], rtol=0, atol=0)
    assert not torch.equal(first[0][edges[0]], other[0][edges[0]])


def test_the_module_is_as_it_was(two: Graph) -> None:
    flags = {name: p.requires_grad for name, p in two.module.named_parameters()}
    run(two, [Edge("linear")], [(torch.ones(2, 3),)], probes=1)
    assert {name: p.requires_grad for name, p in two.module.named_parameters()} == flags
    assert all(p.grad is None for p in two.module.parameters())


class Rounds(nn.Module):
    """One branch runs through a rounding, the other past it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        z = self.b(y)
        return self.c(torch.round(z) + z)


def test_what_is_before_a_rounding_has_no_price() -> None:
    torch.manual_seed(0)
    graph = capture(Rounds().eval(), (torch.randn(2, 3),))
    names = [node.name for node in graph.module.graph.nodes if node.op == "call_function"]
    before, after = Edge(names[0], names[1]), Edge(names[3], names[4])
    _, reach, _ = run(graph, [before, after], [(torch.randn(4, 3),)], probes=1)
    assert reach.edges == {after}
    assert reach.blocked == (names[2],)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu_(self.a(x)))


def test_a_value_that_is_overwritten_is_seen_as_its_reader_took_it() -> None:
    torch.manual_seed(0)
    module = InPlace().eval()
    graph = capture(module, (torch.randn(2, 3),))
    x = torch.randn(6, 3)
    name = next(n.name for n in graph.module.graph.nodes if n.op == "call_function")
    seen, reach, _ = run(graph, [Edge(name)], [(x,)], probes=1)
    assert reach.edges == {Edge(name)}
    torch.testing.assert_close(seen.values[0][Edge(name)], module.a(x).detach())
    off = seen.values[0][Edge(name)] < 0
    assert off.any() and (seen.gradients[0][Edge(name)][off] == 0).all()


def test_an_operator_without_a_derivative_is_said() -> None:
    class Bad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    graph = capture(Bad(), (torch.randn(2, 3),))
    node = next(n for n in graph.module.graph.nodes if n.op == "call_function")

    def refuse(*_: object) -> torch.Tensor:
        raise RuntimeError("derivative for bad is not implemented\nand more")

    metric = OutputMetric.of([graph(torch.ones(2, 3))])
    node.target = refuse
    graph.module.recompile()
    reach = pull_back(graph, [(torch.ones(2, 3),)], metric, [Edge(node.name)], Probe())
    assert reach.edges == frozenset() and reach.error == "derivative for bad is not implemented"


def test_several_outputs_are_scaled_by_their_own_energy() -> None:
    class Heads(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, 1000 * x

    graph = capture(Heads(), (torch.randn(2, 3),))
    x = torch.randn(64, 3)
    metric = OutputMetric.of([graph(x)])
    near = metric.damage([(x, 1000 * x)], [(1.1 * x, 1000 * x)])
    assert near == pytest.approx(0.01, rel=1e-4)
    assert metric.damage([(x, 1000 * x)], [(x, 1100 * x)]) == pytest.approx(near, rel=1e-4)


def test_scores_are_read_as_logits_or_probabilities() -> None:
    z = torch.randn(4, 6)
    assert form_of([(z,)], "scores") == "logits"
    assert form_of([(z.softmax(-1),)], "scores") == "probabilities"
    assert form_of([(z,)], "values") == "values"
