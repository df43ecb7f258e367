"""One table of axis rules: operator → builder. What is not here is opaque, unless it is element-wise."""

from __future__ import annotations

from otgraph.graph.axes.call import Builder
from otgraph.graph.axes.rules import (
    attention,
    convolution,
    creation,
    elementwise,
    joining,
    matmul,
    normalization,
    pooling,
    recurrent,
    reduction,
    shape,
)

FAMILIES: dict[str, dict[str, Builder]] = {
    "attention": attention.RULES,
    "convolution": convolution.RULES,
    "creation": creation.RULES,
    "elementwise": elementwise.RULES,
    "joining": joining.RULES,
    "matmul": matmul.RULES,
    "normalization": normalization.RULES,
    "pooling": pooling.RULES,
    "recurrent": recurrent.RULES,
    "reduction": reduction.RULES,
    "shape": shape.RULES,
}

WHOLE = frozenset(recurrent.RULES)
"""Composite operators with a rule of their own: taken as they are called, not as what they consist of."""

RULES: dict[str, Builder] = {name: rule for family in FAMILIES.values() for name, rule in family.items()}
