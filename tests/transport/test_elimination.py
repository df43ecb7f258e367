"""The blocked elimination against the reconstruction cost computed afresh for every candidate."""

from __future__ import annotations

import numpy as np
import pytest

from otgraph.transport.cost import Reading, reconstruction_cost
from otgraph.transport.elimination import eliminate_backward, eliminate_forward, reconstruction_along

RIDGE = 1e-9


def _readings(make_channels, n):
    return [
        make_channels(n, seed=1, centered=True).reading,
        make_channels(n, seed=2, name="v").reading,
    ]


def _cost(readings, kept):
    if len(kept) == 0:
        return sum(float(np.sum(r.second_moment() * r.gain)) for r in readings)
    return reconstruction_cost(readings, np.sort(kept), RIDGE)


def test_backward_removes_the_channel_that_is_missed_least(make_channels):
    readings = _readings(make_channels, 12)
    curve = eliminate_backward(readings, RIDGE)
    for k in range(12, 0, -1):
        kept = curve.kept(k)
        costs = [_cost(readings, np.delete(kept, at)) for at in range(k)]
        assert curve.distortion[k - 1] == pytest.approx(min(costs), rel=1e-5)
        assert set(curve.kept(k - 1)) == set(np.delete(kept, int(np.argmin(costs))))


def test_forward_keeps_the_channel_that_explains_most(make_channels):
    readings = _readings(make_channels, 12)
    curve = eliminate_forward(readings, RIDGE)
    for k in range(11):
        costs = {i: _cost(readings, np.append(curve.order[:k], i)) for i in curve.order[k:]}
        assert curve.order[k] == min(costs, key=lambda i: costs[i])
        assert curve.distortion[k + 1] == pytest.approx(min(costs.values()), rel=1e-5)


@pytest.mark.parametrize("eliminate", [eliminate_backward, eliminate_forward])
def test_more_channels_than_one_block_keep_the_distortion_exact(make_channels, eliminate):
    """150 channels: two full blocks and a part, so that held-back updates and compaction are met."""
    reading = make_channels(150, seed=3, samples=600).reading
    curve = eliminate([reading], RIDGE)
    assert (np.diff(curve.distortion) <= 0.0).all() and curve.distortion[150] == 0.0
    for k in (1, 30, 64, 65, 100, 128, 140):
        direct = reconstruction_cost([reading], curve.kept(k), RIDGE)
        assert curve.distortion[k] == pytest.approx(direct, rel=1e-4)
    wrong = np.sort(np.append(curve.kept(100)[:-1], np.setdiff1d(np.arange(150), curve.kept(100))[0]))
    assert curve.distortion[100] != pytest.approx(reconstruction_cost([reading], wrong, RIDGE), rel=1e-4)


def test_the_cost_along_a_given_order(make_channels):
    readings = _readings(make_channels, 80)
    order = np.random.default_rng(0).permutation(80)
    curve = reconstruction_along(readings, order, RIDGE)
    np.testing.assert_array_equal(curve.order, order)
    for k in (0, 5, 40, 79):
        assert curve.distortion[k] == pytest.approx(_cost(readings, curve.kept(k)), rel=1e-5)
    backward = eliminate_backward(readings, RIDGE)
    assert backward.distortion[40] < 0.9 * curve.distortion[40]


@pytest.mark.parametrize("eliminate", [eliminate_backward, eliminate_forward])
def test_channels_that_others_span_are_free_even_when_dead(make_channels, eliminate):
    """Five channels of rank 3, two dead ones: three kept rebuild all; nothing divides by zero."""
    base = make_channels(3, seed=4).samples
    values = np.concatenate([base, base @ [[1.0, 2.0], [1.0, -1.0], [0.5, 0.0]], np.zeros((400, 2))], axis=1)
    reading = Reading("w", values.T @ values / 400, np.eye(7))
    curve = eliminate([reading], 1e-10)
    assert curve.distortion[3] <= 1e-7 * curve.distortion[0]
    assert curve.distortion[2] > 1e-4 * curve.distortion[0]
    assert not {5, 6} & set(curve.kept(3))


@pytest.mark.parametrize("eliminate", [eliminate_backward, eliminate_forward])
def test_the_order_ignores_the_scale_of_a_channel(make_channels, eliminate):
    reading = make_channels(30, seed=5).reading
    scale = np.random.default_rng(2).gamma(1.0, 10.0, size=30)
    outer = np.multiply.outer(scale, scale)
    rescaled = Reading("w", reading.moment * outer, reading.gain / outer)
    np.testing.assert_array_equal(eliminate([rescaled], 0.1).order, eliminate([reading], 0.1).order)


def test_fewer_samples_than_channels(make_channels):
    reading = make_channels(40, seed=6, samples=12).reading
    curve = eliminate_backward([reading])
    assert np.isfinite(curve.distortion).all()
    assert curve.distortion[12] <= 1e-3 * curve.distortion[0]
