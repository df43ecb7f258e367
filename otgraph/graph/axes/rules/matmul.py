"""Matrix products: the inner axis is contracted."""

from __future__ import annotations

from otgraph.graph.axes.call import Builder, Call
from otgraph.graph.axes.rule import AxisRule


def _product(text: str, added: tuple[int, ...] = ()) -> Builder:
    def build(call: Call) -> AxisRule:
        return call.rule(text, reduce=("i",), combine="product", added=added)

    return build


def addmm(call: Call) -> AxisRule:
    """``aten.addmm(c, a, b)``: ``c`` is a bias row or a whole matrix."""
    bias = "o" if call.operands[0].dim() == 1 else "n o"
    return call.rule(f"{bias}, n i, i o -> n o", reduce=("i",), combine="product", added=(0,))


def linear(call: Call) -> AxisRule:
    """``aten.linear(x, w, b)``, where a backend keeps it whole."""
    lead = " ".join(f"n{k}" for k in range(call.operands[0].dim() - 1))
    bias = ", o" if len(call.operands) == 3 else ""
    return call.rule(f"{lead} i, o i{bias} -> {lead} o", reduce=("i",), combine="product", added=(2,))


RULES: dict[str, Builder] = {
    "mm": _product("n i, i o -> n o"),
    "bmm": _product("b n i, b i o -> b n o"),
    "mv": _product("n i, i -> n"),
    "dot": _product("i, i -> "),
    "baddbmm": _product("b n o, b n i, b i o -> b n o", added=(0,)),
    "addmm": addmm,
    "linear": linear,
}
