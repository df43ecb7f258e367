"""``otgraph plan`` and ``otgraph apply``: the halves of ``optimize``, with a file to review in between."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otgraph.cli import options as opt
from otgraph.cli.cache import find_cache, of_cache
from otgraph.cli.describe import describe_data, describe_model
from otgraph.cli.lazy import api, data_sources
from otgraph.cli.output import Output, progress
from otgraph.plan.budget import make_budget

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A file that `otgraph plan` wrote.")]
PlanOut = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="The plan.json to write.",
        show_default=False,
        rich_help_panel=opt.OUTPUT,
    ),
]
OptionalCalibration = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="Inputs for the repairs; by default those that the plan names.",
        rich_help_panel=opt.DATA,
    ),
]


def plan(
    *,
    model: opt.Model,
    calib: opt.Calibration,
    output: PlanOut,
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
    shape: opt.Shapes = None,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Decide what to remove from MODEL, without editing anything, and write the plan.

    Give one of --latency, --layers, --max-drop and --keep. Widths are cut and layers replaced together,
    unless --width-only or --depth-only is given.

    Example: otgraph plan net.onnx --calib calib.npz --latency 0.6x -o plan.json
    """
    budget = make_budget(latency, max_drop, keep, layers)
    moves = opt.read_moves(depth_only=depth_only, width_only=width_only, keep=keep, layers=layers)
    shapes = opt.read_shapes(shape)
    opt.check_outputs(output, model=model, calib=calib)
    out = Output(json)
    calibration = opt.read_calibration(calib, samples, seed)
    graph = api.load_model(model, shapes)
    out.say(describe_model(model, graph))
    out.say(describe_data("calib", calibration, samples))
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
            cache=cache,
            progress=show,
            on_reading=out.reading,
        )
        made = api.make_plan(graph, calibration, settings)
    made.save(output)
    out.say("")
    out.say(str(made))
    said = [*made.remarks, *noted]
    out.remarks(filter(of_cache, said))
    out.say(f"wrote {output}")
    listed = [remark.to_json() for remark in said]
    out.result({"command": "plan", "output": str(output), "plan": made.to_json(), "remarks": listed})


def apply(
    *,
    model: opt.Model,
    plan: PlanFile,
    output: opt.Out,
    calib: OptionalCalibration = None,
    shape: opt.Shapes = None,
    remarks: opt.Remarks = False,
    json: opt.Json = False,
) -> None:
    """Carry out PLAN on the MODEL it was made for, and write the result.

    Example: otgraph apply net.onnx plan.json -o small.onnx
    """
    shapes = opt.read_shapes(shape)
    opt.check_model_output(output, model=model, plan_file=plan, calib=calib)
    out = Output(json)
    calibration = None if calib is None else data_sources.load_data(calib)
    made = api.Plan.load(plan)
    graph = api.load_model(model, shapes)
    out.say(describe_model(model, graph))
    out.say(str(made))
    with progress() as show:
        show("applying the plan")
        applied = made.apply(graph, calibration)
    written = applied.save(output)
    said = [remark for remark in applied.remarks if remark not in graph.remarks]
    shown = (r for r in said if remarks or r.kind == "failure" or (r.kind, r.source) == ("missed", "plan"))
    out.remarks((*shown, *written))
    out.say(f"wrote {output}")
    out.result(
        {
            "command": "apply",
            "output": str(output),
            "remarks": [remark.to_json() for remark in (*said, *written)],
        }
    )
    raise typer.Exit(1 if any(remark.kind == "failure" for remark in said) else 0)
