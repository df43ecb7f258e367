"""Deciding: widths and collapses together, under a fraction, a measured latency, a number of layers, or a
limit on the damage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import Polynomial, TimeTerm, evaluate
from otgraph.allocate.problem import Problem
from otgraph.calibrate.probing import probing
from otgraph.data import Data
from otgraph.errors import PlanError
from otgraph.graph.depth import depth_of
from otgraph.graph.graph import Graph
from otgraph.heap import give_back, kept_pages
from otgraph.optimize.clock import Clock, EngineTimes, NoTimes, TimePrices
from otgraph.optimize.damages import (
    Damages,
    allowed,
    groups_of,
    heal,
    interaction_weight,
    problem_of,
    refine,
    subjects_of,
)
from otgraph.optimize.exports import Exports
from otgraph.optimize.layers import with_layers
from otgraph.optimize.loop import Outcome, Workbench, by_damage, by_latency, by_layers
from otgraph.optimize.plan_builder import PlanBuilder
from otgraph.optimize.proposals import (
    Proposal,
    find_effects,
    fitted,
    lighter,
    new_nodes,
    propose,
    saving,
    shallower,
)
from otgraph.optimize.sensitivity import measure_sensitivities
from otgraph.optimize.settings import Settings
from otgraph.optimize.stopwatch import Stopwatch
from otgraph.optimize.study import Study, study, what_trials_depend_on
from otgraph.optimize.trial import Trial
from otgraph.optimize.trial_cache import TrialCache
from otgraph.plan.decision import DepthAction, Predictions
from otgraph.plan.plan import Plan
from otgraph.pricing.elementwise import batch_size
from otgraph.pricing.healing import Healing, spread
from otgraph.pricing.macs import macs_terms
from otgraph.pricing.prices import Key, Prices, edges_of, price
from otgraph.pricing.timed_node import Candidates
from otgraph.pricing.widths import candidate_widths
from otgraph.remark import Remark
from otgraph.repair.least_squares import LeastSquaresOptions
from otgraph.rewrite.collapse import describe

SETTLED = 6
"""So many candidates make the choice that the ridge of trials is settled on."""

MOST_WHOLES = 9
"""So many choices are tried whole at most: fewer where a trial costs much (``allowed``)."""


@kept_pages()
def make_plan(
    graph: Graph,
    data: Data,
    settings: Settings,
    clock: Clock | None = None,
    times: TimePrices | None = None,
    exports: Exports | None = None,
) -> Plan:
    """Decide what to keep of every dim of ``graph`` and which spans collapse; nothing is edited.

    ``clock`` and ``times``: what to measure with; by default the engine of ``settings``, on the files of
    ``exports``.

    Raises:
        UsageError: the budget is out of reach, or no dim may be cut. DataError: the data do not fit.
        EngineMissing: a latency was asked for and the engine is not there.
    """
    found = study(graph, data, settings)
    if settings.budget.kind == "keep":
        share = settings.budget.value
        kept = {name: max(1, round(width.size * share)) for name, width in found.widths.items()}
        return PlanBuilder(found, settings, {}).plan(Choice(kept), Predictions())
    said: list[Remark] = []
    with ExitStack() as stack:
        if clock is None:
            exports = exports or stack.enter_context(Exports())
            watch = Stopwatch(
                found.graph, found.held, settings.engine, settings.threads, settings.seed, exports
            )
            clock, times = (
                watch,
                times or EngineTimes(watch.engine, replace(settings.timing, note=said.append)),
            )
        if settings.budget.kind == "layers" or times is None:
            times = NoTimes()
        plan = _decide(found, settings, clock, times)
    return replace(plan, remarks=(*plan.remarks, *dict.fromkeys(said)))


@dataclass(frozen=True, eq=False)
class Market:
    """What there is to choose from. ``widths``: the candidates of every dim; ``nodes``, ``fixed``: the times
    of the nodes, and what nothing saves; ``proposals``: the collapses; ``remarks``: how many there were."""

    widths: Candidates
    nodes: Sequence[TimeTerm]
    fixed: Polynomial
    proposals: tuple[Proposal, ...]
    remarks: tuple[Remark, ...]


def _decide(found: Study, settings: Settings, clock: Clock, times: TimePrices) -> Plan:
    settings.progress("measuring the original")
    original_ms = clock.original().ms
    market = find_market(found, settings, times, original_ms)
    give_back()  # what fitting left free; else it adds up with what trials hold
    trial = make_trial(found, market.proposals, settings)
    damages = expected_damages(found, market, trial, settings)
    give_back()
    problem = _problem(found, market, replace(damages, weight=0.0), settings)
    builder = PlanBuilder(
        found,
        settings,
        clock.describe(),
        {proposal.name: proposal for proposal in market.proposals},
    )
    deciding = _Deciding(found, market, trial, settings, damages, damages.weight)
    bench = deciding.workbench(builder, clock)
    outcome = _settled(found, problem, original_ms, bench, builder, trial)
    settings.progress("judging fusions")
    judge = builder.judge_fusions(outcome.best.choice, clock)
    apart = judge.apart()
    builder = replace(builder, apart=apart)
    if settings.budget.kind != "damage":  # whose limit was met by a repair that chose its own ridge
        choice, inputs = outcome.best.choice, min(len(found.data), LeastSquaresOptions.inputs)
        builder = replace(builder, ridge=trial.ridge(inputs, choice), trusted=trial.trusts(choice))
    ratio = outcome.best.ratio
    if apart:
        ratio = clock.ratio(builder.build(outcome.best.choice)).ratio
    plan = _finished(builder, outcome, damages, ratio, settings)
    told = _counts(found, market, damages, trial)
    remarks = (*found.remarks, *market.remarks, *damages.prices.remarks, told)
    remarks = (*remarks, *_beyond(found.graph.name, settings.budget.ratio(original_ms), ratio, settings))
    return replace(
        plan,
        remarks=(*remarks, *_verdicts(outcome, market.proposals), *judge.verdicts(), *trial.saved.remarks),
    )


def find_market(found: Study, settings: Settings, times: TimePrices, original_ms: float) -> Market:
    """All candidates with what they save; nothing is known yet of what they damage."""
    widths: Candidates = {
        name: candidate_widths(width.size, settings.multiple, limit=settings.candidates)
        for name, width in found.widths.items()
    }
    nodes, fixed = times.nodes(found.graph, found.axes, original_ms, widths)
    if settings.moves == "width":
        return Market(widths, nodes, fixed, (), ())
    settings.progress("looking for spans")
    graph, axes = found.graph, found.axes
    effects = find_effects(graph, axes, widths, settings)
    every_effect = len(effects)
    if settings.budget.kind != "layers":
        effects = lighter(effects, _node_macs(found))
    timed = times.others(new_nodes(effects), widths)
    full = {name: width.size for name, width in found.widths.items()}
    every = propose(effects, graph, nodes, fixed, timed, full)
    if settings.budget.kind == "layers":
        worth = shallower(every, graph)
    else:
        worth = saving(every, sum(node.at(full) for node in nodes))
    proposals, ruled_out, left = fitted(worth, graph, axes, found.fit, settings)
    text = (
        f"{len(worth)} of {every_effect} collapses would save {_unit(settings)}; {ruled_out} are beyond hope"
        f" by a bound; {len(proposals)} were fitted"
    )
    text += f", {left} are too many" if left else ""
    return Market(widths, nodes, fixed, proposals, (Remark("analysis", "depth", graph.name, text),))


def _node_macs(found: Study) -> dict[str, float]:
    """Multiply-accumulates of each node at full widths, for one input."""
    axes = found.axes
    shapes = {name: tuple(a.size for a in results[0]) for name, results in axes.values.items() if results}
    full = {dim.name: dim.size for dim in axes.dims.values()}
    batch = batch_size(found.graph)
    return {cost.node: cost.at(full) / batch for cost in macs_terms(found.graph, axes, shapes)}


def _unit(settings: Settings) -> str:
    return "layers" if settings.budget.kind == "layers" else "time"


def price_market(found: Study, market: Market, data: Data, settings: Settings) -> Prices:
    """What every candidate does to the outputs, to first order, on ``data``."""
    fits = [proposal.fit for proposal in market.proposals if proposal.fit is not None]
    settings.progress(f"pricing widths of {len(market.widths)} dims and {len(fits)} collapses")
    names = edges_of(found.widths, fits)
    inputs = probing(found.graph, found.axes, data, found.form, names)
    return price(
        found.graph, found.widths, market.widths, fits, inputs, probes=settings.probes, seed=settings.seed
    )


def expected_damages(found: Study, market: Market, trial: Trial, settings: Settings) -> Damages:
    """The damages of all candidates: prices, healed by what a few trials say."""
    prices = price_market(found, market, trial.judged, settings)
    sizes = {name: width.size for name, width in found.widths.items()}
    places = _places(found, market.proposals)
    subjects = subjects_of(prices, sizes, market.proposals, places)
    damages = Damages(prices, subjects, {}, Healing(), {})
    _settle(damages, trial, settings)
    damages = replace(damages, measured=_by_trials(prices, market, trial, settings))
    damages = heal(damages, trial, settings)
    weight = interaction_weight(prices, groups_of(prices, market.proposals), settings.seed)
    return replace(damages, weight=weight)


def _settle(damages: Damages, trial: Trial, settings: Settings) -> None:
    """Choose the ridge of trials on a choice of some mild candidates from all over the network: what is
    decided later is of that kind."""
    settings.progress("choosing the ridge of trials")
    mild = {str(key): key for key, subject in damages.subjects.items() if 0.002 <= subject.price <= 0.05}
    names = spread({name: damages.subjects[key] for name, key in mild.items()}, SETTLED)
    keys = [mild[name] for name in names]
    widths = {key[0]: key[1] for key in keys if not isinstance(key, str)}
    options = [key for key in keys if isinstance(key, str)][:1]  # others might exclude it
    if keys:
        ridge = trial.settle([Choice(widths, tuple(options))])
        how = f"trials repair with a ridge of {ridge:g}" if math.isfinite(ridge) else "trials refit nothing"
        settings.progress(how)


def _by_trials(prices: Prices, market: Market, trial: Trial, settings: Settings) -> dict[Key, float]:
    """Damages of the candidates that have no price: of dims at every width from a few trials, of collapses
    one trial each, as far as the seconds reach."""
    dims = {key[0] for key in prices.unpriced if not isinstance(key, str)}
    names = [key for key in prices.unpriced if isinstance(key, str)]
    if not dims and not names:
        return {}
    found: dict[Key, float] = {}
    tried = measure_sensitivities(trial, sorted(dims), settings.trial_seconds, settings.progress)
    for name, sensitivity in tried.items():
        found |= {(name, k): float(sensitivity.damage[k]) for k in market.widths[name][1:]}
    found |= trial.within({name: Choice({}, (name,)) for name in names}, settings.trial_seconds)
    return found


def _places(found: Study, proposals: Sequence[Proposal]) -> dict[str, float]:
    """Where dims are first held and spans end, from 0 to 1 along the program."""
    order = [node.name for node in found.graph.module.graph.nodes]
    at = {name: number / max(len(order) - 1, 1) for number, name in enumerate(order)}
    places = {proposal.end: at[proposal.end] for proposal in proposals}
    for name, width in found.widths.items():
        places[name] = min((at[reader.slot.node] for reader in width.readers), default=0.0)
    return places


def make_trial(found: Study, proposals: Sequence[Proposal], settings: Settings) -> Trial:
    """What tries choices of ``proposals`` and of the widths of ``found``."""
    fits = {proposal.name: proposal.fit for proposal in proposals if proposal.fit is not None}
    macs = evaluate(found.macs, {name: width.size for name, width in found.widths.items()})
    saved = TrialCache(settings.cache, *what_trials_depend_on(found, settings))
    return Trial(
        found.graph,
        found.axes,
        found.widths,
        found.fit,
        found.held,
        saved,
        fits,
        macs / batch_size(found.graph),
        found.metric,
    )


def _problem(found: Study, market: Market, damages: Damages, settings: Settings) -> Problem:
    problem = problem_of(damages, market.widths, market.proposals, market.nodes, evaluate(market.fixed, {}))
    if settings.budget.kind == "layers":
        return with_layers(problem, found.graph, market.proposals)
    return problem


@dataclass
class _Deciding:
    """The damages as they become better known; what the loop asks of them."""

    found: Study
    market: Market
    trial: Trial
    settings: Settings
    damages: Damages
    weight: float
    known: set[str] = field(default_factory=set[str])

    def workbench(self, builder: PlanBuilder, clock: Clock) -> Workbench:
        wholes = min(allowed(self.trial) // 3, MOST_WHOLES) * self.settings.corrections
        built: dict[str, Graph] = {}
        sizes = {name: width.size for name, width in self.found.widths.items()}

        def build(choice: Choice) -> Graph:
            key = choice.key(sizes)
            if key not in built:
                built[key] = builder.build(choice)
            return built[key]

        return Workbench(build, clock, self.trial.damage, self.learned, wholes, self.settings)

    def learned(self, choice: Choice, damage: float, number: int) -> Problem:
        """The problem once ``choice`` was found to do ``damage``: by turns as expected, with interactions,
        and as it may well be.

        Interactions come second: they foretell random plans better than sums of prices, but a search finds
        the plans whose effects cancel on the few inputs that prices are made on.
        """
        key = choice.key({name: width.size for name, width in self.found.widths.items()})
        if key not in self.known:
            self.known.add(key)
            plain = replace(self.damages, weight=0.0)
            expected = _problem(self.found, self.market, plain, self.settings).damage(choice)
            self.damages = self.damages.learning(choice, expected, damage)
        if number == 0:
            self.damages = refine(self.damages, choice, self.trial, self.settings)
        drawn = 1000 * self.settings.seed + number if number % 2 else None
        weight = self.weight if number % 3 == 2 else 0.0
        damages = replace(self.damages, drawn=drawn, weight=weight)
        return _problem(self.found, self.market, damages, self.settings)


def _settled(
    found: Study,
    problem: Problem,
    original_ms: float,
    bench: Workbench,
    builder: PlanBuilder,
    trial: Trial,
) -> Outcome:
    budget = bench.settings.budget
    most = budget.layers(depth_of(found.graph).compute)
    if most is not None:
        return by_layers(problem, most, bench)
    if budget.kind != "damage":
        return by_latency(
            problem, budget.value if budget.kind == "ratio" else budget.value / original_ms, bench
        )
    limit = budget.value if found.classifier else budget.value**2
    outcome = by_damage(problem, limit, bench, lambda choice: _damage(found, builder, choice))
    return replace(outcome, damage=trial.damage(outcome.best.choice))


def _damage(found: Study, builder: PlanBuilder, choice: Choice) -> float:
    """What ``choice``, built and repaired, does to the outputs; a network that is not handed on does most."""
    try:
        return found.damage(builder.applied(choice))
    except PlanError:
        return math.inf


def _finished(
    builder: PlanBuilder, outcome: Outcome, damages: Damages, ratio: float, settings: Settings
) -> Plan:
    """The plan of what was settled on, with what was predicted and measured of it."""
    allocation, problem = outcome.best.allocation, outcome.state.problem
    known = math.isfinite(allocation.objective)
    predictions = Predictions(
        time_ratio=ratio,
        damage=math.sqrt(outcome.damage),
        bound=allocation.bound if known else None,
        gap=allocation.gap if known else None,
        uncertainty=_factor(damages),
    )
    choice = outcome.best.choice
    actions = tuple(_action(builder.proposals[name], outcome) for name in choice.options)
    plan = builder.plan(choice, predictions, actions)
    alone = {dim.name: dict(zip(dim.widths, dim.damages, strict=True)) for dim in problem.dims}
    dims = tuple(replace(d, damage=math.sqrt(alone[d.name].get(len(d.kept), 0.0))) for d in plan.dims)
    return replace(plan, dims=dims)


def _factor(damages: Damages) -> float | None:
    """By which trials are off from what the others say of them; None where there are too few to tell."""
    residual = damages.healing.residual()
    return math.exp(min(residual, 9.0)) if math.isfinite(residual) else None


def _action(proposal: Proposal, outcome: Outcome) -> DepthAction:
    """The decision on one span: the damage it does alone, and its time before and after."""
    options = outcome.state.problem.options
    damage = next(option.damage for option in options if option.name == proposal.name)
    old, new = proposal.old_ms, proposal.new_ms
    measured = outcome.state.vetoes.get(proposal.name)
    if measured is not None:
        old, new = measured.a_ms, measured.b_ms
    return DepthAction(proposal.collapse, math.sqrt(damage), old, new)


def _beyond(name: str, asked: float | None, ratio: float, settings: Settings) -> Iterator[Remark]:
    """Why a network may be faster than was asked for: kernels work on blocks of channels, so that few times
    can be had at all where layers are few."""
    if asked is not None and ratio < asked * (1 - settings.tolerance):
        text = (
            f"{ratio:.3f}x is faster than asked for ({asked:.3f}x): of the choices that were measured"
            " within the budget none that is slower does less damage"
        )
        yield Remark("analysis", "budget", name, text, {"asked": asked, "ratio": ratio})


def _verdicts(outcome: Outcome, proposals: Sequence[Proposal]) -> Iterator[Remark]:
    """What the clock said of each merge that was built."""
    by_name = {proposal.name: proposal.collapse for proposal in proposals}
    for name, found in outcome.state.vetoes.items():
        collapse = by_name[name]
        text = f"{describe(collapse)}: {found.a_ms:.4g} → {found.b_ms:.4g} ms, all else the same"
        text += "" if found.credible_gain else ", which is no credible gain; the span stays"
        yield Remark(
            "applied" if found.credible_gain else "missed",
            "veto",
            collapse.span.name,
            text,
            {"old_ms": found.a_ms, "new_ms": found.b_ms, "low": found.low, "high": found.high},
        )


def _counts(found: Study, market: Market, damages: Damages, trial: Trial) -> Remark:
    """How many candidates there are, were priced and tried."""
    widths = sum(len(each) - 1 for each in market.widths.values())
    maps = len(market.proposals)
    priced = len(damages.prices.effects)
    factor = _factor(damages)
    text = (
        f"{widths} widths of {len(market.widths)} dims and {maps} collapses: {priced} priced by backward"
        f" passes in {damages.prices.cpu_seconds:.1f} CPU s, {trial.made} trials"
    )
    if factor is not None:
        text += f"; trials are off by a factor of {factor:.2f} from what the others say of them"
    text += f"; interactions count with a weight of {damages.weight:g}"
    if math.isinf(trial.ridge(1)):
        text += "; re-expressing what is cut does as well as any refit on the few inputs of a trial"
    figures: Mapping[str, float | int | str] = {
        "widths": widths,
        "collapses": maps,
        "priced": priced,
        "trials": trial.made,
        "uncertainty": "unknown" if factor is None else round(factor, 4),
        "weight": damages.weight,
    }
    return Remark("analysis", "prices", found.graph.name, text, figures)
