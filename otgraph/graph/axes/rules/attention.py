"""Fused attention: heads and values go through, the query/key width is contracted."""

from __future__ import annotations

from otgraph.graph.axes.call import Builder, Call, axes
from otgraph.graph.axes.rule import AxisRule


def scaled_dot_product(call: Call) -> AxisRule | None:
    """``(q, k, v, …) -> (out, logsumexp, …)``; the scale must be pinned before ``d`` shrinks."""
    q, k = call.operands[:2]
    if q.shape[1] != k.shape[1] or any(t.dim() != 4 for t in call.operands[:3]):
        return None  # grouped queries
    mask = (
        ", " + " ".join(["n", "h", "l", "s"][4 - call.operands[3].dim() :]) if len(call.operands) > 3 else ""
    )
    rest = "".join(
        ", n h l" if r.shape == q.shape[:3] else ", " + " ".join(axes(f"z{i}_", r.dim(), "!"))
        for i, r in enumerate(call.results[1:])
    )
    return call.rule(
        f"n h l d, n h s d, n h s! e{mask} -> n h l e{rest}", reduce=("d",), combine="product", times=(2,)
    )


RULES: dict[str, Builder] = {
    "_scaled_dot_product_flash_attention_for_cpu": scaled_dot_product,
    "_scaled_dot_product_flash_attention": scaled_dot_product,
    "_scaled_dot_product_efficient_attention": scaled_dot_product,
}
