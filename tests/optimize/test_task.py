"""What the user says about the outputs reaches every pass that judges them, and stays in the plan."""

from __future__ import annotations

import pytest

from otgraph.optimize.task import with_task
from otgraph.rewrite.catalogue import load_catalogue, load_pipelines
from otgraph.rewrite.options import option_names
from otgraph.rewrite.pipeline import parse_pipeline


def test_auto_leaves_the_pipeline_as_it_is_written() -> None:
    assert with_task("apply", "auto") == "apply"


@pytest.mark.parametrize("task", ["classifier", "regression"])
def test_every_pass_that_judges_is_told(task: str) -> None:
    told = parse_pipeline(with_task(load_pipelines()["apply"], task))  # type: ignore[arg-type]
    before = parse_pipeline("apply")
    assert [step.name for step in told] == [step.name for step in before]
    judges = [step for step in told if "task" in option_names(type(step))]
    assert {"repair-least-squares", "repair-moments"} <= {step.name for step in judges}
    assert all(getattr(step, "task") == task for step in judges)  # noqa: B009  (no attribute of Pass)
    assert [step for step in told if step not in judges] == [
        step for step in before if "task" not in option_names(type(step))
    ]


def test_every_pass_that_repairs_can_be_told() -> None:
    catalogue = load_catalogue()
    repairs = [name for name in catalogue if name.startswith("repair-")]
    assert repairs and all("task" in option_names(catalogue[name]) for name in repairs)


def test_other_options_stay() -> None:
    text = with_task("repair-moments{inputs=64},cleanup", "regression")
    assert text == "repair-moments{inputs=64 task=regression},cleanup"
