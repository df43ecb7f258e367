"""The interval: coverage on simulated data, against SciPy's bootstrap, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from otgraph.latency.statistics import estimate


def draw(seed: int, between: float, within: float, sessions: int = 3, pairs: int = 40) -> np.ndarray:
    source = np.random.default_rng(seed)
    return np.exp(source.normal(0, between, (sessions, 1)) + source.normal(0, within, (sessions, pairs)))


def test_one_session_agrees_with_scipys_percentile_bootstrap() -> None:
    samples = draw(0, 0.0, 0.05, sessions=1)
    found = estimate(samples, seed=1)
    oracle = bootstrap(
        (samples[0],), np.median, method="percentile", n_resamples=4000, rng=np.random.default_rng(2)
    )
    interval = oracle.confidence_interval
    width = interval.high - interval.low
    assert found.value == pytest.approx(np.exp(np.median(np.log(samples))))
    assert found.low == pytest.approx(interval.low, abs=0.2 * width)
    assert found.high == pytest.approx(interval.high, abs=0.2 * width)


def coverage(between: float, repeats: int = 150) -> float:
    found = [estimate(draw(seed, between, 0.03), seed) for seed in range(repeats)]
    return float(np.mean([one.low <= 1 <= one.high for one in found]))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    assert coverage(0.005) >= 0.93


def test_coverage_test_can_fail() -> None:
    """Sessions that differ far more than their pairs: three of them cannot carry a 95 % interval."""
    assert coverage(0.2) < 0.93


def test_value_is_the_median_of_the_sessions_medians() -> None:
    samples = np.array([[1.0, 1.0, 9.0], [2.0, 2.0, 2.0], [4.0, 4.0, 0.1]])
    found = estimate(samples, 0)
    assert found.value == pytest.approx(2.0)
    assert found.per_session == pytest.approx((1.0, 2.0, 4.0))
    assert found.low <= 1.0
    assert found.high >= 4.0


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.ones(3), np.ones((0, 4))])
def test_refuses_what_is_no_table_of_positive_readings(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="want positive"):
        estimate(bad, 0)
