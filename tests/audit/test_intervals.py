"""Intervals hold what they promise, of kin data too; few inputs and perfect agreement are no certainty."""

from __future__ import annotations

import numpy as np
import pytest

from otgraph.audit.intervals import Floats, intervals, kin, share_interval

TRUTH = np.exp(0.5)


def mean(sums: Floats) -> Floats:
    return sums[..., 0] / sums[..., 1]


def rows(values: np.ndarray) -> Floats:
    return np.stack([values, np.ones(len(values))], 1)


def coverage(make, tries: int = 150) -> float:
    held = 0
    for seed in range(tries):
        found = intervals(rows(make(np.random.default_rng(seed))), {"mean": mean}, seed)["mean"]
        assert found is not None
        held += found[0] <= TRUTH <= found[1]
    return held / tries


def skewed(rng: np.random.Generator, n: int = 77) -> np.ndarray:
    """As KL is: few inputs make most of it."""
    return np.exp(rng.normal(size=n))


def crops(rng: np.random.Generator, n: int = 384, group: int = 16) -> np.ndarray:
    """As crops of photographs: what a photograph does, all its crops do, more or less."""
    photograph = np.repeat(rng.normal(size=n // group), group)
    return np.exp(0.9 * photograph + np.sqrt(1 - 0.81) * rng.normal(size=n))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    assert 0.86 <= coverage(skewed) <= 0.99


def test_kin_are_drawn_together() -> None:
    assert coverage(crops) >= 0.7  # 24 photographs of so skewed a figure do not tell more
    data = [crops(np.random.default_rng(seed)) for seed in range(20)]
    shuffled = [np.random.default_rng(0).permutation(values) for values in data]
    alone, together = ([intervals(rows(v), {"m": mean}) for v in each] for each in (shuffled, data))
    widths = [
        np.mean([found["m"][1] - found["m"][0] for found in each if found["m"]]) for each in (alone, together)
    ]
    assert widths[1] > 2 * widths[0]


def test_how_many_neighbors_are_kin() -> None:
    rng = np.random.default_rng(0)
    lengths = [kin(crops(np.random.default_rng(seed))) for seed in range(10)]
    assert min(lengths) >= 4 and max(lengths) <= 40
    assert np.mean([kin(np.random.default_rng(seed).normal(size=200)) for seed in range(20)]) < 1.5
    assert kin(np.ones(50)) == kin(rng.normal(size=3)) == 1
    assert kin(np.arange(40.0)) == 10  # a trend: at most a quarter


def test_the_same_seed_gives_the_same_interval() -> None:
    sums = rows(skewed(np.random.default_rng(0)))
    first, again, other = (intervals(sums, {"m": mean}, seed)["m"] for seed in (1, 1, 2))
    assert first == again != other


def test_too_few_inputs_and_figures_without_a_value_have_none() -> None:
    assert intervals(rows(np.ones(3)), {"m": mean}) == {"m": None}
    assert intervals(
        np.zeros((9, 2)), {"m": lambda sums: sums[..., 0] / np.where(sums[..., 1], 1, np.nan)}
    ) == {"m": None}


@pytest.mark.parametrize("n", [20, 100])
def test_a_share_of_all_is_not_certain(n: int) -> None:
    found = share_interval((1.0, 1.0), 1.0, n)
    assert found is not None and found[1] == 1.0
    assert found[0] == pytest.approx(n / (n + 1.96**2))
    kindred = share_interval((1.0, 1.0), 1.0, n, 5)
    assert kindred is not None and kindred[0] < found[0]
    assert share_interval((0.4, 0.9), 0.5, 10_000) == (0.4, 0.9) and share_interval(None, 0.5, 9) is None
