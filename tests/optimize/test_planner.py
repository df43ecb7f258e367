"""Deciding under each budget, with a clock that obeys a made-up law instead of measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.allocate.cost import Polynomial, Term, TimeTerm, multiply
from otgraph.calibrate import output_gain
from otgraph.calibrate.pullback import Reach
from otgraph.data import Data
from otgraph.data_sources import load_data
from otgraph.errors import DataError, UsageError
from otgraph.graph.affine import affine_nodes
from otgraph.graph.capture import capture
from otgraph.graph.depth import depth_of
from otgraph.graph.graph import Graph
from otgraph.load import load_model
from otgraph.optimize import planner
from otgraph.optimize.fusing import FusionClock
from otgraph.optimize.planner import make_plan
from otgraph.optimize.settings import Settings
from otgraph.optimize.study import study
from otgraph.plan.budget import Budget
from otgraph.plan.plan import Plan
from otgraph.pricing import prices
from otgraph.pricing.lengths import expand
from otgraph.pricing.macs import macs_terms
from otgraph.pricing.timed_node import TimedNode
from otgraph.rewrite.linear.fusion import Fusion
from otgraph.rewrite.shapes import value_infos
from otgraph.sample import calibration_path, model_path

Law = Callable[[float], float]
ORIGINAL_MS = 8.0


def macs(graph: Graph) -> float:
    """Multiply-accumulates of the convolutions and products on the example."""
    infos = value_infos(graph)
    return float(
        sum(
            graph.tensor(view.weight).numel() * np.prod(infos[view.node].shape[2:])
            for view in affine_nodes(graph)
        )
    )


def kernel_macs(node: TimedNode, candidates: Any) -> Polynomial:
    """The same of a node that the graph does not have, for a batch of two as the example has."""
    read = [expand(axis, candidates) for axis in (node.reads, node.makes)]
    share = 2 * node.kernel.macs / (node.kernel.inputs * node.kernel.outputs)
    return multiply([(Term(share),), *read])


@dataclass
class Clock:
    """Time is what ``law`` makes of the fraction of the MACs that is left; ``asked``: of every candidate that
    was measured. A ``grudging`` clock credits no merge with a gain."""

    law: Law
    asked: list[float] = field(default_factory=list[float])
    grudging: bool = False
    whole: float = 0.0

    def original(self) -> Any:
        return SimpleNamespace(ms=ORIGINAL_MS)

    def ratio(self, candidate: Graph, *, quick: bool = False) -> Any:
        self.asked.append(macs(candidate) / self.whole)
        found = self.law(self.asked[-1])
        return SimpleNamespace(ratio=found, credible_gain=found < 1)

    def between(self, a: Graph, b: Graph) -> Any:
        return self.judged(*(self.law(macs(graph) / self.whole) for graph in (a, b)))

    def judged(self, before: float, after: float) -> Any:
        gain = after < before and not self.grudging
        return SimpleNamespace(a_ms=before, b_ms=after, low=0.9, high=0.95, credible_gain=gain)

    def fusions(self, graph: Graph, progress: Any) -> FusionClock:
        return Fusions(graph, self.judged)

    def describe(self) -> dict[str, str]:
        return {"engine": "scripted"}


class Fusions(FusionClock):
    """Fusions take what they multiply."""

    def __init__(self, graph: Graph, judged: Callable[[float, float], Any]) -> None:
        super().__init__(graph, graph.example, SimpleNamespace())  # type: ignore[arg-type]
        self.judged = judged

    def _compare(self, fusion: Fusion) -> Any:
        return self.judged(fusion.macs_before, fusion.macs_after)


class Times:
    """A node takes its MACs."""

    def nodes(self, graph: Graph, axes: Any, *arguments: Any) -> Any:
        shapes = {name: tuple(a.size for a in results[0]) for name, results in axes.values.items() if results}
        return [TimeTerm(c.node, c.terms) for c in macs_terms(graph, axes, shapes)], ()

    def others(self, nodes: Any, candidates: Any) -> Any:
        return {node.name: TimeTerm(node.name, kernel_macs(node, candidates)) for node in nodes}


@pytest.fixture
def clock() -> Clock:
    return Clock(lambda share: 0.15 + 0.85 * share)


class Net(nn.Module):
    """A residual dim of 16, inner dims of 24 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 1)
        self.c, self.head = nn.Conv2d(16, 32, 3), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.stem(x))
        y = y + self.b(torch.relu(self.a(y)))
        return self.head(torch.relu(self.c(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def net(data: Data) -> Graph:
    """Its logits differ from input to input, so that every cut shows."""
    torch.manual_seed(0)
    module = Net().eval()
    with torch.no_grad():
        logits = module(torch.from_numpy(data.chunks[0].arrays["x"]))
        module.head.weight /= logits.std(0)[:, None] / 3
        module.head.bias.copy_((module.head.bias - logits.mean(0)) / logits.std(0) * 3)
    return capture(module, (torch.randn(2, 3, 10, 10),))


@pytest.fixture(scope="module")
def data() -> Data:
    random = np.random.default_rng(0)
    x = random.normal(size=(32, 3, 10, 10)) + random.normal(size=(32, 3, 1, 1))
    return Data.from_arrays({"x": x.astype(np.float32)})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trials are the same for every budget: made once for this file."""
    return tmp_path_factory.mktemp("trials")


@pytest.fixture
def decide(net: Graph, data: Data, cache: Path, clock: Clock) -> Callable[..., Plan]:
    def make(kind: Any, value: float, **choices: Any) -> Plan:
        clock.whole = macs(net)
        return make_plan(net, data, Settings(Budget(kind, value), cache=cache, **choices), clock, Times())

    return make


def widths(plan: Plan) -> dict[str, int]:
    return {dim.name: len(dim.kept) for dim in plan.dims}


# a measured latency

LAWS: dict[str, Law] = {
    "an overhead": lambda share: 0.15 + 0.85 * share,
    "bent": lambda share: share**0.7,
    "steeper than the MACs": lambda share: max(1.2 * share - 0.2, 0.01),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("target", [0.8, 0.6])
def test_the_loop_meets_the_measured_latency(
    decide: Callable[..., Plan], clock: Clock, law: str, target: float
) -> None:
    clock.law = LAWS[law]
    plan = decide("ratio", target, multiple=1, candidates=32, corrections=0, moves="width")
    assert plan.predictions.time_ratio == pytest.approx(target, rel=0.04)
    assert len(clock.asked) <= 7  # the uncut network, five rounds at most, and the last once more
    assert plan.predictions.time_ratio in [clock.law(share) for share in clock.asked]  # measured, not hoped
    assert plan.predictions.damage is not None and plan.predictions.damage > 0
    assert plan.device == {"engine": "scripted"} and 0 <= (plan.predictions.gap or 0) < 1


def test_a_time_is_relative_to_what_the_original_takes(decide: Callable[..., Plan]) -> None:
    by_time, by_ratio = decide("time", 0.7 * ORIGINAL_MS), decide("ratio", 0.7)
    assert widths(by_time) == widths(by_ratio)


def test_what_is_faster_than_asked_for_says_why(decide: Callable[..., Plan]) -> None:
    """Widths of eights leave few times to be had."""
    told: list[bool] = []
    for target, multiple in ((0.95, 8), (0.9, 8), (0.8, 1), (0.6, 1), (0.5, 1)):
        plan = decide("ratio", target, multiple=multiple, candidates=32, moves="width")
        told.append(any("is faster than asked for" in remark.message for remark in plan.remarks))
        assert told[-1] == ((plan.predictions.time_ratio or 1) < target * 0.98)
    assert any(told) and not all(told)


def test_widths_are_multiples(decide: Callable[..., Plan]) -> None:
    assert {width % 8 for width in widths(decide("ratio", 0.7)).values()} == {0}


def test_less_time_costs_more(decide: Callable[..., Plan]) -> None:
    damages = [decide("ratio", r, corrections=0).predictions.damage or 0 for r in (0.9, 0.7, 0.5)]
    assert damages == sorted(damages) and damages[0] < damages[2]


def test_corrections_never_end_with_more_damage(decide: Callable[..., Plan]) -> None:
    plain, corrected = (decide("ratio", 0.6, corrections=n, multiple=1).predictions for n in (0, 2))
    assert (corrected.damage or 0) <= (plain.damage or 0)


def test_what_is_out_of_reach_says_what_is_not(decide: Callable[..., Plan], clock: Clock) -> None:
    with pytest.raises(UsageError) as caught:
        decide("ratio", 0.02)
    text = str(caught.value)
    assert text.startswith(
        "latency 0.02x: out of reach; the smallest predicted with these dims, widths and spans is 0."
    )
    assert clock.asked == [1.0]  # the uncut network
    nearest = float(text.split(" is ")[1].split("x;")[0])
    assert 0.02 < nearest < 0.5


def test_where_the_clock_disappoints_the_nearest_is_taken(decide: Callable[..., Plan], clock: Clock) -> None:
    clock.law = lambda share: 0.8 + 0.2 * share
    plan = decide("ratio", 0.5, corrections=0)
    assert plan.predictions.time_ratio == pytest.approx(clock.law(min(clock.asked)))
    assert plan.predictions.time_ratio > 0.75


def test_one_measurement_that_is_far_off_does_not_cut_everything(
    decide: Callable[..., Plan], clock: Clock
) -> None:
    """The first candidate seems no faster than the original."""

    def disturbed(share: float) -> float:
        return 1.02 if len(clock.asked) == 2 else 0.15 + 0.85 * share

    clock.law = disturbed
    plan = decide("ratio", 0.7, multiple=1, candidates=32, corrections=0, moves="width")
    assert plan.predictions.time_ratio is not None and 0.6 < plan.predictions.time_ratio <= 0.7 * 1.02
    assert min(clock.asked) > 0.3  # with everything cut it is below a tenth


# depth


class Deep(nn.Module):
    """A stem, three residual blocks that can go or become one convolution, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)
        self.wide = nn.ModuleList(nn.Conv2d(16, 64, 3, padding=1) for _ in range(3))
        self.back = nn.ModuleList(nn.Conv2d(64, 16, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for wide, back in zip(self.wide, self.back, strict=True):
            x = torch.relu(x + back(torch.relu(wide(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def deep() -> Graph:
    torch.manual_seed(1)
    return capture(Deep().eval(), (torch.randn(2, 3, 10, 10),))


@pytest.fixture
def decide_deep(deep: Graph, data: Data, cache: Path, clock: Clock) -> Callable[..., Plan]:
    def make(kind: Any, value: float, **choices: Any) -> Plan:
        clock.whole = macs(deep)
        budget = Budget(kind, value, choices.pop("relative", False))
        return make_plan(deep, data, Settings(budget, cache=cache, **choices), clock, Times())

    return make


def test_depth_alone_cuts_no_dim(decide_deep: Callable[..., Plan], deep: Graph) -> None:
    plan = decide_deep("ratio", 0.7, moves="depth")
    assert not plan.couplings() and plan.depth
    assert 0 < (plan.predictions.time_ratio or 1) <= 0.72
    assert len(affine_nodes(plan.apply(deep))) < len(affine_nodes(deep))


def test_width_alone_collapses_nothing(decide_deep: Callable[..., Plan]) -> None:
    plan = decide_deep("ratio", 0.7, moves="width")
    assert plan.couplings() and not plan.depth


@pytest.mark.parametrize("target", [0.7, 0.4])
def test_both_are_at_least_as_good_as_either(decide_deep: Callable[..., Plan], target: float) -> None:
    both, width, depth_only = (decide_deep("ratio", target, moves=moves).predictions for moves in MOVES)
    assert both.damage is not None and width.damage is not None and depth_only.damage is not None
    assert both.damage <= 1.05 * min(width.damage, depth_only.damage)


MOVES = ("both", "width", "depth")


def test_no_merge_is_kept_that_the_clock_does_not_reward(
    decide_deep: Callable[..., Plan], clock: Clock
) -> None:
    kept = decide_deep("ratio", 0.7, moves="depth")
    clock.grudging = True
    refused = decide_deep("ratio", 0.7, moves="depth")
    assert any(action.collapse.map != "identity" for action in kept.depth)
    assert {action.collapse.map for action in refused.depth} == {"identity"}
    said = [remark for remark in refused.remarks if remark.source == "veto"]
    assert said and all(remark.kind == "missed" and "no credible gain" in remark.message for remark in said)
    assert {"old_ms", "new_ms"} <= said[0].metrics.keys()
    assert {remark.kind for remark in kept.remarks if remark.source == "veto"} == {"applied"}


def test_a_limit_on_the_damage_collapses_too(decide_deep: Callable[..., Plan], deep: Graph) -> None:
    plan = decide_deep("damage", 0.2, moves="depth")
    assert plan.depth and (plan.predictions.time_ratio or 1) < 1


# a number of layers


@pytest.mark.parametrize(("value", "relative", "most"), [(6, False, 6), (0.5, True, 4)])
def test_so_many_layers_are_left_and_no_width_is_cut(
    decide_deep: Callable[..., Plan], deep: Graph, value: float, relative: bool, most: int
) -> None:
    assert depth_of(deep).compute == 8
    plan = decide_deep("layers", value, relative=relative)
    small = plan.apply(deep)
    assert depth_of(small).compute <= most
    assert plan.depth and not plan.couplings()
    assert plan.predictions.damage is not None and plan.predictions.damage > 0


def test_fewer_layers_do_more_damage(decide_deep: Callable[..., Plan]) -> None:
    damages = [decide_deep("layers", most).predictions.damage or 0 for most in (7, 5, 3)]
    assert damages == sorted(damages) and damages[0] < damages[2]


def test_layers_that_are_out_of_reach(decide_deep: Callable[..., Plan]) -> None:
    with pytest.raises(UsageError, match=r"layers 1: out of reach; the smallest with these spans is \d+"):
        decide_deep("layers", 1)


# what is said


def test_the_candidates_are_counted(decide_deep: Callable[..., Plan]) -> None:
    plan = decide_deep("ratio", 0.7)
    (said,) = [remark for remark in plan.remarks if remark.source == "prices" and remark.kind == "analysis"]
    assert said.metrics["priced"] == said.metrics["widths"] + said.metrics["collapses"]
    assert 0 <= said.metrics["trials"] < said.metrics["priced"]  # earlier tests have made most of them
    assert any("beyond hope by a bound" in remark.message for remark in plan.remarks)
    factor = plan.predictions.uncertainty
    assert factor is not None and 1 <= factor == pytest.approx(said.metrics["uncertainty"], abs=1e-4)
    assert f"off by a factor of {factor:.2f}" in said.message


def test_what_no_gradient_reaches_is_tried(
    net: Graph, data: Data, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a backward pass the plan is made from trials, and a remark says how many."""

    def blocked(*_: Any, **__: Any) -> Reach:
        return Reach(frozenset(), (), "derivative is not implemented")

    monkeypatch.setattr(prices, "pull_back", blocked)
    monkeypatch.setattr(output_gain, "pull_back", blocked)
    clock.whole = macs(net)
    plan = make_plan(net, data, Settings(Budget("ratio", 0.7)), clock, Times())
    assert plan.couplings() and plan.predictions.time_ratio == pytest.approx(0.7, rel=0.06)
    texts = [remark.message for remark in plan.remarks if remark.source == "prices"]
    assert any("cannot be priced and are tried: derivative is not implemented" in text for text in texts)


# a limit on the damage


@pytest.mark.parametrize("limit", [0.05, 0.2])
def test_the_damage_that_repaired_candidates_have_stays_within(
    decide: Callable[..., Plan], net: Graph, data: Data, limit: float
) -> None:
    plan = decide("damage", limit, multiple=1)
    settings = Settings(plan.budget)
    found = study(net, data, settings)
    allowed = limit if found.classifier else limit**2
    assert 0.1 * allowed < found.damage(plan.apply(net, found.fit)) <= allowed * (1 + 1e-6)


def test_more_damage_buys_time(decide: Callable[..., Plan]) -> None:
    times = [decide("damage", limit, multiple=1).predictions.time_ratio or 1 for limit in (0.02, 0.3)]
    assert times[1] < times[0]


def test_a_limit_that_nothing_meets(decide: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner.Study, "damage", _ruined)
    with pytest.raises(UsageError, match=r"max-drop 0\.01: no candidate stayed within it on held-out inputs"):
        decide("damage", 0.01)


def _ruined(*_: object) -> float:
    return 1e9


# a fraction


@pytest.mark.parametrize("share", [0.75, 0.5, 0.25])
def test_keep_is_exact(decide: Callable[..., Plan], share: float) -> None:
    plan = decide("keep", share)
    assert sorted(widths(plan).values()) == [16 * share, 24 * share, 32 * share]
    assert all(dim.size * share == len(dim.kept) for dim in plan.dims)
    assert 0 < (plan.predictions.macs_ratio or 0) < 1


def test_keep_everything_and_next_to_nothing(decide: Callable[..., Plan]) -> None:
    assert decide("keep", 1.0).couplings() == {}
    assert set(widths(decide("keep", 0.001)).values()) == {1}


# rules


def test_rules_choose_the_dims(decide: Callable[..., Plan]) -> None:
    everything = set(widths(decide("keep", 0.5)))
    inner = set(widths(decide("keep", 0.5, dims="inner")))
    assert len(everything) == 3 and len(inner) == 2 and inner < everything
    assert set(widths(decide("keep", 0.5, include=("a*",)))) == {"a"}
    assert set(widths(decide("keep", 0.5, exclude=("a*",)))) == everything - {"a"}
    assert set(widths(decide("ratio", 0.9, include=("c",), corrections=0))) <= {"c"}


def test_rules_that_leave_nothing(decide: Callable[..., Plan]) -> None:
    with pytest.raises(
        UsageError, match=r"no dim may be cut: of those that could \(stem, a, c\) the rules leave"
    ):
        decide("keep", 0.5, include=("b*",))


# inputs, seeds, plans


def test_too_few_or_foreign_inputs(net: Graph, data: Data) -> None:
    settings = Settings(Budget("keep", 0.5))
    with pytest.raises(DataError, match="holds 3 samples; give at least 4"):
        make_plan(net, data.take(3), settings)
    other = Data.from_arrays({"x": np.zeros((8, 3, 10, 11), np.int32)})
    with pytest.raises(DataError, match="x: int32, the model wants float32"):
        make_plan(net, other, settings)


def test_the_same_call_gives_the_same_plan(decide: Callable[..., Plan]) -> None:
    for kind, value in (("keep", 0.5), ("ratio", 0.7)):
        assert decide(kind, value, seed=3) == decide(kind, value, seed=3)


def test_a_plan_survives_its_file(
    decide: Callable[..., Plan], net: Graph, data: Data, tmp_path: Path
) -> None:
    plan = decide("ratio", 0.6)
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    one, two = plan.apply(net), again.apply(net, data)
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, two.tensor(name)), name


def test_nothing_is_edited(decide: Callable[..., Plan], net: Graph) -> None:
    before = {name: tensor.clone() for name, tensor in net.tensors().items()}
    decide("keep", 0.5).apply(net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.tensors().items())
    assert replace(net).tensors().keys() == before.keys()


# the embedded sample


@pytest.mark.slow
def test_the_sample_meets_its_budget(clock: Clock, cache: Path) -> None:
    graph, inputs = load_model(str(model_path())), load_data(str(calibration_path())).take(48)
    clock.law = LAWS["bent"]
    settings = Settings(Budget("ratio", 0.6), cache=cache, corrections=0, trial_seconds=5.0)
    clock.whole = macs(graph)
    plan = make_plan(graph, inputs, settings, clock, Times())
    assert plan.predictions.time_ratio == pytest.approx(0.6, rel=0.03)
    assert {dim.size for dim in plan.dims} <= {16, 32, 64}
    assert len(plan.dims) > 5
