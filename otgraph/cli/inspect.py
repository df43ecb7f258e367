"""``otgraph inspect``: what can be cut, what cannot, and which operator blocks it."""

from __future__ import annotations

from typing import Annotated

import typer

from otgraph.cli import options as opt
from otgraph.cli.describe import describe_model
from otgraph.cli.lazy import load_api
from otgraph.cli.output import Output, progress

ShowDims = Annotated[
    bool, typer.Option("--dims", help="Each dim: its size, what writes, reads and carries it.")
]
ShowGraph = Annotated[bool, typer.Option("--graph", help="The program, with the axes of every value.")]
ShowBlockers = Annotated[
    bool, typer.Option("--blockers", help="What cannot be cut, and which operator is why.")
]


def inspect(
    *,
    model: opt.Model,
    dims: ShowDims = False,
    graph: ShowGraph = False,
    blockers: ShowBlockers = False,
    shape: opt.Shapes = None,
    json: opt.Json = False,
) -> None:
    """Show what of MODEL can be cut. Without options: dims and blockers.

    Example: otgraph inspect net.onnx --blockers
    """
    shapes = opt.read_shapes(shape)
    out = Output(json)
    api = load_api()
    loaded = api.load_model(model, shapes)
    with progress() as show:
        show("analysing the axes")
        found = api.inspect(loaded)
    out.say(describe_model(model, loaded))
    chosen = [(dims, found.dims_text), (blockers, found.blockers_text), (graph, found.graph_text)]
    texts = [text for wanted, text in chosen if wanted] or [found.dims_text, found.blockers_text]
    for text in texts:
        out.say("")
        out.say(text)
    out.result({"command": "inspect", "model": model, **found.to_json()})
