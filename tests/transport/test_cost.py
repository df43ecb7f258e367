"""Costs made of moments, against least squares on the samples themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from otgraph.errors import DataError
from otgraph.transport.cost import (
    REEXPRESSION,
    Reading,
    damage,
    merge_readings,
    reconstruction,
    reconstruction_cost,
    reexpression,
    rerouting_cost,
    routing_scales,
)


def _center(values, reading):
    return values - values.mean(axis=0) if reading.centered else values


@pytest.mark.parametrize("centered", [False, True])
def test_rerouting_is_the_best_scalar_fit(make_channels, centered):
    made = make_channels(6, centered=centered)
    x = _center(made.samples, made.reading)
    cost, drop = rerouting_cost([made.reading])
    for j in range(6):
        gain = np.sum(made.weight[:, j] ** 2)
        assert drop[j] == pytest.approx(gain * np.mean(x[:, j] ** 2), rel=1e-10)
        for i in range(6):
            slope, *_ = np.linalg.lstsq(x[:, [i]], x[:, j], rcond=None)
            residual = np.mean((x[:, j] - x[:, i] * slope[0]) ** 2)
            assert cost[j, i] == pytest.approx(gain * residual, rel=1e-9, abs=1e-12)
            if i != j:
                target = np.arange(6)
                target[j] = i
                assert routing_scales(made.reading, target)[j] == pytest.approx(slope[0], rel=1e-9)


def test_costs_add_over_readers_and_one_target_serves_them_all(make_channels):
    one, other = make_channels(5, seed=1).reading, make_channels(5, seed=2, name="v").reading
    cost, drop = rerouting_cost([one, other])
    costs, drops = zip(rerouting_cost([one]), rerouting_cost([other]), strict=True)
    np.testing.assert_allclose(cost, costs[0] + costs[1], rtol=1e-12)
    np.testing.assert_allclose(drop, drops[0] + drops[1], rtol=1e-12)


def test_readers_of_one_input_merge_without_changing_the_cost(make_channels):
    one = make_channels(5, seed=1, centered=True).reading
    twin = replace(one, name="v", gain=3.0 * one.gain, moment=one.moment.copy())
    other = make_channels(5, seed=2, centered=True, name="u").reading
    merged = merge_readings([one, other, twin])
    assert [reading.name for reading in merged] == ["w", "u"]
    np.testing.assert_allclose(merged[0].gain, 4.0 * one.gain)
    apart = sum(rerouting_cost([reading])[0] for reading in (one, other, twin))
    np.testing.assert_allclose(rerouting_cost([one, other, twin])[0], apart, rtol=1e-12)
    assert len(merge_readings([one, replace(twin, centered=False)])) == 2


def test_the_exact_damage_of_a_routing_is_what_the_samples_show(make_channels):
    made = make_channels(6, centered=True)
    target = np.array([0, 0, 2, 2, -1, 0])
    x = made.samples - made.samples.mean(axis=0)
    scales = routing_scales(made.reading, target)
    routed = np.where(target >= 0, scales * x[:, target], 0.0)
    shown = np.mean(np.sum(((x - routed) @ made.weight.T) ** 2, axis=1))
    assert damage([made.reading], target) == pytest.approx(shown, rel=1e-9)
    wrong = np.where(target >= 0, 1.1 * scales * x[:, target], 0.0)
    assert damage([made.reading], target) != pytest.approx(
        np.mean(np.sum(((x - wrong) @ made.weight.T) ** 2, axis=1)), rel=1e-3
    )


def test_reconstruction_is_least_squares_on_the_samples(make_channels):
    made = make_channels(7)
    kept = np.array([1, 2, 5])
    fit, *_ = np.linalg.lstsq(made.samples[:, kept], made.samples, rcond=None)
    answer = reconstruction(made.reading.moment, kept, ridge=0.0)
    np.testing.assert_allclose(answer, fit.T, atol=1e-9)
    np.testing.assert_array_equal(answer[kept], np.eye(3))
    error = (made.samples - made.samples[:, kept] @ fit) @ made.weight.T
    assert reconstruction_cost([made.reading], kept, ridge=0.0) == pytest.approx(
        np.mean(np.sum(error**2, axis=1)), rel=1e-9
    )


def test_reconstruction_never_loses_to_rerouting_on_one_output(make_channels):
    made = make_channels(8)
    target = np.array([0, 0, 2, 2, 0, -1, 2, 0])
    kept = np.array([0, 2])
    assert reconstruction_cost([made.reading], kept, ridge=0.0) <= damage([made.reading], target)


def test_duplicates_are_free_and_the_scale_is_recovered(make_channels):
    made = make_channels(4)
    doubled = np.concatenate([made.samples, 3.0 * made.samples[:, :1]], axis=1)
    gain = np.eye(5)
    reading = Reading("w", doubled.T @ doubled / len(doubled), gain)
    cost, drop = rerouting_cost([reading])
    assert cost[4, 0] <= 1e-12 * drop[4] and cost[0, 4] <= 1e-12 * drop[0]
    assert routing_scales(reading, np.array([0, 1, 2, 3, 0]))[4] == pytest.approx(3.0)
    assert reconstruction_cost([reading], np.arange(4), ridge=0.0) <= 1e-12 * drop.sum()


def test_costs_follow_the_gain_and_ignore_a_rescaled_route(make_channels):
    reading = make_channels(5).reading
    cost, drop = rerouting_cost([reading])
    louder = replace(reading, gain=4.0 * reading.gain)
    np.testing.assert_allclose(rerouting_cost([louder])[0], 4.0 * cost, rtol=1e-12)
    scale = np.array([1.0, 2.0, 0.5, 10.0, 1e-3])
    outer = np.multiply.outer(scale, scale)
    rescaled = replace(reading, moment=reading.moment * outer, gain=reading.gain / outer)
    np.testing.assert_allclose(rerouting_cost([rescaled])[0], cost, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(rerouting_cost([rescaled])[1], drop, rtol=1e-9)


def test_nothing_is_routed_through_a_dead_channel(make_channels):
    made = make_channels(4)
    moment = made.reading.moment.copy()
    moment[2] = moment[:, 2] = 0.0
    reading = replace(made.reading, moment=moment)
    cost, drop = rerouting_cost([reading])
    np.testing.assert_array_equal(np.delete(cost[:, 2], 2), np.delete(drop, 2))
    assert drop[2] == 0.0 and not cost[2].any()
    np.testing.assert_array_equal(routing_scales(reading, np.array([2, 1, 2, -1])), [0.0, 1.0, 1.0, 0.0])
    assert np.isfinite(reconstruction(moment, np.array([1, 2]))).all()


def test_a_constant_is_worth_nothing_to_a_reader_with_a_bias(make_channels):
    made = make_channels(3)
    values = np.concatenate([made.samples, np.full((len(made.samples), 1), 1234.567)], axis=1)
    plain = Reading("w", values.T @ values / len(values), np.eye(4), values.mean(axis=0))
    assert rerouting_cost([plain])[1][3] == pytest.approx(1234.567**2)
    cost, drop = rerouting_cost([replace(plain, centered=True)])
    assert drop[3] == 0.0
    np.testing.assert_array_equal(cost[:3, 3], drop[:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moment": np.eye(3)}, r"reading 'w': moment has shape \(3, 3\), expected \(4, 4\)"),
        ({"gain": np.full((4, 4), np.nan)}, "reading 'w': gain holds values that are not finite"),
        ({"mean": None, "centered": True}, r"reading 'w': centered, but no mean is given; pass mean=E\[x\]"),
    ],
)
def test_a_reading_that_makes_no_sense_is_refused(make_channels, change, message):
    with pytest.raises(DataError, match=message):
        replace(make_channels(4).reading, **change)


def test_readers_of_different_dims_are_refused(make_channels):
    with pytest.raises(DataError, match="channel cost: reading 'v' has 5 channels, 'w' has 4"):
        rerouting_cost([make_channels(4).reading, make_channels(5, name="v").reading])
    with pytest.raises(DataError, match="channel cost: no reading is given"):
        rerouting_cost([])


def test_reexpression_is_least_squares_with_a_little_noise(make_channels):
    made = make_channels(7, centered=True)
    kept = np.array([1, 2, 5])
    x = made.samples - made.samples.mean(axis=0)
    noise = REEXPRESSION * np.square(x).mean(axis=0).mean()
    more = np.sqrt(len(x) * noise) * np.eye(3)  # a ridge as rows of their own
    beside, wanted = np.concatenate([x[:, kept], more]), np.concatenate([x, np.zeros((3, 7))])
    fit, *_ = np.linalg.lstsq(beside, wanted, rcond=None)
    answer = reexpression(made.reading, kept)
    removed = np.setdiff1d(np.arange(7), kept)
    np.testing.assert_allclose(answer[removed], fit.T[removed], atol=1e-9)
    np.testing.assert_array_equal(answer[kept], np.eye(3))
    plain = reconstruction(made.reading.second_moment(), kept, ridge=0.0)
    assert np.abs(answer - plain)[removed].max() > 1e-6


def test_reexpression_of_dead_channels_is_finite(make_channels):
    reading = replace(make_channels(4).reading, moment=np.zeros((4, 4)))
    np.testing.assert_array_equal(reexpression(reading, np.array([1, 2]))[[0, 3]], 0.0)
