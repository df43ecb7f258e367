"""What is found out about a model before anything is decided: dims, curves, sensitivities, costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from otgraph.allocate.cost import Term
from otgraph.calibrate.divergence import output_divergence
from otgraph.calibrate.feeds import feeds
from otgraph.calibrate.metric import Form, OutputMetric, form_of
from otgraph.calibrate.width import Width, analyze_width
from otgraph.data import Data
from otgraph.data_model import ModelData
from otgraph.errors import DataError, UsageError
from otgraph.graph.axes.analysis import analyze, with_protected
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.axes.legal import legalize
from otgraph.graph.graph import Graph
from otgraph.graph.half import half_weight
from otgraph.graph.specs import bind
from otgraph.optimize.settings import Settings
from otgraph.optimize.task import decided
from otgraph.plan.calibration import data_digest
from otgraph.plan.fingerprint import fingerprint_graph
from otgraph.pricing.macs import macs_terms
from otgraph.remark import Remark
from otgraph.transport.coupling import Coupling

METRIC_INPUTS = 64
"""Inputs that the outputs' own energy is taken on."""


@dataclass(frozen=True, eq=False)
class Study:
    """What is known of a network before anything is decided.

    ``fit`` and ``held`` are the first and the last part of ``data`` (a stretch, so that inputs of one source
    do not lie on both sides when they come in order): where there are trials, channels are chosen and repairs
    fitted on the one and judged on the other, since channels that are redundant on the inputs they were
    chosen on need not be so on others.
    """

    graph: Graph
    """The network as it is."""
    axes: AxisMap
    """Its axes; dims that the settings leave out are blocked."""
    widths: Mapping[str, Width]
    """The dims to decide on, by name, with what keeping k channels costs."""
    data: ModelData
    """All inputs that may be fitted on."""
    fit: ModelData
    """Those that are fitted on while there are trials."""
    held: ModelData
    """Those that trials are judged on."""
    macs: tuple[Term, ...]
    """Multiply-accumulates of the network as a polynomial in the widths."""
    classifier: bool
    """Whether damage is KL; else it is relative L2."""
    form: Form
    """How candidates are priced and tried."""
    metric: OutputMetric
    """The same bound to the outputs of ``held``."""
    remarks: tuple[Remark, ...]
    """What is to be told of all this."""

    def couplings(self, kept_counts: Mapping[str, int], *, certified: bool = False) -> dict[str, Coupling]:
        """Which channels stay, and where the others' mass goes, for widths by dim; full dims are left out."""
        masks = {
            name: _mask(self.widths[name], k) for name, k in kept_counts.items() if k < self.widths[name].size
        }
        legal = legalize(self.axes, masks)
        return {
            name: self.widths[name].coupling(np.flatnonzero(mask), certified=certified)
            for name, mask in legal.items()
            if not mask.all()
        }

    def damage(self, candidate: Graph) -> float:
        """The additive damage of ``candidate`` on the held-out inputs."""
        inputs = list(feeds(self.graph, self.held))
        outputs = ([graph(*feed) for feed in inputs] for graph in (self.graph, candidate))
        found = output_divergence(*outputs, task="classifier" if self.classifier else "regression")
        return found.damage if self.classifier else found.damage**2


def study(graph: Graph, data: Data, settings: Settings) -> Study:
    """Analyze the axes, calibrate, and compute the curves.

    Raises:
        DataError: the data do not fit the model. UsageError: the weights are in float16, or the rules leave
            no dim to cut.
    """
    half = half_weight(graph)
    if half is not None:
        raise UsageError(
            f"{graph.name}: weight {half} is in float16; optimize the float32 model, then build it with"
            " --precision fp16"
        )
    data = bind(data, graph)
    settings = decided(graph, data, settings)
    settings.progress("analyzing the axes")
    graph = graph.with_example(_example(graph, data))
    axes = analyze(graph)
    deep = settings.moves == "depth" or settings.budget.kind == "layers"  # no width shortens a path
    chosen = set[str]() if deep else {dim.name for dim in settings.selected(axes)}
    left = {dim.name: "left out by the rules" for dim in axes.prunable() if dim.name not in chosen}
    axes = with_protected(axes, left)
    fit, held = _split(data, settings)
    seen = data if settings.budget.kind == "keep" else fit
    seen = fit.take(1) if deep else seen  # there is no dim to look at
    settings.progress(f"calibrating on {len(seen)} inputs")
    outputs = [graph(*feed) for feed in feeds(graph, held.take(METRIC_INPUTS, settings.seed), 16)]
    classifier = settings.task == "classifier"
    form = form_of(outputs, settings.form if classifier else "values")
    found = analyze_width(graph, axes, seen, settings.criterion, settings.seed, settings.batch_size, form)
    if not found.widths and not deep:
        raise UsageError(f"{graph.name}: no dim could be calibrated; see inspect --blockers")
    axes = with_protected(axes, dict.fromkeys(chosen - found.widths.keys(), "not calibrated"))
    shapes = {name: tuple(a.size for a in results[0]) for name, results in axes.values.items() if results}
    terms = tuple(term for cost in macs_terms(graph, axes, shapes) for term in cost.terms)
    metric = OutputMetric.of(outputs, form)
    remarks = (*axes.remarks, *found.remarks)
    return Study(graph, axes, found.widths, data, fit, held, terms, classifier, form, metric, remarks)


def what_trials_depend_on(found: Study, settings: Settings) -> tuple[str, ...]:
    """All that a trial's figure hangs on; kept figures are only for equal ones."""
    return (
        fingerprint_graph(found.graph).digest,
        data_digest(found.fit),
        data_digest(found.held),
        settings.criterion,
        found.form,
        str(settings.seed),
        torch.__version__,
        "11",  # raised whenever a trial is made in another way
    )


def _example(graph: Graph, data: ModelData) -> tuple[torch.Tensor, ...]:
    """Two of the user's own inputs: dynamic axes then have sizes that occur."""
    return next(feeds(graph, data, 2), graph.example)


def _split(data: ModelData, settings: Settings) -> tuple[ModelData, ModelData]:
    if len(data) < 4:
        raise DataError(
            f"{data.source}: holds {len(data)} samples; give at least 4, a few hundred are better"
        )
    return data.halves(1 - settings.held_out)


def _mask(width: Width, k: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    mask = np.zeros(width.size, bool)
    mask[width.choose(k)] = True
    return mask
