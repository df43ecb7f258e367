"""``otgraph audit``: B measured against A."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otgraph.audit.text import summary
from otgraph.cli import options as opt
from otgraph.cli.lazy import load_for
from otgraph.cli.output import Output, progress
from otgraph.data_sources import load_data

First = Annotated[
    str, typer.Argument(metavar="A", help=f"The original. {opt.MODEL_HELP}", show_default=False)
]
Second = Annotated[str, typer.Argument(metavar="B", help="The model to hold against it.", show_default=False)]
DataOption = Annotated[
    str,
    typer.Option("--data", metavar="DATA", help=f"Inputs to compare on. {opt.DATA_HELP}", show_default=False),
]
MinSpeedup = Annotated[
    float | None,
    typer.Option(
        "--min-speedup", min=0, help="Exit with 1 unless B is this many times faster, with 95 % confidence."
    ),
]
MaxDrift = Annotated[
    float | None,
    typer.Option("--max-drift", min=0, help="Exit with 1 when the outputs differ more: KL or relative L2."),
]
Metric = Annotated[
    str | None,
    typer.Option("--metric", metavar="MODULE:CALLABLE", help="A measure of your own on the outputs."),
]
EngineB = Annotated[
    str | None, typer.Option("--engine-b", help="What runs B, where that is another than what runs A.")
]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write the audit as HTML.")]


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
    html: Html = None,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Measure B against A: latency with its confidence, fidelity, size, operations.

    A threshold that is missed ends with exit code 1.

    Example: otgraph audit net.onnx small.onnx --data test.npz --min-speedup 1.5 --html report.html
    """
    opt.check_outputs(html)
    out = Output(json)
    samples = load_data(data)
    with progress() as show:
        show(f"measuring {b} against {a}")
        found = load_for([a, b]).audit(
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
            seed=seed,
        )
    if html is not None:
        found.save_html(html)
    out.say(summary(found))
    if html is not None:
        out.say(f"wrote {html}")
    out.result({"command": "audit", **found.to_json()})
    raise typer.Exit(0 if found.passed else 1)
