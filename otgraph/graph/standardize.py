"""Weights that a program normalizes before it uses them (standardized convolutions, weight norm) are
normalized once: what is stored is what is used, so that its axes can be cut. The function stays the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from otgraph.graph.graph import op_name
from otgraph.remark import Remark

_STATISTICS = frozenset(
    f"aten.{name}"
    for name in [
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional",
        "batch_norm",
        "instance_norm",
        "layer_norm",
        "group_norm",
        "std",
        "std_mean",
        "var",
        "var_mean",
        "mean",
        "norm",
        "linalg_vector_norm",
        "_weight_norm",
        "_weight_norm_interface",
    ]
)
"""Operators whose result depends on every entry of an axis: of weights they block it, computed or not."""


def store_standardized(module: fx.GraphModule) -> tuple[Remark, ...]:
    """Replace what is computed from statistics of weights alone by its value, in place.

    The value takes the name of the largest weight it was made of, where nothing else reads that one.

    Returns:
        One remark that names what was done, or none.
    """
    standardized = _standardized(module.graph)
    frontier = [n for n in standardized if any(user not in standardized for user in n.users)]
    values = _evaluate(module, frontier)
    names: list[str] = []
    for node in frontier:
        value, source = values[node], _largest(module, node)
        if isinstance(value, torch.Tensor) and value.numel() <= 2 * module_tensor(module, source).numel():
            names.append(_store(module, node, value, source))
    if not names:
        return ()
    module.graph.eliminate_dead_code()
    module.recompile()
    said = f"{len(names)} weights are stored as they are used, after their standardization"
    return (Remark("applied", "capture", names[0], said),)


def module_tensor(module: fx.GraphModule, name: str) -> torch.Tensor:
    """The parameter or buffer called ``name``."""
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def _standardized(graph: fx.Graph) -> list[fx.Node]:
    """Nodes computed from stored tensors alone, with statistics of them on the way."""
    constant: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            constant[node] = False
        elif node.op == "call_function" and node.all_input_nodes:
            sources = node.all_input_nodes
            if all(source in constant for source in sources):
                constant[node] = op_name(node) in _STATISTICS or any(constant[s] for s in sources)
    return [node for node, seen in constant.items() if seen]


def _evaluate(module: fx.GraphModule, wanted: list[fx.Node]) -> Mapping[fx.Node, Any]:
    """The values of nodes that depend on stored tensors alone."""
    found: dict[fx.Node, Any] = {}

    def value(node: fx.Node) -> Any:
        if node not in found:
            if node.op == "get_attr":
                found[node] = module_tensor(module, str(node.target))
            else:
                args = fx.map_arg(node.args, value)
                kwargs = fx.map_arg(node.kwargs, value)
                found[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return found[node]

    with torch.no_grad():
        return {node: value(node) for node in wanted}


def _largest(module: fx.GraphModule, node: fx.Node) -> str:
    """The name of the largest stored tensor that ``node`` depends on."""
    names: dict[str, int] = {}
    pending = [node]
    while pending:
        current = pending.pop()
        if current.op == "get_attr":
            names[str(current.target)] = module_tensor(module, str(current.target)).numel()
        pending.extend(current.all_input_nodes)
    return max(names, key=lambda name: names[name])


def _store(module: fx.GraphModule, node: fx.Node, value: torch.Tensor, source: str) -> str:
    owner_name, _, leaf = source.rpartition(".")
    owner = module.get_submodule(owner_name)
    if not _only_for(module.graph, node, source):
        number = 1
        while hasattr(owner, f"{leaf}_{number}"):
            number += 1
        leaf = f"{leaf}_{number}"
    else:
        delattr(owner, leaf)
    owner.register_parameter(leaf, nn.Parameter(value.detach().clone(), requires_grad=False))
    target = f"{owner_name}.{leaf}" if owner_name else leaf
    with module.graph.inserting_before(node):
        stored = module.graph.get_attr(target)
    node.replace_all_uses_with(stored)
    return target


def _only_for(graph: fx.Graph, node: fx.Node, source: str) -> bool:
    """Whether everything that reads ``source`` leads to ``node`` and nowhere else."""
    pending = [n for n in graph.nodes if n.op == "get_attr" and str(n.target) == source]
    while pending:
        current = pending.pop()
        if current is node:
            continue
        if current.op == "output" or not current.users:
            return False
        pending.extend(current.users)
    return True
