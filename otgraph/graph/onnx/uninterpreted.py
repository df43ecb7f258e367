"""``Uninterpreted``: a node that no engine here knows, as a function of which only the shapes are known.

What treats such a node as opaque must be right whatever it computes. So it computes something: a rewrite that
is exact for one arbitrary function that depends on all of its inputs has left them and their reader alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch

from otgraph.errors import ModelError
from otgraph.graph.graph import Graph, label
from otgraph.graph.onnx.header import plain_domain
from otgraph.graph.onnx.tensors import TORCH_TYPES

Size = int | tuple[int, int]
"""One size of an output: fixed, or that of an axis of an input: (which input, which axis)."""


@dataclass(frozen=True)
class Declared:
    """What the file says of one output."""

    dtype: torch.dtype
    shape: tuple[Size, ...]


class Uninterpreted(torch.nn.Module):
    """One node as a module that gives values of the declared shapes, which mean nothing.

    Args:
        node: the ONNX node.
        outputs: per output what is declared; None for one that is left out.
    """

    def __init__(self, node: onnx.NodeProto, outputs: Sequence[Declared | None]) -> None:
        super().__init__()
        domain = plain_domain(node.domain)
        self.title = f"{domain}.{node.op_type}" if domain else node.op_type
        self._seed = zlib.crc32(f"{node.name} {list(node.output)}".encode())
        self._declared = tuple(outputs)

    def extra_repr(self) -> str:
        return self.title

    def forward(self, *values: Any) -> tuple[torch.Tensor | None, ...]:
        """As ``OrtOp``: one value per input, always a tuple, None for a missing output."""
        generator = torch.Generator().manual_seed(self._seed)
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        wide = any(tensor.dtype == torch.float64 for tensor in tensors)
        mixed = torch.ones((), dtype=torch.float64)
        for tensor in tensors:
            noise = torch.randn(tensor.shape, generator=generator)
            sample = tensor.detach().to("cpu", torch.float64)
            mixed = mixed + torch.tanh((sample * noise).sum() / max(tensor.numel(), 1) ** 0.5)
        return tuple(
            None if each is None else self._output(each, values, mixed, generator, wide=wide)
            for each in self._declared
        )

    def _output(
        self,
        declared: Declared,
        values: Sequence[Any],
        mixed: torch.Tensor,
        generator: torch.Generator,
        *,
        wide: bool,
    ) -> torch.Tensor:
        shape = [s if isinstance(s, int) else int(values[s[0]].shape[s[1]]) for s in declared.shape]
        if not declared.dtype.is_floating_point:
            return torch.zeros(shape, dtype=declared.dtype)  # which is a valid place, and a valid size
        dtype = torch.float64 if wide and declared.dtype == torch.float32 else declared.dtype
        return (torch.randn(shape, generator=generator) * mixed).to(dtype)


def uninterpreted(graph: Graph) -> tuple[tuple[str, str], ...]:
    """The nodes of ``graph`` that nothing here can run: their names and operators."""
    module, found = graph.module, list[tuple[str, str]]()
    for node in module.graph.nodes:
        if node.op == "call_module":
            inner = module.get_submodule(str(node.target))
            if isinstance(inner, Uninterpreted):
                found.append((label(node), inner.title))
    return tuple(found)


def check_runs(graph: Graph, what: str) -> None:
    """Raise ``ModelError`` where ``graph`` has a node that nothing here can run; ``what`` need it."""
    unknown = uninterpreted(graph)
    if unknown:
        name, title = unknown[0]
        more = f" (nor can {len(unknown) - 1} more)" if unknown[1:] else ""
        raise ModelError(
            f"{graph.name}: {what} need a network that runs, and node {name!r} cannot{more}: no engine here"
            f" knows {title}; without them, inspect and run work on the rest of the network"
        )


def stand_in(
    node: onnx.NodeProto, model: onnx.ModelProto, read: Sequence[Any], sizes: Mapping[str, int]
) -> Uninterpreted:
    """What takes the place of ``node`` where every output that it has is declared.

    Args:
        read: the values of its inputs on the example.
        sizes: what the named axes of the model's inputs are there.

    Raises:
        ModelError: an output is not declared, or is no tensor of numbers of known sizes.
    """
    declared = {v.name: v.type for v in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    named = _named_axes(node, declared)
    outputs = [_declared(name, declared, named, read, sizes) if name else None for name in node.output]
    return Uninterpreted(node, outputs)


def _named_axes(node: onnx.NodeProto, declared: Mapping[str, onnx.TypeProto]) -> dict[str, tuple[int, int]]:
    """Name of an axis → an input of the node that has it, and where."""
    found: dict[str, tuple[int, int]] = {}
    for which, name in enumerate(node.input):
        for axis, dim in enumerate(declared[name].tensor_type.shape.dim if name in declared else ()):
            if dim.dim_param:
                found.setdefault(dim.dim_param, (which, axis))
    return found


def _declared(
    name: str,
    declared: Mapping[str, onnx.TypeProto],
    named: Mapping[str, tuple[int, int]],
    read: Sequence[Any],
    sizes: Mapping[str, int],
) -> Declared:
    kind = declared[name].tensor_type if name in declared else onnx.TypeProto().tensor_type
    if kind.elem_type not in TORCH_TYPES or not kind.HasField("shape"):
        raise ModelError(f"its output {name!r} has no declared type and shape")
    shape = [_size(name, axis, dim, named, read, sizes) for axis, dim in enumerate(kind.shape.dim)]
    return Declared(TORCH_TYPES[kind.elem_type], tuple(shape))


def _size(
    name: str,
    axis: int,
    dim: onnx.TensorShapeProto.Dimension,
    named: Mapping[str, tuple[int, int]],
    read: Sequence[Any],
    sizes: Mapping[str, int],
) -> Size:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    if dim.dim_param in named and isinstance(read[named[dim.dim_param][0]], torch.Tensor):
        return named[dim.dim_param]
    first = next((i for i, v in enumerate(read) if isinstance(v, torch.Tensor) and v.dim()), None)
    if axis == 0 and first is not None and (not dim.dim_param or _size_is(read[first], sizes, dim.dim_param)):
        return first, 0
    if dim.dim_param in sizes:
        return sizes[dim.dim_param]
    raise ModelError(f"axis {axis} of its output {name!r} has no declared size")


def _size_is(tensor: torch.Tensor, sizes: Mapping[str, int], name: str) -> bool:
    return sizes.get(name, tensor.shape[0]) == tensor.shape[0]
