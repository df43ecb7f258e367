"""Nodes and versions of an ONNX file: operators with the arguments that they cannot be without."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from otgraph.errors import ModelError
from otgraph.graph.onnx.header import plain_domain
from otgraph.graph.onnx.subgraphs import all_graphs

_UPDATE = "export the model for an older one, or update onnx"


def check_versions(model: onnx.ModelProto, where: str) -> None:
    """Versions of the format and of the operators that the installed ``onnx`` knows.

    Raises:
        ModelError: says which version is not known, and what is.
    """
    if not 0 < model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"{where}: has IR version {model.ir_version}, known are 1 to {onnx.IR_VERSION}; {_UPDATE}"
        )
    newest = onnx.defs.onnx_opset_version()
    for entries in (model.opset_import, *(function.opset_import for function in model.functions)):
        seen: set[str] = set()
        for entry in entries:
            domain = plain_domain(entry.domain)
            if domain in seen:
                raise ModelError(
                    f"{where}: names the opset of domain {domain or 'ai.onnx'!r} twice; keep one"
                )
            seen.add(domain)
            if entry.version < 1 or (domain == "" and entry.version > newest):
                known = f"1 to {newest}" if domain == "" else "1 and more"
                raise ModelError(
                    f"{where}: has opset {entry.version} of domain {domain or 'ai.onnx'!r}, known are"
                    f" {known}; {_UPDATE}"
                )


def check_nodes(model: onnx.ModelProto, where: str) -> None:
    """Nodes that name an operator, make something, and have the inputs that it cannot be without.

    Raises:
        ModelError: names the node.
    """
    opsets = {plain_domain(entry.domain): entry.version for entry in model.opset_import}
    functions = {(plain_domain(f.domain), f.name) for f in model.functions}
    for graph in all_graphs(model):
        _check(graph.node, opsets, functions, where)
    for function in model.functions:
        own = {plain_domain(entry.domain): entry.version for entry in function.opset_import}
        _check(function.node, own, functions, f"{where}: function {function.name!r}")


def _check(
    nodes: Iterable[onnx.NodeProto], opsets: dict[str, int], functions: set[tuple[str, str]], where: str
) -> None:
    for index, node in enumerate(nodes):
        domain = plain_domain(node.domain)
        place = f"{where}: node {node.name or index!r} ({node.op_type})"
        if not node.op_type:
            raise ModelError(f"{where}: node {node.name or index!r} has no operator; export the model again")
        if not any(node.output):
            raise ModelError(f"{place}: makes nothing; remove it or give its output a name")
        names = [attribute.name for attribute in node.attribute]
        if len(set(names)) < len(names) or not all(names):
            raise ModelError(f"{place}: has an attribute twice or without a name; keep one of each name")
        opset = opsets.get(domain, 0)
        if (domain, node.op_type) in functions or not onnx.defs.has(node.op_type, opset, domain):
            continue
        least = onnx.defs.get_schema(node.op_type, opset, domain).min_input
        if len(node.input) < least:
            raise ModelError(
                f"{place}: has {len(node.input)} inputs, it needs {least}; export the model again"
            )
