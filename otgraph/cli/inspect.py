"""``otgraph inspect``: what can be cut, what cannot, and which operator blocks it."""

from __future__ import annotations

from typing import Annotated

import typer

from otgraph.cli import options as opt
from otgraph.cli.describe import describe_data, describe_model
from otgraph.cli.lazy import api, data_sources
from otgraph.cli.output import Output, progress

ShowDims = Annotated[
    bool,
    typer.Option(
        "--dims", help="Each dim: its size, what writes, reads and carries it.", rich_help_panel=opt.OUTPUT
    ),
]
ShowGraph = Annotated[
    bool,
    typer.Option("--graph", help="The program, with the axes of every value.", rich_help_panel=opt.OUTPUT),
]
ShowBlockers = Annotated[
    bool,
    typer.Option(
        "--blockers", help="What cannot be cut, and which operator is why.", rich_help_panel=opt.OUTPUT
    ),
]
ShowDepth = Annotated[
    bool,
    typer.Option(
        "--depth",
        help="Spans that one map could replace, and activations; with --calib what that would lose.",
        rich_help_panel=opt.OUTPUT,
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help=f"Inputs: also show what removing channels costs. {opt.DATA_HELP}",
        rich_help_panel=opt.DATA,
    ),
]


def inspect(
    *,
    model: opt.Model,
    calib: Calibration = None,
    criterion: opt.Criterion = None,
    dims: ShowDims = False,
    graph: ShowGraph = False,
    blockers: ShowBlockers = False,
    depth: ShowDepth = False,
    samples: opt.Samples = None,
    shape: opt.Shapes = None,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Show what of MODEL can be cut, and with --calib what that costs. Without options: dims and blockers.

    With --depth the inputs are spent on depth alone.

    Example: otgraph inspect net.onnx --calib calib.npz --samples 64
    """
    shapes = opt.read_shapes(shape)
    out = Output(json)
    data = None if calib is None else data_sources.load_data(calib)
    if data is not None and samples is not None:
        data = data.take(samples, seed)
    loaded = api.load_model(model, shapes)
    with progress() as show:
        show("analyzing the axes")
        if data is None or depth:
            found = api.inspect(loaded)
        else:
            show(f"analyzing the axes, calibrating on {len(data)} inputs")
            choice = {} if criterion is None else {"criterion": criterion}
            found = api.inspect(loaded, data, seed=seed, **choice)
        if depth:
            show("fitting spans")
        spans = api.inspect_depth(loaded, data, seed=seed) if depth else None
    out.say(describe_model(model, loaded))
    if data is not None:
        out.say(describe_data("calib", data, samples))
    chosen = [(dims, found.dims_text), (blockers, found.blockers_text), (graph, found.graph_text)]
    texts = [text for wanted, text in chosen if wanted]
    if spans is not None:
        texts.append(spans.text)
    elif not texts:
        texts = [found.dims_text, found.blockers_text]
    if data is not None and spans is None:
        texts.append(found.curves_text)
    for text in texts:
        out.say("")
        out.say(text)
    document = {"command": "inspect", "model": model, **found.to_json()}
    out.result(document if spans is None else {**document, "depth": spans.to_json()})
