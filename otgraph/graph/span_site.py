"""Where a span lies: the axes of its two ends, and the stride, reach and alignment from one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import fx

from otgraph.graph.affine import Affine, argument, read_affine
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.span import Span
from otgraph.window import Pads, Window, compose_windows, pointwise

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SpanSite:
    """The ends of a span, for the graph's example.

    ``samples``: the size of the first axis. ``source`` and ``space``: the sizes of the entry's and the exit's
    other axes besides the channels. ``window``: what one position of the exit depends on, whatever the span
    makes of it; it slides where the channels are on axis 1.
    """

    samples: int
    source: Shape
    space: Shape
    window: Window

    @property
    def axis(self) -> int:
        """That of the channels, 1 or -1."""
        return self.window.axis

    @property
    def entry(self) -> int:
        """Channels that enter."""
        return self.window.inputs

    @property
    def exit(self) -> int:
        """Channels that leave."""
        return self.window.outputs

    @property
    def stride(self) -> Shape:
        """Per axis that the window slides along the entry's positions from one of the exit to the next."""
        return self.window.stride

    @property
    def reach(self) -> Shape:
        """Per such axis how many input positions one output position depends on (1: none but its own)."""
        return tuple(extent + 1 for extent in self.window.extents)

    @property
    def center(self) -> tuple[float, ...]:
        """Per such axis the middle of them for output position 0."""
        axes = zip(self.window.extents, self.window.padding, strict=True)
        return tuple(extent / 2 - before for extent, (before, _) in axes)

    @property
    def same(self) -> bool:
        """Whether both ends have the same shape."""
        return self.entry == self.exit and self.source == self.space

    def kernel(self) -> Shape | None:
        """The smallest odd kernel from 3 on that skips no input; None where the span has no spatial reach."""
        if self.axis != 1 or not self.space or max(self.reach) <= 1:
            return None
        return tuple(
            max(3, s + 1 - s % 2) if r > 1 else 1 for s, r in zip(self.stride, self.reach, strict=True)
        )

    def window_of(self, kernel: Shape = (), groups: int = 1) -> Window:
        """That of a map in the span's place, of ``kernel`` (none given: of the position itself)."""
        if self.axis == -1:
            return Window(self.entry, self.exit, groups)
        kernel = kernel or (1,) * len(self.stride)
        ones = (1,) * len(kernel)
        return Window(self.entry, self.exit, groups, kernel, self.stride, self.padding(kernel), ones)

    def padding(self, kernel: Shape) -> Pads:
        """Zeros before and after each axis, so that ``kernel`` lies in the middle of what the span reads."""
        found: list[tuple[int, int]] = []
        for k, s, size, out, center in zip(
            kernel, self.stride, self.source, self.space, self.center, strict=True
        ):
            before = max(0, round((k - 1) / 2 - center))
            after = (out - 1) * s + k - size - before
            if after < 0 and size + before - k >= out * s:  # more outputs than the span has
                before, after = max(0, before + after), 0
            after = max(0, after)
            if after < before and size + 2 * before - k < out * s:
                after = before  # reads no more and is the same on both sides
            found.append((before, after))
        return tuple(found)


def shape_of(axes: AxisMap, name: str) -> Shape | None:
    """The shape of the value ``name`` for the example; None where it is not one tensor."""
    results = axes.values.get(name, ())
    return tuple(axis.size for axis in results[0]) if len(results) == 1 else None


def channel_axis(axes: AxisMap, name: str) -> int | None:
    """Which axis of the value ``name`` holds channels: 1 or -1; None where none does or it is not clear.

    The channels are what some weight writes or contracts.
    """
    results = axes.values.get(name, ())
    if len(results) != 1 or len(results[0]) < 2:
        return None
    rank = len(results[0])

    def has_channels(number: int) -> bool:
        ports = (port for dim in results[0][number].dims() for port in axes.dims[dim].ports)
        return any(port.role in ("writes", "reads") for port in ports)

    if has_channels(rank - 1) and (rank <= 3 or not has_channels(1)):
        return -1 if rank == 2 or not has_channels(1) else None
    return 1 if rank > 2 and has_channels(1) else None


