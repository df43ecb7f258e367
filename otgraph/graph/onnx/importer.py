""".onnx → ``Graph``: one fx node per ONNX node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import fx

from otgraph.graph.graph import Graph, Port
from otgraph.graph.onnx.build import Builder
from otgraph.graph.onnx.check import check_readable
from otgraph.graph.onnx.example import find_example
from otgraph.graph.onnx.first_run import run_once
from otgraph.graph.onnx.ports import input_ports, output_ports
from otgraph.graph.onnx.read_file import external_files, read_file
from otgraph.remark import Remark

Example = Sequence[torch.Tensor]


def load_onnx(path: Path, example: Example | None = None) -> Graph:
    """Read an ``.onnx`` file as a graph of the ``onnx`` dialect.

    Args:
        path: the file.
        example: one valid set of inputs, in the file's order; without it, one is made up.

    Raises:
        ModelError: the file is missing, no ONNX model or cut short; its external data is missing or outside
            its folder; or neither torch nor ONNX Runtime can run it, and a node that they do not know does
            not declare what it returns.
    """
    path = Path(path)
    model = read_file(path)
    sources = (path.resolve(), *external_files(model, path.parent))
    return replace(_build(model, path.parent, str(path), example), name=path.stem, sources=sources)


def import_model(
    model: onnx.ModelProto | ir.Model, base_dir: Path | None = None, example: Example | None = None
) -> Graph:
    """The graph of a model in memory; its external data, if any, lies in ``base_dir``.

    Raises:
        ModelError: as ``load_onnx``.
    """
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    where = proto.graph.name or "model"
    check_readable(proto, base_dir or Path(), where)
    return _build(proto, base_dir, where, example)


def _build(model: onnx.ModelProto, folder: Path | None, where: str, given: Example | None) -> Graph:
    builder = Builder(model, folder, where)
    graph = builder.build()
    module = fx.GraphModule(builder.root, graph)
    inputs = input_ports(model, where)
    example, remarks = (tuple(given), ()) if given else find_example(model, folder, inputs, where)
    results, opaque = run_once(module, builder, example, _sizes(inputs, example))
    signature = output_ports(model, inputs, example, results)
    return Graph(
        module,
        signature,
        "onnx",
        example,
        name=model.graph.name or "model",
        header=builder.header(),
        remarks=(*remarks, *_once((*builder.remarks, *opaque))),
    )


def _sizes(inputs: Sequence[Port], example: Sequence[torch.Tensor]) -> dict[str, int]:
    """What the named axes of the inputs are in the example."""
    return {
        name: size
        for port, tensor in zip(inputs, example, strict=False)
        for name, size in zip(port.shape, tensor.shape, strict=False)
        if isinstance(name, str)
    }


def _once(remarks: Sequence[Remark]) -> list[Remark]:
    """Each thing that is said of several nodes, said of the first, with how many more there are."""
    said: dict[str, list[Remark]] = {}
    for remark in remarks:
        said.setdefault(remark.message, []).append(remark)
    return [
        replace(first, message=f"{text} (as do {len(others)} more)" if others else text)
        for text, (first, *others) in said.items()
    ]
