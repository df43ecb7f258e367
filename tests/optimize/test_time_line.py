"""The line from node times to latency and its closed-loop correction."""

from __future__ import annotations

import pytest

from otgraph.errors import UsageError
from otgraph.optimize.time_line import TimeLine

BASE = TimeLine(base=100e6)


def test_without_measurements_overhead_is_four_percent() -> None:
    assert BASE.ratio(100e6) == pytest.approx(1.0)
    assert BASE.ratio(0) == pytest.approx(0.04)
    assert BASE.ratio(50e6) == pytest.approx(0.52)


def test_one_measurement_is_met_exactly_and_so_is_the_base() -> None:
    model = BASE.corrected(60e6, 0.7)
    assert model.ratio(60e6) == pytest.approx(0.7)
    assert model.ratio(100e6) == pytest.approx(1.0)
    assert model.points == ((60e6, 0.7),)
    assert BASE.points == ()


def test_several_measurements_are_met_in_the_least_squares_sense() -> None:
    model = BASE.corrected(60e6, 0.7).corrected(40e6, 0.52)
    assert model.slope == pytest.approx((0.4 * 0.3 + 0.6 * 0.48) / (0.16 + 0.36))


def test_less_work_never_predict_more_time() -> None:
    model = BASE.corrected(60e6, 1.3)
    assert model.slope == 0
    assert model.ratio(10e6) == 1.0
    assert model.budget_for(0.9) is None


def test_budget_for_inverts_ratio() -> None:
    model = BASE.corrected(60e6, 0.7)
    for ratio in (1.0, 0.8, 0.6, 0.3):
        spent = model.budget_for(ratio)
        assert spent is not None
        assert model.ratio(spent) == pytest.approx(ratio)
    assert model.budget_for(0.1) is None
    assert BASE.budget_for(0.03) is None


def test_closed_loop_converges_on_a_curve_that_is_not_a_line() -> None:
    def truth(spent: float) -> float:
        return 0.1 + 0.9 * (spent / 100e6) ** 0.6

    model, target, gaps = BASE, 0.6, []
    for _ in range(6):
        spent = model.budget_for(target)
        assert spent is not None
        gaps.append(abs(truth(spent) - target))
        model = model.corrected(spent, truth(spent))
    assert gaps[0] > 0.05
    assert gaps[-1] < 0.005


def test_a_measurement_at_the_base_teaches_nothing() -> None:
    assert BASE.corrected(100e6, 0.98).slope == BASE.slope


@pytest.mark.parametrize(("base", "start"), [(0.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)])
def test_refuses_an_impossible_base(base: float, start: float) -> None:
    with pytest.raises(UsageError, match="both must be > 0"):
        TimeLine(base, start=start)


def test_what_simplifying_gains_comes_before_anything_is_cut() -> None:
    model = TimeLine(base=100e6, slope=1.0, start=0.8)
    assert model.ratio(100e6) == pytest.approx(0.8)
    assert model.budget_for(0.6) == pytest.approx(75e6)
    assert (model.budget_for(0.9) or 0) > 100e6
    corrected = model.corrected(50e6, 0.5)
    assert corrected.ratio(50e6) == pytest.approx(0.5)
    assert corrected.ratio(100e6) == pytest.approx(0.8)