def site_of(graph: Graph, axes: AxisMap, span: Span) -> SpanSite | None:
    """The site of ``span``; None where its ends cannot be related.

    They can when both are activations with channels on the same axis, as many samples, as many axes, and the
    exit's other axes are the entry's, read at a whole stride.
    """
    axis = channel_axis(axes, span.entry)
    source, target = shape_of(axes, span.entry), shape_of(axes, span.exit)
    if axis is None or source is None or target is None or axis != channel_axis(axes, span.exit):
        return None
    if len(source) != len(target) or source[0] != target[0]:
        return None
    inner, outer = (s[2:] if axis == 1 else s[1:-1] for s in (source, target))
    if axis == -1 and inner != outer:
        return None
    if axis == -1:
        return SpanSite(target[0], inner, outer, Window(source[-1], target[-1], 1))
    if any(out < 1 or out > size for size, out in zip(inner, outer, strict=True)):
        return None
    field = _field(graph, span, len(inner))
    if any(round(size / out) != step for size, out, step in zip(inner, outer, field.stride, strict=True)):
        return None  # what shrinks it is no window: a global pooling, a reshape
    site = SpanSite(target[0], inner, outer, replace(field, inputs=source[1], outputs=target[1], groups=1))
    return site if all(_meets(site, kernel) for kernel in ((), site.kernel()) if kernel is not None) else None


def _meets(site: SpanSite, kernel: Shape) -> bool:
    """Whether a convolution of that kernel at the span's stride makes as many outputs."""
    return site.window_of(kernel).positions(site.source) == site.space


def multiplies(graph: Graph, axes: AxisMap, node: fx.Node) -> int:
    """Multiply-accumulates of ``node`` for the example; 0 where it is no matrix product."""
    out = shape_of(axes, node.name)
    if out is None:
        return 0
    affine = read_affine(graph, node)
    if affine is not None:
        weight = graph.tensor(affine.weight)
        width = weight.shape[0] if affine.layout == "io" else prod(weight.shape[1:])
        return prod(out) * width
    shapes = [shape_of(axes, source.name) for source in node.all_input_nodes[:2]]
    if None in shapes or not shapes:
        return 0
    if op_name(node) in ("aten.matmul", "aten.bmm", "aten.mm", "onnx.MatMul"):
        first = shapes[0]
        return prod(out) * (first[-1] if first else 1)
    if op_name(node) == "aten.scaled_dot_product_attention":
        key = shapes[-1]
        return 2 * prod(out) * (key[-2] if key else 1)
    return 0


def _field(graph: Graph, span: Span, rank: int) -> Window:
    """What the span's exit reads, by its convolutions and poolings; where paths join, the widest counts."""
    start = pointwise(1, rank)
    fields: dict[str, Window] = {span.entry: start}
    program = {node.name: node for node in graph.module.graph.nodes}
    for name in span.nodes:
        node = program[name]
        sources = [fields[s.name] for s in node.all_input_nodes if s.name in fields]
        widest = max(sources, key=lambda field: field.extents, default=start)
        window = _window(graph, node, rank)
        fields[name] = widest if window is None else compose_windows(widest, window)
    return fields[span.exit]


def _window(graph: Graph, node: fx.Node, rank: int) -> Window | None:
    """That of a convolution or a pooling (of one channel); None for other nodes."""
    affine: Affine | None = read_affine(graph, node)
    if affine is not None and affine.kind == "conv" and len(affine.window.kernel) == rank:
        return affine.window
    name = op_name(node)
    if name in ("onnx.MaxPool", "onnx.AveragePool"):
        given: Mapping[str, Any] = node.kwargs
        kernel = _sizes(given["kernel_shape"], rank)
        pads = _sizes(given.get("pads") or 0, 2 * rank)
        stride, dilation = (_sizes(given.get(key) or 1, rank) for key in ("strides", "dilations"))
        return Window(1, 1, 1, kernel, stride, tuple(zip(pads[:rank], pads[rank:], strict=True)), dilation)
    if name.startswith(("aten.max_pool", "aten.avg_pool")):
        kernel = _sizes(argument(node, 1, "kernel_size"), rank)
        given_stride = argument(node, 2, "stride")
        stride = _sizes(given_stride, rank) if given_stride else kernel
        dilation = _sizes(argument(node, 4, "dilation", 1) if "max" in name else 1, rank)
        pads = _sizes(argument(node, 3, "padding", 0), rank)
        return Window(1, 1, 1, kernel, stride, tuple((amount, amount) for amount in pads), dilation)
    return None


def _sizes(value: Any, count: int) -> Shape:
    items = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    return items * count if len(items) == 1 else items
