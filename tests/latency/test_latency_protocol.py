"""The protocol on scripted clocks: each fake session takes exactly the time its script says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from otgraph.data import Array
from otgraph.engines.engine import Engine, Model, NodeTime, Session, TimedBy
from otgraph.errors import UsageError
from otgraph.latency import compare, measure
from otgraph.latency.clock import Clock, calls_for
from otgraph.latency.protocol import Contestant, contest

FEEDS: Mapping[str, Array] = {"x": np.zeros(1, np.float32)}
A, B = b"a", b"b"


@dataclass
class World:
    """Simulated time. ``cost(model, session number, draw)`` is what one call takes, in milliseconds."""

    cost: Any
    cpu_share: float = 1.0
    seed: int = 0
    created: list[bytes] = field(default_factory=list)
    called: list[bytes] = field(default_factory=list)
    wall: float = 0.0
    cpu: float = 0.0

    def __post_init__(self) -> None:
        self.draw = np.random.default_rng(self.seed)

    def clock(self) -> Clock:
        return Clock(cpu_ns=lambda: round(self.cpu * 1e6), wall_ns=lambda: round(self.wall * 1e6))


class FakeSession(Session):
    inputs = outputs = ()

    def __init__(self, world: World, model: bytes, number: int) -> None:
        self.world, self.model, self.number = world, model, number

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        ms = self.world.cost(self.model, self.number, self.world.draw)
        self.world.called.append(self.model)
        self.world.wall += ms
        self.world.cpu += ms * self.world.cpu_share
        return {}

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        return []


class FakeEngine(Engine):
    name = "fake"

    def __init__(self, world: World) -> None:
        self.world = world

    def unavailable(self) -> str | None:
        return None

    def load(self, model: Model, *, threads: int = 1) -> Session:
        assert isinstance(model, bytes)
        self.world.created.append(model)
        return FakeSession(self.world, model, len(self.world.created))

    def describe(self) -> dict[str, str]:
        return {}


def noisy(ratio: float, base: float = 4.0, spread: float = 0.05, between: float = 0.0) -> Any:
    """A takes ``base`` ms, B ``ratio`` times that; noise per call and, with ``between``, per session."""

    def cost(model: bytes, number: int, draw: np.random.Generator) -> float:
        session = np.random.default_rng(1000 + number).normal(0, between)
        mean = base * (ratio if model == B else 1.0)
        return float(mean * np.exp(session + draw.normal(0, spread)))

    return cost


def test_ratio_is_recovered_and_inside_its_interval() -> None:
    world = World(noisy(0.6))
    found = compare(FakeEngine(world), A, B, FEEDS, clock=world.clock())
    assert found.low <= 0.6 <= found.high
    assert found.high - found.low < 0.04
    assert found.a_ms == pytest.approx(4.0, rel=0.03)
    assert found.b_ms == pytest.approx(2.4, rel=0.03)
    assert found.credible_gain
    assert not found.credible_loss
    assert found.speedup == pytest.approx(1 / found.ratio)
    assert len(found.per_repeat) == 3
    assert found.ratio == sorted(found.per_repeat)[1]


def test_without_noise_the_ratio_is_exact() -> None:
    world = World(noisy(0.5, spread=0.0))
    found = compare(FakeEngine(world), A, B, FEEDS, clock=world.clock())
    assert (found.ratio, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-9)


def test_equal_models_are_no_credible_gain_in_most_worlds() -> None:
    false_gains = 0
    for seed in range(40):
        world = World(noisy(1.0), seed=seed)
        found = compare(FakeEngine(world), A, B, FEEDS, seed=seed, clock=world.clock())
        false_gains += found.credible_gain or found.credible_loss
    assert false_gains <= 4


def test_spread_between_sessions_widens_the_interval() -> None:
    calm, jumpy = World(noisy(0.9, spread=0.01)), World(noisy(0.9, spread=0.01, between=0.05))
    narrow = compare(FakeEngine(calm), A, B, FEEDS, clock=calm.clock())
    wide = compare(FakeEngine(jumpy), A, B, FEEDS, clock=jumpy.clock())
    assert wide.high / wide.low - 1 > 5 * (narrow.high / narrow.low - 1)
    assert wide.low <= min(wide.per_repeat)
    assert wide.high >= max(wide.per_repeat)


def test_one_session_pair_alone_misses_what_the_next_one_does() -> None:
    """The broken protocol: without fresh sessions a placement effect passes for a credible gain."""
    world = World(
        lambda model, number, draw: 4.0 * (0.97 if number in (2, 3, 5) else 1.0) + draw.normal(0, 0.01)
    )
    once = compare(FakeEngine(world), A, B, FEEDS, repeats=1, clock=world.clock())
    assert once.credible_gain
    world = World(world.cost)
    thrice = compare(FakeEngine(world), A, B, FEEDS, repeats=3, clock=world.clock())
    assert not thrice.credible_gain


def test_creation_order_alternates() -> None:
    world = World(noisy(1.0))
    compare(FakeEngine(world), A, B, FEEDS, clock=world.clock())
    assert world.created == [A, B, B, A, A, B]


def test_order_inside_the_pair_is_random_and_pairs_are_complete() -> None:
    world = World(noisy(1.0))
    compare(FakeEngine(world), A, B, FEEDS, repeats=1, pairs=40, clock=world.clock())
    calls = world.called[8:]  # after 4 warm-ups each
    assert world.called[:8] == [A] * 4 + [B] * 4
    pairs = [tuple(calls[index : index + 2]) for index in range(0, len(calls), 2)]
    assert len(pairs) == 40
    assert set(pairs) == {(A, B), (B, A)}
    assert 10 <= pairs.count((A, B)) <= 30


def test_random_order_cancels_what_the_first_of_a_pair_pays() -> None:
    """The second call of a pair finds warm caches; in fixed order that alone would be 10 %."""

    def clockwork() -> World:
        world = World(None)

        def cost(model: bytes, number: int, draw: np.random.Generator) -> float:
            first = len(world.called) % 2 == 0
            return (4.4 if first else 4.0) + draw.normal(0, 0.02)

        world.cost = cost
        return world

    world = clockwork()
    found = compare(FakeEngine(world), A, B, FEEDS, clock=world.clock())
    assert found.low <= 1 <= found.high


def test_drift_of_the_machine_cancels_in_the_pair() -> None:
    world = World(None)
    world.cost = lambda model, number, draw: (
        4.0 * (1 + len(world.called) / 100) * (0.8 if model == B else 1.0)
    )
    found = compare(FakeEngine(world), A, B, FEEDS, clock=world.clock())
    assert found.ratio == pytest.approx(0.8, rel=0.01)


@pytest.mark.parametrize(
    ("base", "pairs", "calls"), [(40.0, 24, 1), (20.0, 40, 1), (4.0, 80, 1), (0.5, 160, 1), (0.05, 160, 8)]
)
def test_slow_models_take_24_pairs_and_short_ones_more_pairs_and_calls(
    base: float, pairs: int, calls: int
) -> None:
    world = World(noisy(1.0, base=base, spread=0.0))
    found = compare(FakeEngine(world), A, B, FEEDS, clock=world.clock())
    assert found.pairs == pairs
    assert found.calls == pytest.approx(calls, abs=1)
    assert found.calls * base >= 0.4
    assert found.a_ms == pytest.approx(base)


def test_pairs_can_be_set() -> None:
    world = World(noisy(1.0))
    assert compare(FakeEngine(world), A, B, FEEDS, pairs=7, clock=world.clock()).pairs == 7


@pytest.mark.parametrize(
    ("share", "threads", "clock"),
    [(0.99, 1, "wall"), (0.9, 1, "CPU time"), (1.8, 2, "wall"), (0.5, 2, "wall")],
)
def test_cpu_time_is_called_cpu_time(share: float, threads: int, clock: str) -> None:
    world = World(noisy(0.7), cpu_share=share)
    found = compare(FakeEngine(world), A, B, FEEDS, threads=threads, clock=world.clock())
    assert found.clock == clock
    assert found.conditions.cpu_over_wall == pytest.approx(share, rel=1e-3)
    expected = 4.0 * (share if clock == "CPU time" else 1.0)
    assert found.a_ms == pytest.approx(expected, rel=0.05)


def test_a_cpu_clock_too_coarse_to_see_a_call_is_not_used() -> None:
    world = World(noisy(0.7), cpu_share=0.0)
    assert compare(FakeEngine(world), A, B, FEEDS, clock=world.clock()).clock == "wall"


class DeviceSession(FakeSession):
    """Whose device takes 1 ms per call, and 2 ms more by the wall for its copies; each reading of the device
    costs 50 ms by the wall."""

    timed_by: ClassVar[TimedBy] = "device"

    def device_ms(self, feeds: Mapping[str, Array], calls: int) -> float:
        self.world.wall += 50.0
        return 1.0


class DeviceEngine(FakeEngine):
    def load(self, model: Model, *, threads: int = 1) -> Session:
        assert isinstance(model, bytes)
        return DeviceSession(self.world, model, 0)


def test_two_devices_are_timed_by_their_own_clocks() -> None:
    world = World(noisy(1.0))
    found = compare(DeviceEngine(world), A, B, FEEDS, clock=world.clock())
    assert (found.clock, found.a_ms, found.b_ms) == ("GPU time", 1.0, 1.0) and not world.called


def test_a_device_is_held_against_a_host_by_the_wall_copies_included() -> None:
    world = World(lambda model, number, draw: 3.0 if model == B else 0.1, cpu_share=0.5)
    both = [Contestant(FakeEngine(world), A, FEEDS), Contestant(DeviceEngine(world), B, FEEDS)]
    (found,) = contest(both, clock=world.clock()).comparisons
    assert found.clock == "wall" and found.calls == 4
    assert (found.a_ms, found.b_ms, found.ratio) == pytest.approx((0.1, 3.0, 30.0))


def test_sensors_are_read_after_the_first_warm_up() -> None:
    """A device that sleeps until it is used would be said to have run at its lowest clock."""
    world = World(noisy(1.0))

    class Awake(FakeEngine):
        def state(self) -> Mapping[str, float]:
            return {"clock_mhz": 2500.0 if world.called else 210.0}

    assert measure(Awake(world), A, FEEDS, clock=world.clock()).conditions.sensors["clock_mhz"] == (
        2500,
        2500,
    )


def test_measure_gives_one_models_latency() -> None:
    world = World(noisy(1.0))
    found = measure(FakeEngine(world), A, FEEDS, clock=world.clock())
    assert found.low <= 4.0 <= found.high
    assert found.ms == pytest.approx(4.0, rel=0.03)
    assert 75 <= found.runs <= 85
    assert world.created == [A, A, A]


def test_same_seed_same_figures() -> None:
    found = []
    for _ in range(2):
        world = World(noisy(0.8))
        found.append(compare(FakeEngine(world), A, B, FEEDS, seed=3, clock=world.clock()))
    assert found[0].to_json() | {"conditions": None} == found[1].to_json() | {"conditions": None}


def test_no_repeats_is_a_usage_error() -> None:
    world = World(noisy(1.0))
    with pytest.raises(UsageError, match="repeats=0"):
        compare(FakeEngine(world), A, B, FEEDS, repeats=0, clock=world.clock())


@pytest.mark.parametrize(("ms", "calls"), [(0.0, 1000), (0.0001, 1000), (0.1, 4), (0.4, 1), (100.0, 1)])
def test_calls_for(ms: float, calls: int) -> None:
    assert calls_for(ms) == calls
