"""When a stated budget counts as missed, and when a result is worth having."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from otgraph.optimize.run import _credible, _missed
from otgraph.plan.budget import make_budget


def audit(
    *,
    layers: tuple[int | None, int | None] = (50, 50),
    ratio: tuple[float, float, float] = (0.55, 0.6, 0.65),
    drift: float = 0.01,
    interval: tuple[float, float] | None = None,
) -> Any:
    low, middle, high = ratio
    sides = [SimpleNamespace(structure=SimpleNamespace(compute_depth=depth)) for depth in layers]
    return SimpleNamespace(
        a=sides[0],
        b=sides[1],
        latency=SimpleNamespace(a_ms=10.0, ratio=middle, low=low, high=high, credible_gain=high < 1),
        fidelity=SimpleNamespace(drift=drift, drift_interval=interval, drift_name="KL divergence"),
    )


def plan(**budget: Any) -> Any:
    return SimpleNamespace(budget=make_budget(**budget))


@pytest.mark.parametrize(
    ("budget", "after", "text"),
    [
        ("0.75x", 37, None),
        ("0.75x", 38, "layers 0.75x was asked for (37 of 50 on the longest path), 38 counted"),
        ("12", 12, None),
        ("12", 13, "layers 12 was asked for (12 of 50 on the longest path), 13 counted"),
        ("12", None, "layers 12 was asked for (12 of 50 on the longest path), an unknown number counted"),
        ("60", 50, None),
    ],
)
def test_layers_are_counted_in_the_result(budget: str, after: int | None, text: str | None) -> None:
    assert _missed(plan(layers=budget), audit(layers=(50, after))) == text


def test_fewer_layers_are_a_gain_where_they_were_asked_for() -> None:
    slow = (0.98, 1.0, 1.02)
    assert _credible(plan(layers="0.75x"), audit(layers=(50, 37), ratio=slow))
    assert not _credible(plan(layers="0.75x"), audit(layers=(50, 50), ratio=(0.5, 0.5, 0.5)))
    assert not _credible(plan(latency="0.75x"), audit(layers=(50, 37), ratio=slow))
    assert _credible(plan(latency="0.75x"), audit())


def test_a_damage_is_missed_beyond_chance() -> None:
    asked = plan(max_drop=0.01)
    assert _missed(asked, audit(drift=0.012, interval=(0.009, 0.015))) is None
    assert _missed(asked, audit(drift=0.02, interval=(0.011, 0.03))) == (
        "max-drop 0.01 was asked for, KL divergence 0.02 [0.011, 0.03] measured"
    )
    assert _missed(asked, audit(drift=0.02)) == ("max-drop 0.01 was asked for, KL divergence 0.02 measured")
    assert _missed(asked, audit(drift=0.009)) is None


def test_a_latency_is_missed_by_more_than_a_twentieth() -> None:
    assert _missed(plan(latency="0.5x"), audit(ratio=(0.51, 0.55, 0.6))) is None
    assert _missed(plan(latency="0.5x"), audit(ratio=(0.53, 0.55, 0.6))) == (
        "latency 0.5x was asked for, 0.550x [0.530, 0.600] measured"
    )
    assert _missed(plan(latency="8ms"), audit(ratio=(0.53, 0.55, 0.6))) is None
