"""Nodes between affine ones that hand on what they read."""

from __future__ import annotations

import operator

from torch import fx

from otgraph.graph.affine import argument
from otgraph.graph.graph import label, op_name
from otgraph.rewrite.rewriter import Rewriter

_ALWAYS = frozenset({"aten.alias", "aten.detach", "aten.lift_fresh_copy", "aten.clone", "onnx.Identity"})
_DROPOUTS = frozenset({"aten.dropout", "aten.feature_dropout", "aten.alpha_dropout"})


def drop_identities(rewriter: Rewriter) -> None:
    """Let the readers of an identity read what it reads. ``cleanup`` knows many more such nodes."""
    for node in list(rewriter.graph.module.graph.nodes):
        source = argument(node, 0, "")
        if node.op != "call_function" or not isinstance(source, fx.Node) or not _is_identity(node):
            continue
        if source.op == "call_function" and not any(user.op == "output" for user in node.users):
            rewriter.replace(node, source)
            rewriter.erase(node)
            rewriter.remark("applied", label(node), f"{op_name(node)} does nothing here: removed")


def _is_identity(node: fx.Node) -> bool:
    name = op_name(node)
    if name in _DROPOUTS:
        return not argument(node, 2, "train")
    if name == "onnx.Dropout":
        return argument(node, 2, "training_mode") is None and not any(
            user.op == "call_function" and user.target is operator.getitem for user in node.users
        )
    return name in _ALWAYS
