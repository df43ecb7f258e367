"""One table of axis rules: operator name → builder. An operator that is not here is opaque, unless it is element-wise."""

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
    reduction,
    shape,
)

RULES: dict[str, Builder] = {
    **attention.RULES,
    **convolution.RULES,
    **creation.RULES,
    **elementwise.RULES,
    **joining.RULES,
    **matmul.RULES,
    **normalization.RULES,
    **pooling.RULES,
    **reduction.RULES,
    **shape.RULES,
}
