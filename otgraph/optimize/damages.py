"""From prices to the damages that are allocated: a few trials say how much of them a repair undoes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import TimeTerm
from otgraph.allocate.interaction import Interaction
from otgraph.allocate.problem import DimOptions, Problem
from otgraph.optimize.proposals import Proposal
from otgraph.optimize.settings import Settings
from otgraph.optimize.trial import Trial
from otgraph.pricing.healing import Healing, Observation, Subject, spread
from otgraph.pricing.prices import Key, Prices

Vector = npt.NDArray[np.float64]

TRIALS = 12
"""So many candidates are tried at first."""

MOST_TRIALS = 27
"""And so many at most, where they cost little."""

EFFORT = 300e9
"""Multiply-accumulates that all trials of single candidates may take together, beyond the first."""

RESIDUAL = 0.5
"""Where trials are off by more than this (standard deviation of their logarithm) from what the others say of
them, more are made."""

MILD = 0.3
"""Only candidates of a damage up to this are tried: others are not chosen, and their prices, first-order as
they are, say less of them. About a relative L2 of 0.5."""

STEEP = 1.005
"""What a narrower width does at least, of what the next wider one does."""

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)

PLANS = 200
"""Random plans that the weight of interactions is chosen on."""


@dataclass(frozen=True, eq=False)
class Damages:
    """What every candidate is expected to do to the outputs.

    ``subjects``: the priced candidates as the regression sees them. ``tried``: damages measured, by
    candidate. ``measured``: those that have no price, by trials alone. ``weight``: of what candidates do to
    each other's effects (see ``Interaction``). ``drawn``: the seed with which damages are drawn from what the
    trials leave possible; None for what is expected.
    """

    prices: Prices
    subjects: Mapping[Key, Subject]
    tried: Mapping[Key, float]
    healing: Healing
    measured: Mapping[Key, float]
    weight: float = 0.0
    drawn: int | None = None

    def healed(self) -> tuple[dict[Key, float], dict[Key, float]]:
        """The damage of every candidate, and the standard deviation of its logarithm."""
        keys, subjects = list(self.subjects), list(self.subjects.values())
        means, deviations = self.healing.of(subjects)
        if self.drawn is not None:
            means = self.healing.draw(subjects, self.drawn)
        found = {key: self.subjects[key].price * math.exp(m) for key, m in zip(keys, means, strict=True)}
        sure = dict.fromkeys(self.measured, 0.0)
        return {**found, **self.measured}, {**dict(zip(keys, map(float, deviations), strict=True)), **sure}

    def trying(self, trial: Trial, keys: Sequence[Key]) -> Damages:
        """With trials of ``keys``, and the regression made anew."""
        new = {key: trial.damage(choice_of(key)) for key in keys}
        seen = [Observation.alone(self.subjects[key], damage) for key, damage in new.items()]
        return replace(self, tried={**self.tried, **new}, healing=Healing.fit((*self.healing.seen, *seen)))

    def learning(self, choice: Choice, expected: float, damage: float) -> Damages:
        """With what a whole choice did, of which ``expected`` was expected: it says something of all its
        parts, most of those that do most."""
        subjects = [self.subjects[key] for key in parts_of(choice) if key in self.subjects]
        if not subjects:
            return self
        means, _ = self.healing.of(subjects)
        seen = Observation.whole(subjects, means, expected, damage)
        return replace(self, healing=Healing.fit((*self.healing.seen, seen)))

    def uncertainty(self, choice: Choice) -> float:
        """The standard deviation of the logarithm of what ``choice`` is expected to do: that of its parts,
        weighed by what each does. They are taken to be off in the same direction."""
        healed, deviations = self.healed()
        keys = [key for key in parts_of(choice) if key in healed]
        whole = sum(healed[key] for key in keys)
        return sum(healed[key] * deviations[key] for key in keys) / whole if whole > 0 else 0.0


def choice_of(key: Key) -> Choice:
    """One candidate alone."""
    return Choice({}, (key,)) if isinstance(key, str) else Choice({key[0]: key[1]})


def parts_of(choice: Choice) -> list[Key]:
    """The candidates that ``choice`` is made of; full widths, which are none, included."""
    return [*choice.widths.items(), *choice.options]


def subjects_of(
    prices: Prices,
    sizes: Mapping[str, int],
    proposals: Sequence[Proposal],
    places: Mapping[str, float],
) -> dict[Key, Subject]:
    """Every priced candidate. ``sizes``: full widths; ``places``: of dims and of the ends of spans, from 0 at
    the start of the program to 1."""
    found: dict[Key, Subject] = {}
    by_name = {proposal.name: proposal for proposal in proposals}
    for key in prices.effects:
        if isinstance(key, str):
            proposal = by_name[key]
            span = proposal.collapse.span
            kind = proposal.collapse.map
            found[key] = Subject(kind, places[proposal.end], 1.0, span.name, prices.of(key))
        else:
            name, k = key
            share = 1 - k / sizes[name]
            found[key] = Subject("width", places[name], share, name, prices.of(key))
    return found


def heal(damages: Damages, trial: Trial, settings: Settings) -> Damages:
    """Trials of candidates that are spread over place, size and kind."""
    pool = {
        str(at): (key, subject)
        for at, (key, subject) in enumerate(damages.subjects.items())
        if 1e-6 < subject.price * math.exp(damages.healing.of([subject])[0][0]) <= MILD
    }
    names = spread({name: subject for name, (_, subject) in pool.items()}, TRIALS)
    for number, name in enumerate(names, 1):
        settings.progress(f"trying {_title(pool[name][0])} ({number} of {len(names)})")
        damages = damages.trying(trial, [pool[name][0]])
    return damages


def refine(damages: Damages, choice: Choice, trial: Trial, settings: Settings) -> Damages:
    """Trials of the parts of ``choice``, the least certain of what does most first: as many as are worth
    their time while trials contradict each other, else a few."""
    left = allowed(trial) - len(damages.tried)
    count = left if damages.healing.residual() > RESIDUAL else min(left, TRIALS // 4)
    healed, deviations = damages.healed()
    parts = [key for key in parts_of(choice) if key in damages.subjects and key not in damages.tried]
    parts.sort(key=lambda key: -healed[key] * deviations[key])
    for number, key in enumerate(parts[: max(count, 0)], 1):
        settings.progress(f"trying {_title(key)} ({number} of {min(count, len(parts))})")
        damages = damages.trying(trial, [key])
    return damages


def allowed(trial: Trial) -> int:
    """How many trials of single candidates are worth their time: fewer of what costs more."""
    return min(max(int(EFFORT / max(trial.cost, 1.0)), TRIALS), MOST_TRIALS)


def _title(key: Key) -> str:
    return key if isinstance(key, str) else f"{key[0]} at {key[1]}"


def problem_of(
    damages: Damages,
    widths: Mapping[str, Sequence[int]],
    proposals: Sequence[Proposal],
    nodes: Sequence[TimeTerm],
    constant: float,
) -> Problem:
    """What is to be allocated, by these damages. Those of a dim never fall with what is removed."""
    healed, _ = damages.healed()
    vectors: dict[Key, Vector] = {}
    dims: list[DimOptions] = []
    for name, candidates in widths.items():
        figures = [0.0] + [healed.get((name, k), math.nan) for k in candidates[1:]]
        known = [figure for figure in figures if math.isfinite(figure)]
        if len(known) < len(figures):
            dims.append(DimOptions(name, tuple(candidates[:1]), (0.0,)))
            continue
        rising = _rising(figures)
        dims.append(DimOptions(name, tuple(candidates), rising))
        for k, damage in zip(candidates[1:], rising[1:], strict=True):
            _add(vectors, damages.prices, (name, k), damage)
    options = [proposal.option(healed[proposal.name]) for proposal in proposals if proposal.name in healed]
    for option in options:
        _add(vectors, damages.prices, option.name, option.damage)
    interaction = Interaction(vectors, damages.weight) if damages.weight > 0 and vectors else None
    return Problem(
        dims=tuple(dims),
        nodes=tuple(nodes),
        options=tuple(options),
        constant=constant,
        interaction=interaction,
    )


def _rising(figures: Sequence[float]) -> tuple[float, ...]:
    """The figures from the full width down, each a little above the one before it at least: of two widths
    that seem to do the same the wider one is to be taken."""
    found = [figures[0]]
    for figure in figures[1:]:
        found.append(max(figure, found[-1] * STEEP))
    return tuple(found)


def _add(vectors: dict[Key, Vector], prices: Prices, key: Key, damage: float) -> None:
    """The effect of a candidate, scaled so that its square is the healed damage."""
    effect = prices.effects.get(key)
    if effect is not None:
        price = float(effect @ effect)
        vectors[key] = effect * math.sqrt(damage / price) if price > 0 else effect


def interaction_weight(prices: Prices, groups: Mapping[Key, str], seed: int = 0) -> float:
    """How much of the interactions that half of the inputs show is true of the other half.

    Random plans of few and many mild candidates are priced whole on one half of the inputs, and predicted
    from the other by the sum of single prices and a share of what they do to each other: the share is taken
    that predicts best (mean squared logarithm). ``groups``: candidates of one group exclude each other.
    """
    keys = [key for key in groups if prices.of(key) <= MILD]
    inputs = np.unique(prices.units)
    if len(keys) < 2 or len(inputs) < 4:
        return 0.0
    random = np.random.default_rng(seed)
    half = np.isin(prices.units, random.permutation(inputs)[: len(inputs) // 2])
    matrix = np.stack([prices.effects[key] for key in keys])
    first, second = matrix[:, half] / math.sqrt(half.mean()), matrix[:, ~half] / math.sqrt(1 - half.mean())
    errors = np.zeros(len(WEIGHTS))
    for count in random.integers(2, max(3, min(len(keys), 24)), PLANS):
        order = random.permutation(len(keys))
        chosen, taken = list[int](), set[str]()
        for at in order:
            if groups[keys[at]] not in taken and len(chosen) < count:
                chosen.append(int(at))
                taken.add(groups[keys[at]])
        for seen, unseen in ((first, second), (second, first)):
            alone = np.square(seen[chosen]).sum()
            together = np.square(seen[chosen].sum(0)).sum()
            truth = np.square(unseen[chosen].sum(0)).sum()
            predicted = alone + np.array(WEIGHTS) * (together - alone)
            errors += np.square(np.log(np.maximum(predicted, 1e-12) / max(truth, 1e-12)))
    return WEIGHTS[int(np.argmin(errors))]


def groups_of(prices: Prices, proposals: Sequence[Proposal]) -> dict[Key, str]:
    """Candidates that exclude each other have the same name here: widths of a dim, maps of a span."""
    by_name = {proposal.name: proposal.collapse.span.name for proposal in proposals}
    return {key: by_name.get(key, key) if isinstance(key, str) else key[0] for key in prices.effects}
