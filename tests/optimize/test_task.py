"""What the user says about the outputs reaches every pass that judges them, and stays in the plan."""

from __future__ import annotations

import math

import pytest

from otgraph.optimize.task import with_ridge, with_task
from otgraph.rewrite.catalog import load_catalog, load_pipelines
from otgraph.rewrite.options import option_names
from otgraph.rewrite.pipeline import format_pipeline, parse_pipeline


def test_auto_leaves_the_pipeline_as_it_is_written() -> None:
    assert with_task("apply", "auto") == "apply"


@pytest.mark.parametrize("task", ["classifier", "regression"])
def test_every_pass_that_judges_is_told(task: str) -> None:
    before = parse_pipeline(load_pipelines()["apply"] + ",repair-moments")
    told = parse_pipeline(with_task(format_pipeline(before), task))  # type: ignore[arg-type]
    assert [step.name for step in told] == [step.name for step in before]
    judges = [step for step in told if "task" in option_names(type(step))]
    assert {"repair-least-squares", "repair-moments"} <= {step.name for step in judges}
    assert all(getattr(step, "task") == task for step in judges)  # noqa: B009  (no attribute of Pass)
    assert [step for step in told if step not in judges] == [
        step for step in before if "task" not in option_names(type(step))
    ]


def test_every_pass_that_repairs_can_be_told() -> None:
    catalog = load_catalog()
    repairs = [name for name in catalog if name.startswith("repair-")]
    assert repairs and all("task" in option_names(catalog[name]) for name in repairs)


def test_a_repair_that_would_look_for_a_ridge_is_told_the_one_of_the_trials() -> None:
    assert with_ridge("apply", None) == "apply"
    told = "reexpress-channels,repair-least-squares{ridge=2.0}"
    undecided = f"{told},repair-least-squares{{inputs=64}}"
    assert with_ridge(undecided, 0.01234) == f"{told},repair-least-squares{{inputs=64 ridge=0.012}}"
    trusted = f"{told},repair-least-squares{{inputs=64 ridge=0.012 strength=1.0}}"
    assert with_ridge(undecided, 0.01234, trusted=True) == trusted
    assert with_ridge(undecided, math.inf) == told


@pytest.mark.parametrize("ridge", [0.1, math.inf])
def test_a_pipeline_that_does_otherwise_than_trials_is_left_alone(ridge: float) -> None:
    text = "prune-channels,repair-least-squares"
    assert with_ridge(text, ridge, trusted=True) == text


def test_other_options_stay() -> None:
    text = with_task("repair-moments{inputs=64},cleanup", "regression")
    assert text == "repair-moments{inputs=64 task=regression},cleanup"
