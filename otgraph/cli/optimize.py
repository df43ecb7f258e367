"""``otgraph optimize``: model and unlabeled inputs in, a measured-faster model out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from otgraph.cli import options as opt
from otgraph.cli.cache import find_cache, of_cache
from otgraph.cli.describe import describe_data, describe_model
from otgraph.cli.lazy import api, data_sources, text
from otgraph.cli.output import Output, progress
from otgraph.plan.budget import make_budget
from otgraph.remark import Remark

if TYPE_CHECKING:
    from otgraph.data import Data
    from otgraph.graph.graph import Graph
    from otgraph.optimize.run import Optimized

Evaluation = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Inputs of the final audit; by default a part of --calib that is kept from everything else.",
        rich_help_panel=opt.DATA,
    ),
]
PlanOut = Annotated[
    Path | None,
    typer.Option("--plan-out", metavar="FILE", help="Also write the plan.", rich_help_panel=opt.OUTPUT),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="MODULE:CALLABLE",
        help="A measure of your own for the final audit.",
        rich_help_panel=opt.DATA,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE", help="Also write the audit as HTML.", rich_help_panel=opt.OUTPUT
    ),
]


def optimize(
    *,
    model: opt.Model,
    calib: opt.Calibration,
    output: opt.Out,
    latency: opt.Latency = None,
    layers: opt.Layers = None,
    max_drop: opt.MaxDrop = None,
    keep: opt.Keep = None,
    dims: opt.DimsOption = opt.Dims.ALL,
    depth_only: opt.DepthOnly = False,
    width_only: opt.WidthOnly = False,
    task: opt.TaskOption = opt.Task.AUTO,
    engine: opt.Engine = "onnxruntime",
    threads: opt.Threads = 1,
    criterion: opt.Criterion = None,
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    multiple: opt.Multiple = 8,
    samples: opt.Samples = None,
    data: Evaluation = None,
    metric: Metric = None,
    shape: opt.Shapes = None,
    refit_all: opt.Refit = False,
    plan_out: PlanOut = None,
    report: Report = None,
    seed: opt.Seed = 0,
    remarks: opt.Remarks = False,
    json: opt.Json = False,
) -> None:
    """Make MODEL faster, measure the result, and write it.

    Give one of --latency, --layers, --max-drop and --keep. Widths are cut and layers replaced together,
    unless --width-only or --depth-only is given. Where no credible gain is measured the original is written.
    A stated --latency, --layers or --max-drop that is missed ends with exit code 1.

    Figures come from inputs that nothing was fitted on: a fifth of --calib is kept for them, or where it is
    few, all judge in turn, each a repair that left it out.

    Example: otgraph optimize net.onnx --calib calib.npz --latency 0.6x -o small.onnx
    """
    budget = make_budget(latency, max_drop, keep, layers)
    moves = opt.read_moves(depth_only=depth_only, width_only=width_only, keep=keep, layers=layers)
    shapes = opt.read_shapes(shape)
    opt.check_model_output(output, model=model)
    opt.check_outputs(output, plan_out, report, model=model, calib=calib, data=data)
    out = Output(json)
    calibration = opt.read_calibration(calib, samples, seed)
    evaluation = None if data is None else data_sources.load_data(data)
    graph = api.load_model(model, shapes)
    say_inputs(out, model, graph, calibration, evaluation, samples)
    cache, noted = find_cache()
    with progress() as show:
        settings = api.Settings(
            budget,
            dims=dims.value,
            moves=moves,
            task=task.value,
            engine=engine,
            threads=threads,
            criterion=criterion or api.DEFAULT_CRITERION,
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            multiple=multiple,
            seed=seed,
            refit=refit_all,
            cache=cache,
            progress=show,
            on_reading=out.reading,
        )
        optimized = api.optimize(
            graph, calibration, settings, evaluation=evaluation, metric=metric, names=(model, str(output))
        )
    written = write(optimized, graph, output, plan_out, report)
    out.remarks((*noted, *written))
    say_outcome(out, optimized, str(output), every_remark=remarks)
    result = document("optimize", optimized, output, written)
    result["remarks"] += [remark.to_json() for remark in noted]
    out.result(result)
    asked = any(each is not None for each in (latency, layers, max_drop))
    raise typer.Exit(exit_code(optimized, asked=asked))


def say_inputs(
    out: Output,
    model: str,
    graph: Graph,
    calibration: Data,
    evaluation: Data | None,
    samples: int | None = None,
) -> None:
    """What is read, and how many calibration samples were asked for."""
    out.say(describe_model(model, graph))
    out.say(describe_data("calib", calibration, samples))
    if evaluation is not None:
        out.say(describe_data("data ", evaluation))


def write(
    optimized: Optimized, original: Graph, output: Path | None, plan_out: Path | None, report: Path | None
) -> Sequence[Remark]:
    """Write the model (the original where nothing was gained), and what else was asked for. What there is to
    know of the model's file is returned."""
    said: Sequence[Remark] = ()
    if output is not None:
        said = (optimized.graph if optimized.credible else original).save(output)
    if plan_out is not None:
        optimized.plan.save(plan_out)
    if report is not None:
        optimized.audit.save_html(report)
    return said


def say_outcome(out: Output, optimized: Optimized, output: str | None, *, every_remark: bool) -> None:
    """The plan, the audit, and what was written."""
    out.say("")
    out.say(str(optimized.plan))
    out.say("")
    shown = [
        remark for remark in optimized.remarks if every_remark or remark.kind == "failure" or of_cache(remark)
    ]
    out.remarks(shown)
    out.say(text.summary(optimized.audit))
    if optimized.missed is not None:
        out.say(Text(f"missed: {optimized.missed}", style="bold red"))
    if not optimized.credible:
        kept = f"; {output} is the original" if output else ""
        out.say(f"no credible gain: the original is kept{kept}")
    elif output:
        out.say(f"wrote {output}")


def document(
    command: str, optimized: Optimized, output: Path | None, written: Sequence[Remark] = ()
) -> dict[str, Any]:
    """The result as JSON; ``written``: what there is to know of the model's file."""
    return {
        "command": command,
        "output": None if output is None else str(output),
        "credible": optimized.credible,
        "missed": optimized.missed,
        "plan": optimized.plan.to_json(),
        "audit": optimized.audit.to_json(),
        "cost": vars(optimized.cost),
        "remarks": [remark.to_json() for remark in (*optimized.remarks, *written)],
    }


def exit_code(optimized: Optimized, *, asked: bool) -> int:
    """1 where a stated threshold was missed (it was not reached, or nothing at all was gained), or a check
    failed and something was taken back."""
    missed = asked and (optimized.missed is not None or not optimized.credible)
    undone = any(remark.kind == "failure" for remark in optimized.remarks)
    return 1 if missed or undone or not optimized.audit.passed else 0
