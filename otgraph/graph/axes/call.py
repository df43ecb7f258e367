"""``Call``: one ATen call as the axis rules see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from otgraph.graph.axes.rule import AxisRule, Combine, Shape, make_rule


@dataclass(frozen=True)
class Call:
    """An operator with its arguments, the tensors among them in order, and the tensors it returned."""

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    operands: tuple[torch.Tensor, ...]
    results: tuple[torch.Tensor, ...]

    @property
    def name(self) -> str:
        """The operator without its overload: ``convolution``."""
        return self.func.overloadpacket.__name__

    def shapes(self) -> list[Shape]:
        """The shapes of the operands."""
        return [tuple(t.shape) for t in self.operands]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def rule(
        self,
        text: str,
        *,
        sizes: Mapping[str, int] | None = None,
        reduce: tuple[str, ...] = (),
        normalized: tuple[str, ...] = (),
        fresh: tuple[str, ...] = (),
        combine: Combine = "any",
        times: tuple[int, ...] | None = None,
        added: tuple[int, ...] = (),
        averaged: tuple[str, ...] = (),
    ) -> AxisRule:
        """``make_rule`` over this call's shapes."""
        results = [tuple(t.shape) for t in self.results]
        return make_rule(
            self.name,
            text,
            self.shapes(),
            results,
            sizes=sizes,
            reduce=reduce,
            normalized=normalized,
            fresh=fresh,
            combine=combine,
            times=times,
            added=added,
            averaged=averaged,
        )


Builder = Callable[[Call], AxisRule | None]
"""Gives the rule of a call, or None where this use of the operator is not understood."""


def axes(prefix: str, count: int, mark: str = "") -> list[str]:
    """``count`` factor names: ``a0 a1 a2``, each with ``mark`` behind it."""
    return [f"{prefix}{i}{mark}" for i in range(count)]


def text_of(operands: list[list[str]], results: list[list[str]]) -> str:
    """The rule text of lists of axes; a tensor without axes is an empty list."""
    left, right = (", ".join(" ".join(t) for t in side) if side else "-" for side in (operands, results))
    return f"{left} -> {right}"
