"""How the outputs are to be read, carried into the pipeline of a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from otgraph.calibrate.divergence import Task
from otgraph.rewrite.contract import Pass
from otgraph.rewrite.options import option_names
from otgraph.rewrite.pipeline import format_pipeline, parse_pipeline


def with_task(pipeline: str, task: Task) -> str:
    """``pipeline`` with every pass that judges outputs told how to read them; as it is with ``auto``.

    So a plan that is applied later, without the options it was made with, judges as it was asked to.
    """
    if task == "auto":
        return pipeline
    return format_pipeline([_told(step, task) for step in parse_pipeline(pipeline)])


def _told(step: Pass, task: Task) -> Pass:
    return replace(cast("Any", step), task=task) if "task" in option_names(type(step)) else step
