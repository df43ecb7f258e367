"""What a plan tells the passes of its pipeline: how the outputs are to be read, which is decided before
anything else, and the ridge of repairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from otgraph.calibrate.reading import read_graph
from otgraph.data_model import ModelData
from otgraph.graph.graph import Graph
from otgraph.optimize.settings import Settings
from otgraph.plan.apply import REEXPRESSION
from otgraph.rewrite.contract import Pass
from otgraph.rewrite.options import option_names
from otgraph.rewrite.pipeline import format_pipeline, parse_pipeline
from otgraph.task import Task, check_task


def decided(graph: Graph, data: ModelData, settings: Settings) -> Settings:
    """``settings`` with ``reading`` found and ``task`` one of the two; as they are where that is done.

    Whoever called for the settings is told at once (``Settings.on_reading``): a wrong reading should cost
    seconds, not a run.

    Raises:
        UsageError: there is no such task, or the outputs have no shape that suits it.
    """
    if settings.reading is not None:
        return settings
    reading = read_graph(graph, data, check_task(settings.task))
    settings.on_reading(reading)
    return replace(settings, reading=reading, task=reading.task)


def with_task(pipeline: str, task: Task) -> str:
    """``pipeline`` with every pass that judges outputs told how to read them; as it is with ``auto``.

    So a plan that is applied later, without the options it was made with, judges as it was asked to.
    """
    if task == "auto":
        return pipeline
    return format_pipeline([_told(step, task) for step in parse_pipeline(pipeline)])


def with_ridge(pipeline: str, ridge: float | None, *, trusted: bool = False) -> str:
    """``pipeline`` with every repair that would look for a ridge told which to use; as it is with None, or
    where it does not re-express channels as trials do. At an infinite ridge nothing is refitted: such repairs
    are left out. ``trusted``: to be carried out in full, with nothing held out to judge that."""
    steps = parse_pipeline(pipeline)
    if ridge is None or not any(step.name == REEXPRESSION for step in steps):
        return pipeline
    given = [_given(step, ridge, {"strength": 1.0} if trusted else {}) for step in steps]
    return format_pipeline([step for step in given if step is not None])


def _given(step: Pass, ridge: float, more: Mapping[str, float]) -> Pass | None:
    some: Any = step
    options = option_names(type(step))
    if "ridge" not in options or some.ridge != 0:
        return step
    if math.isinf(ridge):
        return None
    known = {name: value for name, value in more.items() if name in options}
    return replace(some, ridge=float(f"{ridge:.2g}"), **known)


def _told(step: Pass, task: Task) -> Pass:
    return replace(cast("Any", step), task=task) if "task" in option_names(type(step)) else step
