"""``fuse-linear``: what has become affine after affine is one node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from otgraph.errors import PipelineError
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.linear.fuse import fuse_linear
from otgraph.rewrite.linear.fusion import Apart
from otgraph.rewrite.rewriter import Rewriter


@final
@dataclass(frozen=True)
class FuseLinear(TransformPass):
    """Compose convolutions, products, norms, scales, pads and parallel branches into one node where exact.

    What it does
        Reads convolutions and linear layers, inference batch norms, scales and shifts by stored numbers,
        constant paddings and average pools as one kind of map, and composes chains of them in float64,
        rounded once. Branches of one value that are added (a 3×3 and a 1×1 convolution, a residual identity)
        become one kernel. Of the ways to cut a chain the one with the fewest multiply–accumulates is taken,
        until nothing more can be fused.

    When it applies
        Where the result is the same at the border too. A convolution that pads reads zeros where the composed
        one reads what the first would give there: it is fused only if that is zero as well (the first has a
        1×1 kernel and no bias, or all the padding that its kernel reaches), or is what an explicit padding
        holds. Strides, dilations, groups, uneven paddings and biases are composed; a value that others read,
        pools that do not count their padding, and paddings that depend on the input's size stay. So does what
        would grow: a fused node may have at most ``growth`` times the multiply–accumulates of the nodes that
        it replaces (on the example inputs).

    Exactness
        Exact up to rounding.

    Before and after
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(8, 4, 1))
        >>> graph = capture(net, example(2, 3, 8, 8))
        >>> print(program_text(graph))
        input input_1
        conv2d = aten.conv2d(input_1, 0.weight[8, 3, 3, 3], 0.bias[8], [1, 1], [1, 1])
        avg_pool2d = aten.avg_pool2d(conv2d, [2, 2], [2, 2])
        conv2d_1 = aten.conv2d(avg_pool2d, 2.weight[4, 8, 1, 1], 2.bias[4])
        return conv2d_1
        >>> print(program_text(rewrite("fuse-linear", graph)))
        input input_1
        conv2d_1 = aten.conv2d(input_1, 2.weight[4, 3, 4, 4], 2.bias[4], [2, 2], [1, 1])
        return conv2d_1

    Remarks
        *applied* per fusion with its nodes, the node that stays and the multiply–accumulates before and
        after; *missed* per pair of affine neighbors that stay two, with the reason.

    Options
        ``growth``: largest multiply–accumulates of a fused node, in those of the nodes it replaces.
        ``apart``: fusions that are not made, by the names of their first and last node (``first..last``); a
        plan lists here what the clock of its engine did not reward.
    """

    name: ClassVar[str] = "fuse-linear"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    growth: float = 1.0
    apart: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.growth > 0:
            raise PipelineError(f"{self.name}: growth={self.growth:g} is not above 0")

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Fuse until nothing more can be. To judge each fusion, call ``fuse_linear`` with a judge."""
        fuse_linear(rewriter, self.growth, Apart(self.apart))
