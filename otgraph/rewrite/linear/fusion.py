"""``Fusion``: nodes and the one map that may take their place, decided before anything is edited."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from otgraph.graph.affine import Affine
from otgraph.graph.compose import LinearMap
from otgraph.graph.graph import Graph, label
from otgraph.window import Window


@dataclass(frozen=True, eq=False)
class Fusion:
    """``nodes`` (program order, the last one's value is wanted) become one that reads ``entry``.

    ``host``: the convolution or product among them that stays, with other numbers. ``window``: the geometry
    of the fused map; its padding holds ``fill``. ``macs_before`` (of the nodes that the program had at first,
    if some were fused already) and ``macs_after``: multiply–accumulates on the example inputs; a scale, a
    shift or an addition counts one per element, an average pool its window, a padding nothing.
    """

    entry: fx.Node
    nodes: tuple[fx.Node, ...]
    host: Affine
    window: Window
    fill: float
    macs_before: int
    macs_after: int
    compute: Callable[[], LinearMap]

    @cached_property
    def map(self) -> LinearMap:
        """The fused numbers in float64; computed when first asked for."""
        return self.compute()

    @property
    def key(self) -> tuple[str, ...]:
        """The names of the nodes: the same for a fusion that is found again."""
        return tuple(node.name for node in self.nodes)

    @property
    def name(self) -> str:
        """The names of the first and the last of the nodes, as the option ``apart`` of ``fuse-linear`` has
        them."""
        return f"{self.nodes[0].name}..{self.nodes[-1].name}"

    @property
    def title(self) -> str:
        """How remarks call the nodes."""
        return ", ".join(label(node) for node in self.nodes)


Accept = Callable[[Fusion], str | None]
"""Judges a fusion that is exact and within the growth allowed: None to make it, else why not, in words."""


def accept_all(fusion: Fusion) -> str | None:
    """Make every fusion that is exact and small enough."""
    del fusion
    return None


@dataclass(frozen=True)
class Apart:
    """Refuses the fusions of these names."""

    names: Collection[str]

    def __call__(self, fusion: Fusion) -> str | None:
        """Why ``fusion`` is not made; None where it may be."""
        return "they are to stay apart" if fusion.name in self.names else None


def over_growth(before: int, after: int, growth: float) -> str | None:
    """Why a fusion grows too much, with both figures; None where it does not."""
    if after <= growth * before:
        return None
    return (
        f"{after} multiply–accumulates would take the place of {before}, "
        f"{after / max(before, 1):.2f} times as many (growth={growth:g})"
    )


def not_finite(graph: Graph, fusion: Fusion) -> str | None:
    """Why the fused numbers cannot be stored; None where they can."""
    dtype = graph.tensor(fusion.host.weight).dtype
    fine = all(bool(t.to(dtype).isfinite().all()) for t in (fusion.map.weight, fusion.map.bias))
    return None if fine else "the fused weights would not be finite"


def needs_pad(graph: Graph, window: Window, fill: float) -> bool:
    """Whether the padding of ``window`` is none that a convolution of the dialect can be asked for."""
    uneven = graph.dialect == "aten" and any(before != after for before, after in window.padding)
    crops = any(amount < 0 for pair in window.padding for amount in pair)
    return uneven or crops or (window.pads and fill != 0.0)


def needs_add(graph: Graph, host: Affine) -> bool:
    """Whether the operator of ``host`` takes no bias."""
    return graph.dialect == "onnx" and host.node.meta["onnx"].op_type == "MatMul"
