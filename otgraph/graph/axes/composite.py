"""``Composites``: shows the tracker composite operators as they are called, before they fall apart."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _pop_mode_temporarily  # pyright: ignore[reportPrivateUsage]

from otgraph.graph.axes.rules import WHOLE
from otgraph.graph.axes.tracker import Tracker


class Composites(TorchFunctionMode):
    """Run a program under this mode within that of ``tracker``: calls of the operators in ``WHOLE`` come to
    it as one, whether they are made by name (``torch.lstm``) or as operators (``torch.ops.aten.lstm``)."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = _operator(func, args)
        if operator is None:
            return func(*args, **kwargs)
        with _pop_mode_temporarily():
            out = func(*args, **kwargs)
        self.tracker.whole(operator, args, kwargs, out)
        return out


def _operator(func: Any, args: tuple[Any, ...]) -> Any:
    """The operator that a call means, where it is one of ``WHOLE``; else None."""
    name = getattr(func, "__name__", "").partition(".")[0]
    if name not in WHOLE:
        return None
    if isinstance(func, OpOverload):
        return cast("Any", func)
    packed = len(args) > 3 and not isinstance(args[3], bool)
    packet: Any = getattr(torch.ops.aten, name)
    return packet.data if packed else packet.input
