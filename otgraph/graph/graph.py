"""``Graph``: an executable torch.fx program with its signature and its dialect."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx

from otgraph.remark import Remark

Dialect = Literal["aten", "onnx"]


@dataclass(frozen=True)
class Port:
    """One input or output: its name, its dtype, and its shape, where a string names a dynamic axis."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Signature:
    """The ports of a graph, in call order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Graph:
    """A network as a torch.fx program.

    ``module`` takes the input tensors positionally, in the order of ``signature.inputs``, and returns a flat
    tuple of tensors in the order of ``signature.outputs``. Weights are parameters or buffers of ``module``,
    read by ``get_attr`` nodes under the names the user knows them by (module path, or ONNX initializer).
    ``dialect`` says what the call nodes are: ``aten`` operators, or one torch function per ONNX operator.
    ``example`` is one valid set of inputs (batch 2 where the batch is free). ``header`` is what the dialect
    needs to write the model back (for ``onnx``: everything of the file that is no node). ``metadata`` goes
    into the file's, beside what it had. ``sources``: the files that it was read from. Graphs
    are values: a rewrite works on ``copy()``.
    """

    module: fx.GraphModule
    signature: Signature
    dialect: Dialect
    example: tuple[torch.Tensor, ...]
    name: str = "model"
    header: Any = None
    remarks: tuple[Remark, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    sources: tuple[Path, ...] = ()

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return self.module(*inputs)

    def copy(self) -> Graph:
        """An independent graph: editing its nodes or weights leaves this one untouched."""
        return replace(self, module=copy.deepcopy(self.module))

    def with_example(self, inputs: tuple[torch.Tensor, ...]) -> Graph:
        """The same graph with other example inputs."""
        return replace(self, example=tuple(inputs))

    def tensor(self, name: str) -> torch.Tensor:
        """The parameter or buffer called ``name`` (a ``get_attr`` target)."""
        owner, _, leaf = name.rpartition(".")
        return getattr(self.module.get_submodule(owner), leaf)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every weight the program reads, by name, in program order. The branches of control flow, which are
        programs of their own, are none."""
        targets = [str(node.target) for node in self.module.graph.nodes if node.op == "get_attr"]
        found = {target: self.tensor(target) for target in dict.fromkeys(targets)}
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}

    def save(self, path: str | Path, *, overwrite: bool = False) -> tuple[Remark, ...]:
        """Write the model as ONNX: one-to-one for the ``onnx`` dialect, ``torch.onnx.export`` for ``aten``.

        Args:
            overwrite: also over one of ``sources``. Where that holds the weights of this graph (external
                data), the graph is to be loaded again afterwards.

        Returns:
            A remark where ONNX Runtime does not load the file, as for types and operators it does not have.

        Raises:
            OutputError: ``path`` cannot be written, or is one of ``sources``. Nothing is left half-written.
            ModelError: the graph has no ONNX form, or not one that loads as the original does.
        """
        from otgraph.graph.save import save_graph  # noqa: PLC0415  (a method of convenience; save imports Graph)

        return save_graph(self, Path(path), overwrite=overwrite)


def label(node: fx.Node) -> str:
    """The name a user knows a node by: the ONNX node's own, the module path that made it, or the fx name."""
    origin = node.meta.get("onnx")
    if origin is not None and origin.name:
        return origin.name
    stack = node.meta.get("nn_module_stack")
    if stack:
        path = list(stack.values())[-1][0]
        if path:
            return str(path)
    return node.name


def op_name(node: fx.Node) -> str:
    """What a call node computes: ``aten.conv2d``, ``onnx.Conv``; other nodes give their fx op."""
    origin = node.meta.get("onnx")
    if origin is not None:
        return f"{origin.domain or 'onnx'}.{origin.op_type}"
    if isinstance(node.target, torch._ops.OpOverload):
        packet = node.target.overloadpacket
        return f"{node.target.namespace}.{packet.__name__}"
    if node.op == "call_function":
        return getattr(node.target, "__name__", str(node.target))
    return node.op
