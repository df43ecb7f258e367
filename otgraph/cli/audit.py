"""``otgraph audit``: B measured against A."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otgraph.cli import options as opt
from otgraph.cli.lazy import data_digest, data_sources, measurer_of, text
from otgraph.cli.output import Output, progress
from otgraph.errors import PlanError
from otgraph.files import kind_of, why_no_file

if TYPE_CHECKING:
    from otgraph.data_digest import Sketch

First = Annotated[
    str, typer.Argument(metavar="A", help=f"The original. {opt.MODEL_HELP}", show_default=False)
]
Second = Annotated[str, typer.Argument(metavar="B", help="The model to hold against it.", show_default=False)]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help=f"Inputs to compare on. {opt.DATA_HELP}",
        show_default=False,
        rich_help_panel=opt.DATA,
    ),
]
MinSpeedup = Annotated[
    float | None,
    typer.Option(
        "--min-speedup",
        min=0,
        help="Exit with 1 unless B is this many times faster, with 95 % confidence.",
        rich_help_panel=opt.THRESHOLDS,
    ),
]
MaxDrift = Annotated[
    float | None,
    typer.Option(
        "--max-drift",
        min=0,
        help="Exit with 1 when the outputs differ more: KL or relative L2.",
        rich_help_panel=opt.THRESHOLDS,
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="MODULE:CALLABLE",
        help="A measure of your own on the outputs.",
        rich_help_panel=opt.DATA,
    ),
]
EngineB = Annotated[
    str | None,
    typer.Option(
        "--engine-b", help="What runs B, where that is another than what runs A.", rich_help_panel=opt.ENGINE
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="The plan that B was made by: tells which of DATA it knows.",
        rich_help_panel=opt.DATA,
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Also write the audit as HTML.", rich_help_panel=opt.OUTPUT),
]


def audit(
    *,
    a: First,
    b: Second,
    data: DataOption,
    engine: opt.AnyEngine = None,
    engine_b: EngineB = None,
    cuda_graph: opt.CudaGraph = False,
    threads: opt.Threads = 1,
    min_speedup: MinSpeedup = None,
    max_drift: MaxDrift = None,
    metric: Metric = None,
    task: opt.TaskOption = opt.Task.AUTO,
    plan: PlanFile = None,
    html: Html = None,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Measure B against A: latency with its confidence, fidelity, size, operations.

    A threshold that is missed ends with exit code 1. Where B was made by otgraph, the audit says how many of
    the inputs it was fitted on.

    Example: otgraph audit net.onnx small.onnx --data test.npz --min-speedup 1.5 --html report.html
    """
    opt.check_outputs(html, a=a, b=b, data=data, plan=plan)
    out = Output(json)
    fitted_on = None if plan is None else _fitted_on(plan)
    samples = data_sources.load_data(data)
    with progress() as show:
        show(f"measuring {b} against {a}")
        found = measurer_of([a, b]).audit(
            a,
            b,
            samples,
            engine=engine,
            engine_b=engine_b,
            cuda_graph=cuda_graph,
            threads=threads,
            min_speedup=min_speedup,
            max_drift=max_drift,
            metric=metric,
            task=task.value,
            on_reading=out.reading,
            fitted_on=fitted_on,
            seed=seed,
        )
    if html is not None:
        found.save_html(html)
    out.say(text.summary(found))
    if html is not None:
        out.say(f"wrote {html}")
    out.result({"command": "audit", **found.to_json()})
    raise typer.Exit(0 if found.passed else 1)


def _fitted_on(path: Path) -> Sketch:
    """The samples that a plan names, read without what it takes to carry the plan out (torch).

    Raises:
        PlanError: ``path`` is no plan file, or its plan does not tell.
    """
    if kind_of(path) is not None:
        raise PlanError(f"{path}: {why_no_file(path)} that otgraph plan wrote")
    try:
        document: Any = json_text.loads(path.read_text(encoding="utf-8"))
        calibration = document["calibration"]
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror}); give a plan file") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PlanError(f"{path}: is no plan; give a file that otgraph plan wrote") from error
    named = calibration.get("samples") if isinstance(calibration, dict) else None
    sketch = data_digest.Sketch.parse(named) if isinstance(named, str) else None
    if sketch is None:
        raise PlanError(f"{path}: does not tell which samples it was made with; make the plan again")
    return sketch
