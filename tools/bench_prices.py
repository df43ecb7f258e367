"""How well prices by backward passes foretell trials: of widths, of collapses, and of whole plans.

    python tools/bench_prices.py data/efficientnet_lite0/efficientnet_lite0.onnx \\
        --calib data/efficientnet_lite0/calib.npz --samples 144 --json tools/results/prices.json

For a sample of the candidates of either sort (--candidates), spread over the network, the price is held
against a trial that cuts, repairs and runs the network on inputs that the repair has not seen: rank
correlation (Spearman), the standard deviation of log(trial / price), and its geometric mean. *healed* is
after the regression on a dozen other trials, with the standard deviation that it states. Of random mild plans
(--plans; relative L2 up to 0.3) the same for three models of what a plan does: the sum of the prices, the
square of the sum of their effects, and the square with healed prices, whose weight of interactions is the
planner's. CPU seconds are those of pricing all candidates and of one trial.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from bench_output import save, show
from scipy.stats import spearmanr

from otgraph.allocate.choice import Choice
from otgraph.allocate.problem import Problem
from otgraph.data_sources import load_data
from otgraph.graph.specs import bind
from otgraph.load import load_model
from otgraph.optimize.clock import NoTimes
from otgraph.optimize.damages import MILD, Damages, choice_of, problem_of
from otgraph.optimize.planner import Market, expected_damages, find_market, make_trial
from otgraph.optimize.settings import Settings
from otgraph.optimize.study import study
from otgraph.optimize.trial import Trial
from otgraph.plan.budget import Budget
from otgraph.pricing.healing import spread
from otgraph.pricing.prices import Key

COLUMNS = {
    "network": "",
    "of": "",
    "count": "d",
    "priced": "d",
    "Spearman": ".3f",
    "log sd": ".3f",
    "trial/price": ".2f",
    "stated sd": ".3f",
    "pricing, CPU s": ".1f",
    "trial, CPU s": ".2f",
}

Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    graph, data = load_model(options.model), load_data(options.calib)
    data = data if options.samples is None else data.take(options.samples, 0)
    settings = Settings(Budget("ratio", 0.8))
    found = study(graph, bind(data, graph), settings)
    market = find_market(found, settings, NoTimes(), 1.0)
    trial = make_trial(found, market.proposals, settings)
    damages = expected_damages(found, market, trial, settings)
    rows = [
        {"network": Path(options.model).stem, "priced": len(damages.prices.effects), **row}
        for row in (
            *_singles(damages, trial, options.candidates),
            *_plans(damages, market, trial, options.plans),
        )
    ]
    rows[0] |= {"pricing, CPU s": damages.prices.cpu_seconds}
    show(options.model, rows, COLUMNS)
    if options.json is not None:
        known = [row for row in _rows(options.json) if row["network"] != rows[0]["network"]]
        save(options.json, {"rows": [*known, *rows]})


def _rows(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def _singles(damages: Damages, trial: Trial, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for sort in ("widths", "collapses"):
        pool = {
            str(at): (key, subject)
            for at, (key, subject) in enumerate(damages.subjects.items())
            if isinstance(key, str) == (sort == "collapses")
            and key not in damages.tried
            and 1e-6 < subject.price <= 2 * MILD
        }
        names = spread({name: subject for name, (_, subject) in pool.items()}, count)
        keys = [pool[name][0] for name in names]
        if len(keys) < 3:
            continue
        started = time.process_time()
        truth = np.array([trial.damage(choice_of(key)) for key in keys])
        seconds = (time.process_time() - started) / len(keys)
        prices = np.array([damages.prices.of(key) for key in keys])
        healed, deviations = damages.healed()
        better = np.array([healed[key] for key in keys])
        stated = float(np.sqrt(np.mean([deviations[key] ** 2 for key in keys])))
        rows.append({"of": f"{sort}, priced", **_figures(prices, truth), "trial, CPU s": seconds})
        rows.append({"of": f"{sort}, healed", **_figures(better, truth), "stated sd": stated})
    return rows


def _figures(predicted: Floats, truth: Floats) -> dict[str, Any]:
    logs = np.log(np.maximum(truth, 1e-12) / np.maximum(predicted, 1e-12))
    rank: Any = spearmanr(predicted, truth)
    return {
        "count": len(truth),
        "Spearman": float(rank.statistic),
        "log sd": float(logs.std()),
        "trial/price": float(np.exp(logs.mean())),
    }


def _plans(damages: Damages, market: Market, trial: Trial, count: int) -> list[dict[str, Any]]:
    """Random plans of several candidates, tried whole."""
    random = np.random.default_rng(0)
    problems = {
        f"plans, {name}": problem_of(each, market.widths, market.proposals, market.nodes, 0.0)
        for name, each in {
            "sum of healed prices": replace(damages, weight=0.0),
            "healed, interacting": replace(damages, weight=1.0),
            f"healed, weight {damages.weight:g}": damages,
        }.items()
    }
    plain = next(iter(problems.values()))
    predicted: dict[str, list[float]] = {name: [] for name in problems}
    truth: list[float] = []
    for _ in range(20 * count):
        choice = _random(plain, damages.healed()[0], random)
        expected = {name: problem.damage(choice) for name, problem in problems.items()}
        if not 1e-3 < next(iter(expected.values())) <= 0.3**2:
            continue
        truth.append(trial.damage(choice))
        for name, value in expected.items():
            predicted[name].append(value)
        if len(truth) == count:
            break
    if len(truth) < 3:
        return []
    return [{"of": name, **_figures(np.array(each), np.array(truth))} for name, each in predicted.items()]


def _random(problem: Problem, healed: Mapping[Key, float], random: np.random.Generator) -> Choice:
    """A few mild widths and at most two collapses that go together."""
    widths = {dim.name: dim.widths[0] for dim in problem.dims}
    share = random.uniform(0.1, 0.6)
    for dim in problem.dims:
        mild = [k for k in dim.widths[1:] if healed.get((dim.name, k), 1.0) < 0.02]
        if mild and random.uniform() < share:
            widths[dim.name] = int(random.choice(mild))
    names: Sequence[str] = [o.name for o in problem.options if healed[o.name] < 0.05]
    taken: list[str] = []
    for name in random.permutation(np.array(names, dtype=object))[: int(random.integers(0, 3))]:
        try:
            problem.chosen((*taken, str(name)))
        except ValueError:
            continue
        taken.append(str(name))
    absorbed = {each for option in problem.chosen(taken) for each in option.absorbs}
    full = {dim.name: dim.widths[0] for dim in problem.dims}
    return Choice({name: full[name] if name in absorbed else k for name, k in widths.items()}, tuple(taken))


if __name__ == "__main__":
    main()
