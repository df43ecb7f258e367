"""The table of one kernel: monotone, bilinear between its points, and the smooth form fitted to it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from otgraph.latency.kernel_table import KernelTable, KernelTime, completed, fit_time, monotone

GRID = [(i, o) for i in (32, 24, 16, 8) for o in (64, 48, 32, 16)]


def steps(inputs: int, outputs: int) -> float:
    """What an engine does that computes blocks of 16 inputs and of 32 outputs."""
    return 0.5 + -(-inputs // 16) * -(-outputs // 32)


def test_measured_points_are_met_exactly() -> None:
    table = KernelTable.of({point: steps(*point) for point in GRID})
    assert table.inputs == (8, 16, 24, 32)
    assert table.outputs == (16, 32, 48, 64)
    assert [table.at(*point) for point in GRID] == pytest.approx([steps(*point) for point in GRID])


def test_the_steps_are_kept_that_the_smooth_form_loses() -> None:
    table = KernelTable.of({point: steps(*point) for point in GRID})
    assert table.at(32, 64) == table.at(24, 48) > table.at(16, 48)
    smooth = table.fitted()
    assert smooth.error > 0.15
    assert smooth.at(24, 48) < 0.9 * smooth.at(32, 64)


def test_between_points_a_bilinear_law_is_met() -> None:
    truth = KernelTime(0.02, 3e-5, 2e-4, 1e-4)
    table = KernelTable.of({point: truth.at(*point) for point in GRID})
    for inputs, outputs in ((12, 20), (30, 63), (8, 40), (32, 16)):
        assert table.at(inputs, outputs) == pytest.approx(truth.at(inputs, outputs))


def test_outside_the_grid_the_border_counts() -> None:
    table = KernelTable.of({point: steps(*point) for point in GRID})
    assert table.at(100, 100) == table.at(32, 64)
    assert table.at(1, 1) == table.at(8, 16)


def test_a_depthwise_table_depends_on_the_outputs() -> None:
    table = KernelTable.of({(w, w): w / 8 for w in (8, 16, 32)})
    assert table.tied
    assert [table.at(w, w) for w in (8, 16, 24, 32)] == pytest.approx([1, 2, 3, 4])
    assert (table.fitted().both, table.fitted().inputs) == (0.0, 0.0)
    assert table.fitted().at(24, 24) == pytest.approx(3)


def test_a_single_point_is_a_table() -> None:
    table = KernelTable.of({(3, 20): 0.7})
    assert table.at(3, 20) == table.at(3, 8) == pytest.approx(0.7)


def test_a_cross_and_the_diagonal_complete_a_product_and_what_it_is_off_by() -> None:
    def law(a: int, b: int) -> float:
        return (1 + a) * (2 + b) ** 2 * (1.5 if a == b < 3 else 1.25 if 3 not in (a, b) and a != b else 1)

    sparse = np.array([[law(a, b) if 3 in (a, b) or a == b else np.nan for b in range(4)] for a in range(4)])
    whole = completed(sparse)
    assert whole[0, 0] == law(0, 0) and whole[3, 1] == law(3, 1)
    assert whole[0, 1] == pytest.approx(1.5 * 1 * 9)
    sparse[3, 1] = np.nan
    assert np.isnan(completed(sparse)).any()


def test_a_hole_or_a_time_of_nothing_is_an_error() -> None:
    points = dict.fromkeys(GRID, 1.0)
    with pytest.raises(ValueError, match=r"16 points: not a whole grid of times above 0"):
        KernelTable.of({**points, (8, 16): 0.0})
    del points[8, 16]
    with pytest.raises(ValueError, match=r"15 points: not a whole grid"):
        KernelTable.of(points)


def test_noise_never_makes_a_narrower_node_slower() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        table = KernelTable.of({point: steps(*point) * draw.lognormal(0, 0.2) for point in GRID})
        rows = np.array(table.rows)
        assert (np.diff(rows, axis=0) >= 0).all()
        assert (np.diff(rows, axis=1) >= 0).all()
        times = np.array([[table.at(i, o) for o in range(8, 72, 4)] for i in range(4, 40, 4)])
        assert (np.diff(times, axis=0) >= -1e-12).all()
        assert (np.diff(times, axis=1) >= -1e-12).all()


def test_what_is_out_of_order_is_averaged() -> None:
    assert monotone(np.array([[1.0, 4.0, 1.0, 2.0]]))[0] == pytest.approx([1.0, 2.0, 2.0, 2.0])
    assert monotone(np.array([[4.0], [1.0]])).T[0] == pytest.approx([2.0, 2.0])
    assert monotone(np.array([[1.0, 1.0, 3.0]])).tolist() == [[1.0, 1.0, 3.0]]


def test_the_nearest_monotone_matrix_is_found() -> None:
    draw = np.random.default_rng(1)
    raw = np.exp(draw.normal(0, 0.5, (4, 5)))
    found = np.log(monotone(raw))
    pairs = [((i, j), (i + a, j + b)) for i in range(4) for j in range(5) for a, b in ((0, 1), (1, 0))]
    rows = [(p, q) for p, q in pairs if q[0] < 4 and q[1] < 5]

    def rises(flat: np.ndarray) -> list[float]:
        matrix = flat.reshape(4, 5)
        return [matrix[q] - matrix[p] for p, q in rows]

    oracle = minimize(
        lambda flat: float(((flat - np.log(raw).ravel()) ** 2).sum()),
        found.ravel(),
        method="SLSQP",
        constraints={"type": "ineq", "fun": rises},
    )
    assert found.ravel() == pytest.approx(oracle.x, abs=1e-3)


def test_noise_shifts_the_full_width_neither_up_nor_down() -> None:
    draw = np.random.default_rng(2)
    noisy = [
        KernelTable.of({point: steps(*point) * draw.lognormal(0, 0.03) for point in GRID}).at(32, 64)
        for _ in range(200)
    ]
    assert np.median(noisy) == pytest.approx(steps(32, 64), rel=0.015)


def test_known_coefficients_are_recovered() -> None:
    truth = KernelTime(0.02, 3e-5, 2e-4, 1e-4)
    found = fit_time([(i, o, truth.at(i, o)) for i, o in GRID])
    np.testing.assert_allclose(
        [found.constant, found.both, found.inputs, found.outputs], [0.02, 3e-5, 2e-4, 1e-4], rtol=1e-6
    )
    assert found.error < 1e-9


def test_tied_widths_have_only_a_linear_part() -> None:
    found = fit_time([(w, w, 0.01 + 4e-4 * w) for w in (32, 24, 16, 8)], tied=True)
    assert (found.both, found.inputs) == (0.0, 0.0)
    assert (found.constant, found.outputs) == (pytest.approx(0.01), pytest.approx(4e-4))


def test_no_coefficient_is_negative_and_the_error_is_said() -> None:
    falling = fit_time([(8, 8, 1.0), (16, 8, 0.8), (8, 16, 0.9), (16, 16, 0.5)])
    parts = [falling.constant, falling.both, falling.inputs, falling.outputs]
    assert min(parts) >= 0
    worst = max(abs(falling.at(i, o) / t - 1) for i, o, t in [(8, 8, 1.0), (16, 16, 0.5)])
    assert falling.error >= worst > 0.1


def test_small_times_count_as_much_as_large_ones() -> None:
    truth = KernelTime(0.001, 1e-3, 0.0, 0.0)
    noisy = [(i, o, truth.at(i, o) * (1.02 if (i + o) % 3 else 0.98)) for i, o in GRID]
    assert fit_time(noisy).error < 0.05
