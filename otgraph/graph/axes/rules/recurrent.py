"""Recurrent layers as a whole: the gates' rows, the states and the outputs run over one index set.

The rule is exact. A unit whose rows are zero everywhere has gates at ½ and a candidate of tanh 0 = 0, so a
state that begins at zero stays there, and what its column of the recurrent weight reads is zero as well.
"""

from __future__ import annotations

import torch

from otgraph.graph.axes.call import Builder, Call
from otgraph.graph.axes.rule import AxisRule


def _layers(gates: int) -> Builder:
    """``(x, states, [w_ih, w_hh, b_ih, b_hh per layer and direction], …) -> (y, states)``.

    ``h`` is the hidden size, the same for all layers and directions since they share the tensors of the
    states. Packed sequences and projected states are not understood.
    """

    def build(call: Call) -> AxisRule | None:
        biases, count, both, first = call.args[3], int(call.args[4]), call.args[7], call.args[8]
        weights, directions = list(call.args[2]), 2 if both else 1
        states = [call.args[1]] if isinstance(call.args[1], torch.Tensor) else list(call.args[1])
        each = 4 if biases else 2
        if not call.func.name().endswith(".input") or len(weights) != each * count * directions:
            return None
        texts = ["n t! i" if first else "t! n i", *["s! n h"] * len(states)]
        for layer in range(count):
            source = "i" if layer == 0 else "h+h" if both else "h"
            cell = [f"q!*h {source}", "q!*h h", *["q!*h"] * (each - 2)]
            texts += cell * directions
        made = "h+h" if both else "h"
        results = [f"n t! {made}" if first else f"t! n {made}", *["s! n h"] * len(states)]
        sizes = {"q": gates, "h": int(states[0].shape[-1])}
        text = f"{', '.join(texts)} -> {', '.join(results)}"
        return call.rule(text, sizes=sizes, reduce=("i", "h"), combine="weights")

    return build


RULES: dict[str, Builder] = {
    "lstm": _layers(4),
    "gru": _layers(3),
    "rnn_tanh": _layers(1),
    "rnn_relu": _layers(1),
}
