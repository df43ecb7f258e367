"""Curves of damage: from local costs and few trials, monotone, exact where tried; and what is saved."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.allocate.choice import Choice
from otgraph.calibrate.feeds import feeds
from otgraph.calibrate.metric import OutputMetric
from otgraph.data import Data
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.optimize.sensitivity import PROBES, Sensitivity, measure_sensitivities, scaled_curve
from otgraph.optimize.settings import Settings
from otgraph.optimize.study import Study, study
from otgraph.optimize.trial import TRIAL_RIDGES, Trial
from otgraph.optimize.trial_cache import TrialCache
from otgraph.plan.budget import Budget

LOCAL = np.array([100.0, 40.0, 20.0, 12.0, 8.0, 5.0, 3.0, 1.0, 0.0])


def test_a_curve_goes_through_what_was_tried() -> None:
    curve = scaled_curve(LOCAL, [(4, 0.4), (6, 0.3)])
    assert curve[4] == pytest.approx(0.4) and curve[6] == pytest.approx(0.3)
    assert curve[8] == 0
    assert curve[2] == pytest.approx(20 * 0.05)  # beyond what was tried, as far off as at the nearest


@pytest.mark.parametrize(
    "measured", [[(4, 0.4)], [(2, 1.0), (4, 3.0)], [(4, 0.0), (6, 0.2)], [(7, 1e3), (2, 1e-9)]]
)
def test_a_curve_never_rises(measured: list[tuple[int, float]]) -> None:
    curve = scaled_curve(LOCAL, sorted(measured))
    assert np.all(np.diff(curve) <= 0) and curve[-1] == 0 and np.isfinite(curve).all()


def test_channels_that_cost_nothing_locally_have_the_damage_that_was_seen() -> None:
    curve = scaled_curve(np.array([1.0, 0.0, 0.0, 0.0, 0.0]), [(2, 0.5)])
    assert curve[2] == pytest.approx(0.5) and np.isfinite(curve).all()


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()), nn.Flatten(), nn.Linear(128, 3)
    )
    with torch.no_grad():
        net[0].weight[8:] = net[0].weight[:8]
        net[0].bias[8:] = net[0].bias[:8]
    return capture(net.eval(), (torch.randn(2, 3, 8, 8),))


@pytest.fixture(scope="module")
def found(graph: Graph) -> Study:
    x = np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype(np.float32)
    return study(graph, Data.from_arrays({"": x}), Settings(Budget("ratio", 0.5)))


def trial(found: Study, saved: TrialCache) -> Trial:
    return Trial(found.graph, found.axes, found.widths, found.fit, found.held, saved)


def measured(run: Trial, seconds: float = 120.0) -> dict[str, Sensitivity]:
    return measure_sensitivities(run, list(run.widths), seconds)


@pytest.fixture(scope="module")
def curves(found: Study) -> dict[str, Sensitivity]:
    return measured(trial(found, TrialCache(None)))


def test_every_dim_has_a_falling_curve(curves: dict[str, Sensitivity], found: Study) -> None:
    assert curves.keys() == found.widths.keys()
    for name, curve in curves.items():
        assert curve.damage.shape == (found.widths[name].size + 1,)
        assert np.all(np.diff(curve.damage) <= 0) and curve.damage[-1] == 0
        assert len(curve.measured) == len(PROBES)
        for k, damage in curve.measured:
            assert curve.damage[k] >= damage * (1 - 1e-9)


def test_copies_are_seen_to_cost_nothing(curves: dict[str, Sensitivity], found: Study) -> None:
    twins, single = (next(c for n, c in curves.items() if found.widths[n].size == size) for size in (16, 8))
    # not nothing: re-expression allows for noise, and a ridge keeps the refit from being exact
    assert twins.damage[8] < 0.1 * single.damage[4]


def test_a_trial_of_nothing_is_nothing_and_more_cut_is_more_damage(found: Study) -> None:
    run = trial(found, TrialCache(None))
    full = {name: width.size for name, width in found.widths.items()}
    half = {name: size // 2 for name, size in full.items()}
    assert run.damage(Choice(full)) == run.damage(Choice({})) == 0
    assert 0 < run.damage(Choice(half)) < run.damage(Choice(dict.fromkeys(full, 1)))


@pytest.mark.parametrize(("plain", "settled"), [(1.3, 0.03), (1.1, math.inf), (0.5, math.inf)])
def test_the_ridge_is_the_one_that_repairs_best_if_that_is_worth_it(
    found: Study, monkeypatch: pytest.MonkeyPatch, plain: float, settled: float
) -> None:
    run = trial(found, TrialCache(None))
    cut = Choice({name: width.size // 2 for name, width in found.widths.items()})
    damages = {3e-3: 5.0, 0.03: 1.0, 0.3: 4.0, 3.0: 6.0, math.inf: plain}  # 3e-4 is not looked at
    monkeypatch.setattr(Trial, "_measure", lambda _, cut, ridge: damages[ridge])
    assert run.damage(cut) == 4.0
    assert run.settle([cut]) == settled
    assert run.damage(cut) == damages[settled]


@pytest.mark.parametrize("best", TRIAL_RIDGES)
def test_any_ridge_can_be_the_best(found: Study, monkeypatch: pytest.MonkeyPatch, best: float) -> None:
    run = trial(found, TrialCache(None))
    place = TRIAL_RIDGES.index(best)
    monkeypatch.setattr(Trial, "_measure", lambda _, cut, ridge: 1 + abs(TRIAL_RIDGES.index(ridge) - place))
    assert run.settle([Choice(dict.fromkeys(found.widths, 1))]) == best
    assert run.ridge(run.count) == best
    assert run.ridge(16 * run.count) == pytest.approx(best / 4 if math.isfinite(best) else TRIAL_RIDGES[-2])


def test_where_nothing_is_refitted_the_network_is_as_it_was_cut(found: Study) -> None:
    run = trial(found, TrialCache(None))
    cut = Choice({name: width.size // 2 for name, width in found.widths.items()})
    small = run._carried_out(cut)  # pyright: ignore[reportPrivateUsage]
    inputs = list(feeds(found.graph, run.judged))
    reference, outputs = ([graph(*feed) for feed in inputs] for graph in (found.graph, small))
    assert run._damage(cut, math.inf) == pytest.approx(  # pyright: ignore[reportPrivateUsage]
        OutputMetric.of(reference).damage(reference, outputs), rel=1e-4
    )


def test_no_time_means_one_probe_each(found: Study) -> None:
    quick = measured(trial(found, TrialCache(None)), seconds=0.0)
    assert all(len(curve.measured) == 1 for curve in quick.values())


# what is kept


def test_an_interrupted_run_goes_on_where_it_was(
    found: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(trial(found, TrialCache(tmp_path, "this")))

    def fail(*_: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(Trial, "_measure", fail)
    again = measured(trial(found, TrialCache(tmp_path, "this")))
    for name, curve in first.items():
        assert np.array_equal(curve.damage, again[name].damage)
    with pytest.raises(AssertionError, match="measured again"):
        measured(trial(found, TrialCache(tmp_path, "that")))


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": "b"}', "null"])
def test_a_spoilt_file_is_measured_anew(tmp_path: Path, text: str) -> None:
    saved = TrialCache(tmp_path, "x")
    saved.put("k", 1.5)
    (path,) = tmp_path.iterdir()
    assert TrialCache(tmp_path, "x").get("k") == 1.5
    path.write_text(text)
    spoilt = TrialCache(tmp_path, "x")
    assert spoilt.get("k") is None
    spoilt.put("k", 2.5)
    assert json.loads(path.read_text()) == {"k": 2.5}
