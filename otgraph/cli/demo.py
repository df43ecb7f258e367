"""``otgraph demo``: the embedded sample, from a trained network to the audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otgraph.cli import options as opt
from otgraph.cli.lazy import load_api
from otgraph.cli.optimize import document, exit_code, say_inputs, say_outcome, write
from otgraph.cli.output import Output, progress
from otgraph.data_sources import load_data
from otgraph.plan.budget import make_budget
from otgraph.sample import calibration_path, model_path, test_path

OptionalOut = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="OUT", help="Also write the faster .onnx model.")
]
DemoLatency = Annotated[
    str, typer.Option("--latency", metavar="0.6x|8ms", help="The latency to reach, relative or absolute.")
]


def demo(
    *, latency: DemoLatency = "0.6x", output: OptionalOut = None, seed: opt.Seed = 0, json: opt.Json = False
) -> None:
    """Optimize the embedded digit classifier to a budget and audit it on its labeled test images."""
    make_budget(latency)
    model = str(model_path())
    if output is not None:
        opt.check_model_output(output, model=model)
    out = Output(json)
    calibration, test = load_data(str(calibration_path())), load_data(str(test_path()))
    api = load_api()
    graph = api.load_model(model, {})
    say_inputs(out, Path(model).name, graph, calibration, test)
    with progress() as show:
        optimized = api.optimize(
            graph,
            calibration,
            evaluation=test,
            latency=latency,
            seed=seed,
            progress=show,
            on_reading=out.reading,
        )
    written = write(optimized, graph, output, None, None)
    out.remarks(written)
    say_outcome(out, optimized, None if output is None else str(output), every_remark=False)
    out.result(document("demo", optimized, output, written))
    raise typer.Exit(exit_code(optimized, asked=True))
