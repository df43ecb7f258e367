"""Recurrent layers: weights per direction, the gates one above the other in another order than torch's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from otgraph.graph.onnx.ops.unsupported import Unsupported

_DIRECTIONS = ("forward", "reverse", "bidirectional")


def LSTM(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    activations: Sequence[str] | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """``([t, n, i], [d, 4*h, i], [d, 4*h, h], …) -> ([t, d, n, h], [d, n, h], [d, n, h])``;
    gates i, o, f, c."""
    _refuse(activations, ["Sigmoid", "Tanh", "Tanh"], direction, sequence_lens)
    if p is not None or input_forget:
        raise Unsupported("peepholes, or input and forget gates that are one")
    x = x.transpose(0, 1) if layout else x
    states = [_state(s, x, r, layout) for s in (initial_h, initial_c)]
    weights = _weights(w, r, b, (0, 2, 3, 1))
    made = [
        torch.lstm(data, [s[d : d + 1] for s in states], cell, b is not None, 1, 0.0, False, False, False)
        for d, data, cell in _each(x, weights, direction)
    ]
    return _joined([(y, h, c) for y, h, c in made], direction, layout)


def GRU(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activations: Sequence[str] | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """``([t, n, i], [d, 3*h, i], [d, 3*h, h], …) -> ([t, d, n, h], [d, n, h])``; gates z, r, h."""
    _refuse(activations, ["Sigmoid", "Tanh"], direction, sequence_lens)
    x = x.transpose(0, 1) if layout else x
    state = _state(initial_h, x, r, layout)
    weights = _weights(w, r, b, (1, 0, 2))
    made = [
        torch.gru(data, state[d : d + 1], cell, b is not None, 1, 0.0, False, False, False)
        if linear_before_reset
        else _reset_first(data, state[d], *cell)
        for d, data, cell in _each(x, weights, direction)
    ]
    return _joined([(y, h) for y, h in made], direction, layout)


def _reset_first(
    x: Tensor, h: Tensor, w: Tensor, r: Tensor, bw: Tensor | None = None, br: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A GRU that resets the state before its linear map, which torch has none of; gates r, z, n."""
    into = F.linear(x, w, bw).chunk(3, -1)
    gates = r.chunk(3)
    biases = (None, None, None) if br is None else br.chunk(3)
    outputs: list[Tensor] = []
    for reset, update, new in zip(*(part.unbind(0) for part in into), strict=True):
        reset = torch.sigmoid(reset + F.linear(h, gates[0], biases[0]))
        update = torch.sigmoid(update + F.linear(h, gates[1], biases[1]))
        new = torch.tanh(new + F.linear(reset * h, gates[2], biases[2]))
        h = (1 - update) * new + update * h
        outputs.append(h)
    return torch.stack(outputs), h[None]


def _refuse(
    activations: Sequence[str] | None,
    plain: list[str],
    direction: str,
    sequence_lens: Tensor | None,
) -> None:
    count = 2 if direction == "bidirectional" else 1
    if direction not in _DIRECTIONS or sequence_lens is not None:
        raise Unsupported("sequences of several lengths")
    if activations is not None and list(activations) != plain * count:
        raise Unsupported(f"activations {', '.join(activations)}")


def _state(given: Tensor | None, x: Tensor, r: Tensor, layout: int) -> Tensor:
    if given is None:
        return torch.zeros(r.shape[0], x.shape[1], r.shape[2], dtype=x.dtype)
    return given.transpose(0, 1).contiguous() if layout else given


def _weights(w: Tensor, r: Tensor, b: Tensor | None, order: tuple[int, ...]) -> list[list[Tensor]]:
    """Per direction the tensors torch takes, the gates in its order."""
    count = len(order)
    found: list[list[Tensor]] = []
    for d in range(w.shape[0]):
        cell = [_ordered(t[d], order) for t in (w, r)]
        if b is not None:
            rows = b[d].chunk(2 * count)
            cell += [torch.cat([half[k] for k in order]) for half in (rows[:count], rows[count:])]
        found.append(cell)
    return found


def _ordered(t: Tensor, order: tuple[int, ...]) -> Tensor:
    gates = t.chunk(len(order))
    return torch.cat([gates[k] for k in order])


def _each(x: Tensor, weights: list[list[Tensor]], direction: str) -> list[tuple[int, Tensor, list[Tensor]]]:
    """Per direction its number, the sequence as it reads it, and its weights."""
    turned = [direction == "reverse", True]
    return [(d, x.flip(0) if turned[d] else x, cell) for d, cell in enumerate(weights)]


def _joined(made: list[tuple[Tensor, ...]], direction: str, layout: int) -> tuple[Tensor, ...]:
    turned = [direction == "reverse", True]
    outputs = [y.flip(0) if turned[d] else y for d, (y, *_) in enumerate(made)]
    states = (torch.cat([row[k] for row in made]) for k in range(1, len(made[0])))
    y = torch.stack(outputs, 1)
    if layout:  # [t, d, n, h] → [n, t, d, h]
        return y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in states)
    return y, *states
