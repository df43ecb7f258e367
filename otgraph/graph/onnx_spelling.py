"""What torch.onnx has no translation for, spelt out in operators that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from otgraph.graph.graph import op_name

aten = torch.ops.aten
ATTENTION = "aten.scaled_dot_product_attention"
TRANSLATED = 4
"""The rank of the attention that torch.onnx translates."""
PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


@dataclass(frozen=True)
class _Seen:
    """Of one attention: the rank and width of its query, and whether its mask is one of truth values."""

    rank: int
    width: int
    truths: bool


def spell_out_attention(module: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> None:
    """Write attention of another rank than four as matrix products and a softmax, in place.

    What is causal, drops out, or shares keys among groups of heads is left as it is.
    """
    nodes = [node for node in module.graph.nodes if op_name(node) == ATTENTION]
    seen = _seen(module, inputs) if nodes else {}
    for node in nodes:
        given: dict[str, Any] = {**dict(zip(PARAMETERS, node.args, strict=False)), **node.kwargs}
        plain = not any(given.get(name) for name in ("dropout_p", "is_causal", "enable_gqa"))
        if node in seen and seen[node].rank != TRANSLATED and plain:
            _spell_out(module.graph, node, given, seen[node])
    module.recompile()


def _spell_out(graph: fx.Graph, node: fx.Node, given: dict[str, Any], seen: _Seen) -> None:
    mask, scale = given.get("attn_mask"), given.get("scale")
    with graph.inserting_before(node):
        keys = graph.call_function(aten.transpose.int, (given["key"], -2, -1))
        scores = graph.call_function(aten.matmul.default, (given["query"], keys))
        factor = seen.width**-0.5 if scale is None else scale
        scores = graph.call_function(aten.mul.Tensor, (scores, factor))
        if mask is not None and seen.truths:
            hidden = graph.call_function(aten.logical_not.default, (mask,))
            scores = graph.call_function(aten.masked_fill.Scalar, (scores, hidden, float("-inf")))
        elif mask is not None:
            scores = graph.call_function(aten.add.Tensor, (scores, mask))
        weights = graph.call_function(aten.softmax.int, (scores, -1))
        result = graph.call_function(aten.matmul.default, (weights, given["value"]))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _seen(module: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> dict[fx.Node, _Seen]:
    """By a run on tensors without data."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    watch = _Watch(module)
    with torch.no_grad(), fake:
        watch.run(*(fake.from_tensor(tensor) for tensor in inputs))
    return watch.seen


class _Watch(fx.Interpreter):
    """Runs a program and notes what each attention is given."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[fx.Node, _Seen] = {}

    def run_node(self, n: fx.Node) -> Any:
        if op_name(n) == ATTENTION:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            given: dict[str, Any] = {**dict(zip(PARAMETERS, args, strict=False)), **kwargs}
            query, mask = given["query"], given.get("attn_mask")
            self.seen[n] = _Seen(query.dim(), query.shape[-1], getattr(mask, "dtype", None) == torch.bool)
        return super().run_node(n)
