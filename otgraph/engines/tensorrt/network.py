"""ONNX → TensorRT network: parsing, and its errors as sentences about the model's own nodes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from otgraph.engines.artifact import Layer
from otgraph.engines.onnx_file import read_onnx
from otgraph.engines.tensorrt.interface import check_shape_inputs, check_types
from otgraph.engines.tensorrt.log import clean
from otgraph.errors import ModelError

UNSUPPORTED = frozenset(
    ("UNSUPPORTED_NODE", "UNSUPPORTED_NODE_ATTR", "UNSUPPORTED_NODE_DATATYPE", "UNSUPPORTED_NODE_DYNAMIC")
    + ("UNSUPPORTED_NODE_INPUT", "UNSUPPORTED_NODE_SHAPE", "UNSUPPORTED_GRAPH")
)
NO_PLUGIN = re.compile("plugin not found|not found in plugin registry", re.IGNORECASE)

_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class Fault:
    """One complaint of the parser, about the node that it names."""

    node: str
    op: str
    reason: str
    unsupported: bool

    def __str__(self) -> str:
        return f"{self.node} ({self.op}): {self.reason}" if self.node else self.reason


def parse(trt: Any, builder: Any, flags: int, logger: Any, path: Path, engine: str) -> tuple[Any, Any]:
    """The network of the ONNX file ``path``, and the parser, which owns its weights.

    Raises:
        ModelError: TensorRT cannot read it; every node that it does not take is named.
    """
    model = read_onnx(path, with_data=False)
    check_types(model, path, engine)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        found = [fault(parser.get_error(index), model) for index in range(parser.num_errors)]
        raise ModelError(explain(found, path, engine))
    check_shape_inputs(network, path, engine)
    return network, parser


def fault(error: Any, model: onnx.ModelProto) -> Fault:
    """What the parser's error says; its node is named as in the file."""
    index, nodes = int(error.node()), model.graph.node
    name = str(error.node_name()) if hasattr(error, "node_name") else ""
    op = str(error.node_operator()) if hasattr(error, "node_operator") else ""
    if 0 <= index < len(nodes):
        node = nodes[index]
        name = name or node.name or next(filter(None, node.output), f"node {index}")
        op = op or node.op_type
    code, text = str(getattr(error.code(), "name", error.code())), clean(error.desc())
    no_plugin = NO_PLUGIN.search(text) is not None
    unsupported = code in UNSUPPORTED or no_plugin
    if no_plugin:
        text = "TensorRT has no such operator, and no plugin of that name"
    elif unsupported and text in ("false", ""):
        text = "TensorRT has no such operator"
    return Fault(name, op, text, unsupported)


def explain(faults: Sequence[Fault], path: Path, engine: str) -> str:
    """One sentence for all of it."""
    unsupported = [each for each in faults if each.unsupported]
    if unsupported:
        count = f"{len(unsupported)} node{'s' * (len(unsupported) > 1)}"
        listed = "; ".join(map(str, unsupported))
        return (
            f"{path}: {engine} does not support {count}: {listed}; replace them, or use --engine onnxruntime"
        )
    listed = "; ".join(map(str, faults)) or "the parser gives no reason"
    return f"{path}: {engine} cannot read it: {listed}; export it again or mend that node"


def node_names(path: Path) -> tuple[str, ...]:
    """The names of a file's nodes."""
    return tuple(node.name for node in read_onnx(path, with_data=False).graph.node if node.name)


def network_layers(network: Any) -> tuple[Layer, ...]:
    """The layers of the network, with the ONNX nodes that they came from."""
    found: list[Layer] = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        output = layer.get_output(0)
        found.append(
            Layer(
                name=layer.name,
                kind=_name(layer.type),
                nodes=nodes_of(str(getattr(layer, "metadata", ""))),
                dtype="" if output is None else _name(output.dtype),
                shape=() if output is None else shape_of(output),
            )
        )
    return tuple(found)


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Sizes, -1 where dynamic; empty where even the number of axes is not known."""
    try:
        return tuple(int(size) for size in tensor.shape)
    except (ValueError, TypeError):
        return ()


def nodes_of(metadata: str) -> tuple[str, ...]:
    """``[ONNX Layer: a] [ONNX Layer: b]`` → ``("a", "b")``."""
    return tuple(dict.fromkeys(_ONNX_LAYER.findall(metadata)))


def _name(member: Any) -> str:
    return str(getattr(member, "name", member))
