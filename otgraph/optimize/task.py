"""What a plan tells the passes of its pipeline: how the outputs are to be read, which is decided before
anything else, and the ridge of repairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from otgraph.calibrate.reading import read_graph
from otgraph.data_model import ModelData
from otgraph.graph.graph import Graph
from otgraph.optimize.settings import Settings
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


def with_ridge(pipeline: str, ridge: float | None) -> str:
    """``pipeline`` with every repair that would look for a ridge told which to use; as it is with None."""
    if ridge is None:
        return pipeline
    return format_pipeline([_given(step, float(f"{ridge:.2g}")) for step in parse_pipeline(pipeline)])


def _given(step: Pass, ridge: float) -> Pass:
    some: Any = step
    undecided = "ridge" in option_names(type(step)) and some.ridge == 0
    return replace(some, ridge=ridge) if undecided else step


def _told(step: Pass, task: Task) -> Pass:
    return replace(cast("Any", step), task=task) if "task" in option_names(type(step)) else step
