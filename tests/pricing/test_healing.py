"""The regression of trials on prices: what it recovers, how sure it says it is, what it would try next."""

from __future__ import annotations

import math

import numpy as np
import pytest

from otgraph.pricing.healing import Healing, Observation, Subject, spread


def subjects(count: int = 60, seed: int = 0) -> list[Subject]:
    random = np.random.default_rng(seed)
    return [
        Subject(
            kind="width" if number % 3 else "linear",
            place=float(random.uniform()),
            share=float(random.uniform(0.05, 0.6)),
            part=f"part {number // 3}",
            price=float(np.exp(random.uniform(-8, -1))),
        )
        for number in range(count)
    ]


def truth(subject: Subject) -> float:
    """Early layers are healed most; maps less than widths."""
    return -2.0 + 1.8 * subject.place + (0.3 if subject.kind == "linear" else 0.0)


def tried(some: list[Subject], noise: float = 0.1, seed: int = 1) -> list[Observation]:
    random = np.random.default_rng(seed)
    return [Observation.alone(s, s.price * math.exp(truth(s) + noise * random.normal())) for s in some]


def test_twelve_trials_predict_the_rest_better_than_their_mean() -> None:
    pool = subjects()
    names = spread({str(at): s for at, s in enumerate(pool)}, 12)
    chosen = [pool[int(name)] for name in names]
    healing = Healing.fit(tried(chosen))
    rest = [s for s in pool if s not in chosen]
    mean, deviation = healing.of(rest)
    off = mean - np.array([truth(s) for s in rest])
    flat = np.mean([truth(s) for s in chosen]) - np.array([truth(s) for s in rest])
    assert np.sqrt(np.mean(off**2)) < 0.6 * np.sqrt(np.mean(flat**2))
    assert 0.15 < np.sqrt(np.mean(np.square(off / deviation))) < 1.5  # as sure as it may be


def test_without_trials_it_is_unsure_and_what_was_tried_is_known() -> None:
    pool = subjects(6)
    before = Healing().of(pool)[1]
    after = Healing.fit(tried(pool[:3], noise=0.0)).of(pool)
    assert (after[1] < before).all()
    assert after[0][:3] == pytest.approx([truth(s) for s in pool[:3]], abs=0.2)


def test_a_whole_teaches_most_of_what_does_most() -> None:
    """One part does nearly all of a whole that does three times as much as was expected."""
    large = Subject("width", 0.1, 0.3, "large", 0.1)
    small = Subject("conv", 0.9, 0.3, "small", 0.0001)
    apart = Subject("affine", 0.5, 0.3, "apart", 0.05)
    known = Healing.fit([Observation.alone(s, s.price * 0.5) for s in subjects(12)])
    means, _ = known.of([large, small])
    expected = float((np.array([large.price, small.price]) * np.exp(means)).sum())
    seen = Observation.whole([large, small], means, expected, 3 * expected)
    after = Healing.fit((*known.seen, seen))
    risen = after.of([large, small, apart])[0] - known.of([large, small, apart])[0]
    assert risen[0] > risen[2] > 0 and risen[0] > risen[1]
    assert 0.3 < risen[0] <= math.log(3)


def test_draws_vary_as_much_as_it_is_unsure() -> None:
    pool = subjects(20)
    healing = Healing.fit(tried(pool[:8]))
    draws = np.stack([healing.draw(pool, seed) for seed in range(400)])
    mean, deviation = healing.of(pool)
    assert draws.mean(0) == pytest.approx(mean, abs=0.15)
    assert draws[:, 8:].std(0) == pytest.approx(deviation[8:], rel=0.25)


def test_the_residual_says_when_trials_contradict_each_other() -> None:
    pool = subjects(16)
    alike = Healing.fit(tried(pool, noise=0.05)).residual()
    random = Healing.fit(tried(pool, noise=1.5)).residual()
    assert alike < 0.5 < random
    assert Healing.fit(tried(pool[:2])).residual() == math.inf


def test_trials_are_spread_and_the_choice_is_deterministic() -> None:
    pool = {str(at): s for at, s in enumerate(subjects())}
    names = spread(pool, 10)
    assert names == spread(pool, 10) and len(set(names)) == 10
    places = sorted(pool[name].place for name in names)
    assert places[0] < 0.25 and places[-1] > 0.75
    assert {pool[name].kind for name in names} == {"width", "linear"}
    assert len({pool[name].part for name in names}) >= 8  # not twice the same part
    more = spread({n: s for n, s in pool.items() if n not in names}, 3, [pool[n] for n in names])
    assert not set(more) & set(names)
