"""``otgraph build`` and ``otgraph bench``: an engine artifact, and its latency."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from otgraph.audit.quantities import amount
from otgraph.cli import options as opt
from otgraph.cli.lazy import load_api
from otgraph.cli.output import Output, progress
from otgraph.data_sources import load_data

Artifact = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE", help="The artifact to write.", show_default=False)
]
ModelOrArtifact = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help=f"{opt.MODEL_HELP} Or what `otgraph build` wrote.", show_default=False
    ),
]
Inputs = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="Inputs to time with, the first sample; random by default."),
]


def build(
    *,
    model: opt.Model,
    output: Artifact,
    engine: opt.Engine = "onnxruntime",
    threads: opt.Threads = 1,
    shape: opt.Shapes = None,
    json: opt.Json = False,
) -> None:
    """Write what ENGINE loads to run MODEL.

    Example: otgraph build net.onnx --engine onnxruntime -o net.engine.onnx
    """
    shapes = opt.read_shapes(shape)
    opt.check_outputs(output)
    out = Output(json)
    api = load_api()
    graph = api.load_model(model, shapes)
    with progress() as show:
        show(f"building for {engine}")
        api.build(graph, output, engine=engine, threads=threads)
    size = output.stat().st_size
    out.say(f"wrote {output} ({amount(size, 'B')})")
    out.result({"command": "build", "output": str(output), "engine": engine, "bytes": size})


def bench(
    *,
    model: ModelOrArtifact,
    data: Inputs = None,
    engine: opt.Engine = "onnxruntime",
    threads: opt.Threads = 1,
    shape: opt.Shapes = None,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Measure the latency of one model. To compare two, use audit: it measures them in pairs.

    Example: otgraph bench net.onnx --threads 2
    """
    shapes = opt.read_shapes(shape)
    out = Output(json)
    samples = None if data is None else load_data(data)
    api = load_api()
    with progress() as show:
        show(f"measuring {model}")
        found = api.bench(model, samples, shapes=shapes, engine=engine, threads=threads, seed=seed)
    out.say(_sentence(model, found))
    out.result({"command": "bench", "model": model, "engine": engine, **found.to_json()})


def _sentence(model: str, found: Any) -> str:
    clock = "" if found.clock == "wall" else f" ({found.clock})"
    interval = f"[{found.low:.3g}, {found.high:.3g}]"
    return f"{model}: {found.ms:.3g} ms {interval}{clock}, {found.threads} thread{'s' * (found.threads > 1)}"
