"""Fused attention: heads and values go through, the query/key width is contracted."""

from __future__ import annotations

from otgraph.graph.axes.call import Builder, Call, axes
from otgraph.graph.axes.rule import AxisRule


def scaled_dot_product(call: Call) -> AxisRule | None:
    """``(q, k, v, …) -> (out, logsumexp, …)``; the scale must be pinned before ``d`` shrinks.

    With grouped queries each of ``h`` key heads serves ``r`` query heads.
    """
    q, k = call.operands[:2]
    if any(t.dim() != 4 for t in call.operands[:3]) or q.shape[1] % k.shape[1]:
        return None
    heads, sizes = ("h", {}) if q.shape[1] == k.shape[1] else ("h*r", {"h": int(k.shape[1])})
    mask = ""
    if len(call.operands) > 3:
        mask = ", " + " ".join(["n", heads, "l", "s"][4 - call.operands[3].dim() :])
    rest = "".join(
        f", n {heads} l" if r.shape == q.shape[:3] else ", " + " ".join(axes(f"z{i}_", r.dim(), "!"))
        for i, r in enumerate(call.results[1:])
    )
    text = f"n {heads} l d, n h s d, n h s! e{mask} -> n {heads} l e{rest}"
    return call.rule(text, sizes=sizes, reduce=("d",), combine="product", times=(2,))


RULES: dict[str, Builder] = {
    "_scaled_dot_product_flash_attention_for_cpu": scaled_dot_product,
    "_scaled_dot_product_flash_attention": scaled_dot_product,
    "_scaled_dot_product_efficient_attention": scaled_dot_product,
}
