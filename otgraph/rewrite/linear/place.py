"""Writing a fused map into the program: its host gets other numbers, all else of the fusion goes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from otgraph.graph.affine import is_shared, lay_weight
from otgraph.graph.graph import op_name
from otgraph.graph.onnx.ops.arithmetic import Add
from otgraph.graph.onnx.ops.shape import Pad
from otgraph.rewrite.linear.fusion import Fusion, needs_add, needs_pad
from otgraph.rewrite.rewriter import Rewriter
from otgraph.window import Pads

_CONVOLUTIONS = {1: torch.ops.aten.conv1d, 2: torch.ops.aten.conv2d, 3: torch.ops.aten.conv3d}


def place(rewriter: Rewriter, fusion: Fusion) -> fx.Node:
    """Make the edit that ``fusion`` describes.

    The host stays, under its name, and now reads the entry of the fusion. Its tensors keep their names unless
    others read them too: then new ones are stored. What the last node noted (``graph.notes``) goes to the
    node that has the value now, which stands for it.

    Returns:
        The node that has the value of the fusion's last.
    """
    host, last = fusion.host.node, fusion.nodes[-1]
    weight, bias = _weight(rewriter, fusion), _bias(rewriter, fusion)
    source, pads = fusion.entry, fusion.window.padding
    if needs_pad(rewriter.graph, fusion.window, fusion.fill):
        source = _pad(rewriter, host.prev, source, pads, fusion.fill)
        pads = ((0, 0),) * len(pads)
    value = host
    if bias is not None and needs_add(rewriter.graph, fusion.host):
        _call_onnx(rewriter, fusion, (source, weight), pads)
        value = rewriter.insert_after(host, Add, (host, bias))
    elif rewriter.graph.dialect == "onnx":
        _call_onnx(rewriter, fusion, (source, weight) if bias is None else (source, weight, bias), pads)
    else:
        _call_aten(rewriter, fusion, [source, weight, bias], pads)
    if last is not host:
        rewriter.clear_notes(host)
        rewriter.replace(last, value)
    rewriter.inherit_notes(value, last)
    for node in reversed(fusion.nodes):
        if node is not host:
            _erase(rewriter, node, {fusion.entry, *fusion.nodes})
    return value


def _weight(rewriter: Rewriter, fusion: Fusion) -> fx.Node:
    host, graph = fusion.host, rewriter.graph
    weight = fusion.map.weight
    laid = weight if graph.dialect == "aten" else lay_weight(host, weight)
    old = next(
        node for node in host.node.all_input_nodes if node.op == "get_attr" and node.target == host.weight
    )
    return _store(rewriter, old, host.weight, laid, graph.tensor(host.weight))


def _bias(rewriter: Rewriter, fusion: Fusion) -> fx.Node | None:
    """The operand of the fused bias; none where it is zero, unless an old ONNX ``Gemm`` may want one."""
    host, graph = fusion.host, rewriter.graph
    name = host.bias if host.output is host.node else None
    if not bool(fusion.map.bias.any()) and (name is None or op_name(host.node) != "onnx.Gemm"):
        return None
    like = graph.tensor(host.weight)
    if name is not None:
        old = next(
            node for node in host.node.all_input_nodes if node.op == "get_attr" and node.target == name
        )
        return _store(rewriter, old, name, fusion.map.bias, like)
    owner, _, _ = host.weight.rpartition(".")
    return _store(rewriter, None, f"{owner}.bias" if owner else f"{host.weight}_bias", fusion.map.bias, like)


def _store(
    rewriter: Rewriter, old: fx.Node | None, name: str, value: torch.Tensor, like: torch.Tensor
) -> fx.Node:
    """A node that reads ``value`` in the type of ``like``: ``old``, where nothing else reads its tensor."""
    if old is not None and not is_shared(rewriter.graph, name):
        rewriter.set_tensor(name, value)
        return old
    return rewriter.add_tensor(name, value.to(dtype=like.dtype, device=like.device))


def _pad(rewriter: Rewriter, after: fx.Node, source: fx.Node, pads: Pads, fill: float) -> fx.Node:
    if rewriter.graph.dialect == "onnx":
        before, behind = [0, 0, *(b for b, _ in pads)], [0, 0, *(a for _, a in pads)]
        args: tuple[Any, ...] = (source, [*before, *behind])
        return rewriter.insert_after(after, Pad, args if fill == 0.0 else (*args, fill))
    flat = [amount for pair in reversed(pads) for amount in pair]
    return rewriter.insert_after(after, torch.ops.aten.constant_pad_nd.default, (source, flat, fill))


def _call_onnx(rewriter: Rewriter, fusion: Fusion, args: tuple[Any, ...], pads: Pads) -> None:
    node, window = fusion.host.node, fusion.window
    options = dict(node.kwargs)
    for name in ("w", "b", "c", "auto_pad"):
        options.pop(name, None)
    if fusion.host.kind == "conv":
        options.update(
            dilations=list(window.dilation),
            group=window.groups,
            kernel_shape=list(window.kernel),
            pads=[*(before for before, _ in pads), *(after for _, after in pads)],
            strides=list(window.stride),
        )
    rewriter.retarget(node, cast(Any, node.target), args, options)


def _call_aten(rewriter: Rewriter, fusion: Fusion, args: list[Any], pads: Pads) -> None:
    """Every product becomes ``linear``, every spelling of a convolution the plain one."""
    window = fusion.window
    if fusion.host.kind == "linear":
        function: Any = torch.ops.aten.linear.default
        defaults: list[Any] = [None]
    else:
        n = len(window.kernel)
        function = _CONVOLUTIONS[n].default
        args += [list(window.stride), [before for before, _ in pads], list(window.dilation), window.groups]
        defaults = [None, [1] * n, [0] * n, [1] * n, 1]
    while len(args) > 2 and args[-1] == defaults[len(args) - 3]:
        args.pop()
    rewriter.retarget(fusion.host.node, function, tuple(args))


def _erase(rewriter: Rewriter, node: fx.Node, stays: set[fx.Node]) -> None:
    """Erase ``node`` and what there was only for it (a stored scale seen through a change of shape)."""
    sources = [source for source in node.all_input_nodes if source not in stays]
    rewriter.erase(node)
    for source in sources:
        if source.op in ("call_function", "get_attr") and not source.users:
            _erase(rewriter, source, stays)
