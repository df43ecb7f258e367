"""Every criterion: its contract, and the formula it stands for."""

from __future__ import annotations

import numpy as np
import ot
import pytest

from otgraph.errors import DataError, UsageError
from otgraph.transport.cost import Reading
from otgraph.transport.criteria.barycenter import Barycenter
from otgraph.transport.criteria.catalog import CRITERIA, criterion
from otgraph.transport.criteria.cholesky import Cholesky
from otgraph.transport.criteria.criterion import ChannelStatistics
from otgraph.transport.criteria.distributions import activation_quantiles, squared_distances
from otgraph.transport.criteria.magnitude import Magnitude
from otgraph.transport.pot import line_distance
from otgraph.transport.problem import rerouting_problem


@pytest.fixture
def inputs(make_channels):
    made = make_channels(24, seed=1, centered=True)
    writers = np.random.default_rng(0).normal(size=(24, 18)).astype(np.float32)
    return ChannelStatistics([made.reading], writers, made.samples.T, seed=3)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("data_free", [False, True])
def test_every_criterion_gives_nested_sets_and_a_falling_curve(inputs, name, data_free):
    if data_free:
        inputs = ChannelStatistics(inputs.readings)
    curve = criterion(name).curve(inputs)
    assert curve.distortion[24] == 0.0
    assert (np.diff(curve.distortion) <= 1e-12 * curve.distortion[0]).all()
    assert curve.order.dtype == np.int64
    again = criterion(name).curve(inputs)
    np.testing.assert_array_equal(again.order, curve.order)
    if name != "cholesky":
        problem = rerouting_problem(inputs.readings)
        for k in (1, 12, 23):
            assert curve.distortion[k] == pytest.approx(problem.value(curve.kept(k)), rel=1e-9)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_takes_a_single_channel_and_dead_ones(name):
    moment = np.diag([4.0, 0.0, 1.0])
    ridge = getattr(criterion(name), "ridge", 0.0)  # adds its part to every channel's energy
    for size in (1, 3):
        reading = Reading("w", moment[:size, :size], np.eye(size), np.zeros(size))
        curve = criterion(name).curve(ChannelStatistics([reading]))
        assert curve.distortion[0] == pytest.approx(np.trace(moment[:size, :size]) * (1 + ridge), rel=1e-4)


def test_rerouting_beats_the_others_at_its_own_measure_and_cholesky_at_its(inputs):
    curves = {name: each.curve(inputs) for name, each in CRITERIA.items()}
    for name in ("random", "magnitude", "energy", "barycenter", "wasserstein"):
        assert curves["rerouting"].distortion[8] <= curves[name].distortion[8]
    assert curves["cholesky"].distortion[8] < curves["rerouting"].distortion[8]


def test_an_unknown_criterion_is_refused_by_name():
    with pytest.raises(UsageError, match="criterion 'magnitud': unknown; choose one of barycenter, cholesky"):
        criterion("magnitud")
    assert list(CRITERIA) == sorted(CRITERIA)


def test_magnitude_is_the_norm_it_says(inputs):
    norms = np.abs(inputs.writers).sum(axis=1)
    assert set(Magnitude().curve(inputs).kept(5)) == set(np.argsort(-norms)[:5])
    reader = np.diagonal(inputs.readings[0].gain)
    assert set(Magnitude("reader").curve(inputs).kept(5)) == set(np.argsort(-reader)[:5])
    both = norms * np.sqrt(reader)
    assert set(Magnitude("both").curve(inputs).kept(5)) == set(np.argsort(-both)[:5])
    with pytest.raises(DataError, match="criterion magnitude: side='writer' needs the writers' weights"):
        Magnitude("writer").curve(ChannelStatistics(inputs.readings))


def test_random_follows_its_seed(inputs):
    other = ChannelStatistics(inputs.readings, seed=4)
    random = criterion("random")
    assert not np.array_equal(random.curve(inputs).order, random.curve(other).order)


def test_cholesky_has_two_directions(inputs):
    backward, forward = Cholesky().curve(inputs), Cholesky("forward").curve(inputs)
    assert forward.distortion[6] == pytest.approx(backward.distortion[6], rel=0.3)


def test_distances_between_channels_are_those_of_pot_and_of_gaussians(inputs):
    quantiles = activation_quantiles(inputs, 400)
    np.testing.assert_allclose(quantiles, np.sort(inputs.samples, axis=1), atol=1e-12)
    exact = ot.wasserstein_1d(np.sort(inputs.samples[0]), np.sort(inputs.samples[1]), p=2)
    assert squared_distances(quantiles)[0, 1] == pytest.approx(exact, rel=1e-9)
    gaussians = ChannelStatistics(inputs.readings)
    reading = inputs.readings[0]
    deviation = np.sqrt(np.diagonal(reading.second_moment()))
    bures = (reading.mean[0] - reading.mean[1]) ** 2 + (deviation[0] - deviation[1]) ** 2
    assert squared_distances(activation_quantiles(gaussians, 32))[0, 1] == pytest.approx(bures, rel=1e-9)


def test_wasserstein_weighs_a_distance_by_what_reads_the_channel():
    """Three equal pairs of neighbors; the pair that is read least loses its second member first."""
    samples = np.array([0.0, 0.1, 5.0, 5.1, 9.0, 9.1])[:, None] + np.linspace(1.0, 2.0, 40)
    gain = np.diag([9.0, 9.0, 1.0, 1.0, 4.0, 4.0])
    reading = Reading("w", samples @ samples.T / 40, gain, samples.mean(axis=1))
    order = criterion("wasserstein").curve(ChannelStatistics([reading], samples=samples)).order
    assert [channel // 2 for channel in order[:2:-1]] == [1, 2, 0]


def test_the_barycenter_of_equal_channels_is_their_own_histogram():
    row = np.random.default_rng(0).normal(size=400)
    reading = Reading("w", np.eye(4), np.eye(4))
    writers = np.stack([row, row, row, row[::-1] + 3.0])
    distances = Barycenter().distances(ChannelStatistics([reading], writers))
    assert distances[3] > 2.0 * distances[0]
    np.testing.assert_allclose(distances[:3], distances[0])
    assert Barycenter().curve(ChannelStatistics([reading], writers)).order[0] == 3


def test_the_distance_on_the_line_is_that_of_a_shift():
    support = np.linspace(0.0, 1.0, 11)
    one, other = np.zeros(11), np.zeros(11)
    one[[1, 2]] = other[[4, 5]] = 0.5
    assert line_distance(support, one, other) == pytest.approx(0.09)


def test_statistics_that_do_not_fit_are_refused(inputs):
    with pytest.raises(
        DataError, match=r"channel statistics: writers has shape \(5, 2\), expected one row for each"
    ):
        ChannelStatistics(inputs.readings, np.ones((5, 2)))
    with pytest.raises(DataError, match="channel statistics: no reading is given"):
        ChannelStatistics([])
