"""``otgraph run``: any pipeline on a model, as ``mlir-opt`` does."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otgraph.cli import options as opt
from otgraph.cli.describe import describe_model
from otgraph.cli.lazy import api, data_sources
from otgraph.cli.output import Output, plain_table, progress

if TYPE_CHECKING:
    from rich.table import Table

    from otgraph.remark import Remark
    from otgraph.rewrite.manager import Record, Result


class OnFailure(StrEnum):
    """What to do about a pass that breaks its claim."""

    RAISE = "raise"
    UNDO = "undo"


Pipeline = Annotated[
    str,
    typer.Option(
        "-p",
        "--pipeline",
        metavar="PASSES",
        help='Such as "fold-batch-norm,prune-channels{keep=0.5}"; see `otgraph passes`.',
        show_default=False,
        rich_help_panel=opt.CHANGE,
    ),
]
OptionalCalibration = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help=f"For passes that need inputs. {opt.DATA_HELP}",
        rich_help_panel=opt.DATA,
    ),
]
OnFailureOption = Annotated[
    OnFailure,
    typer.Option(
        "--on-failure",
        help="A pass that breaks its claim: stop, or undo it, go on and exit with 1.",
        rich_help_panel=opt.EXPERT,
    ),
]
SaveFailing = Annotated[
    Path | None,
    typer.Option(
        "--save-failing",
        metavar="FOLDER",
        file_okay=False,
        help="Keep what reproduces a failing pass there.",
        rich_help_panel=opt.EXPERT,
    ),
]


def run(
    *,
    model: opt.Model,
    pipeline: Pipeline,
    output: opt.Out,
    calib: OptionalCalibration = None,
    shape: opt.Shapes = None,
    on_failure: OnFailureOption = OnFailure.RAISE,
    save_failing: SaveFailing = None,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Run passes on MODEL, each checked against its claim, and write the result.

    Example: otgraph run net.onnx -p "fold-batch-norm,cleanup" -o folded.onnx
    """
    shapes = opt.read_shapes(shape)
    opt.check_model_output(output, model=model, calib=calib)
    out = Output(json)
    calibration = None if calib is None else data_sources.load_data(calib)
    graph = api.load_model(model, shapes)
    out.say(describe_model(model, graph))
    with progress() as show:
        show(pipeline)
        result = api.run_pipeline(
            graph, pipeline, calibration, seed=seed, on_failure=on_failure.value, save_failing=save_failing
        )
    written = result.graph.save(output)
    out.remarks((*result.remarks, *written))
    out.say(_records(result))
    out.say(f"wrote {output}")
    out.result(_document(result, output, written))
    raise typer.Exit(1 if result.undone or result.spared else 0)


def _records(result: Result) -> Table:
    table = plain_table("pass", "edits", "CPU s", "check")
    for record in result.records:
        table.add_row(record.step, str(record.edits), f"{record.cpu_seconds:.2f}", _check(record))
    return table


def _check(record: Record) -> str:
    if record.check is None:
        return "undone"
    error = "" if record.check.error is None else f", relative error {record.check.error:.1e}"
    whole = f", {len(record.spared)} dims left whole" if record.spared else ""
    return f"{record.check.claim}{error}{whole}"


def _document(result: Result, output: Path, written: Sequence[Remark]) -> dict[str, Any]:
    records = [
        {**vars(record), "check": None if record.check is None else vars(record.check)}
        for record in result.records
    ]
    return {
        "command": "run",
        "output": str(output),
        "undone": list(result.undone),
        "spared": list(result.spared),
        "records": records,
        "remarks": [remark.to_json() for remark in (*result.remarks, *written)],
    }
