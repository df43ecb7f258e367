"""``otgraph demo``: the embedded sample, from a trained network to the audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otgraph.cli import options as opt
from otgraph.cli.lazy import api, data_sources
from otgraph.cli.optimize import document, exit_code, say_inputs, say_outcome, write
from otgraph.cli.output import Output, progress
from otgraph.plan.budget import make_budget
from otgraph.sample import calibration_path, model_path, test_path

OptionalOut = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="OUT", help="Also write the faster .onnx model.", rich_help_panel=opt.OUTPUT
    ),
]
DemoLatency = Annotated[
    str,
    typer.Option(
        "--latency",
        metavar="0.6x|8ms",
        help="The latency to reach, relative or absolute.",
        rich_help_panel=opt.BUDGET,
    ),
]


def demo(
    *, latency: DemoLatency = "0.6x", output: OptionalOut = None, seed: opt.Seed = 0, json: opt.Json = False
) -> None:
    """Optimize the embedded digit classifier to a budget and audit it on its labeled test images."""
    budget = make_budget(latency)
    model = str(model_path())
    if output is not None:
        opt.check_model_output(output, model=model)
    out = Output(json)
    calibration, test = (data_sources.load_data(str(path())) for path in (calibration_path, test_path))
    graph = api.load_model(model, {})
    say_inputs(out, Path(model).name, graph, calibration, test)
    names = (Path(model).name, None if output is None else str(output))
    with progress() as show:
        settings = api.Settings(budget, seed=seed, progress=show, on_reading=out.reading)
        optimized = api.optimize(graph, calibration, settings, evaluation=test, names=names)
    written = write(optimized, graph, output, None, None)
    out.remarks(written)
    say_outcome(out, optimized, None if output is None else str(output), every_remark=False)
    out.result(document("demo", optimized, output, written))
    raise typer.Exit(exit_code(optimized, asked=True))
