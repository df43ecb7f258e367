"""``Rewriter``: the only way a pass edits a graph. It counts edits, so no pass reports "changed" by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import fx, nn

from otgraph.graph import notes
from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.graph import Graph
from otgraph.graph.notes import Note
from otgraph.graph.onnx.make_node import make_node
from otgraph.remark import Remark, RemarkKind

T = TypeVar("T")


@dataclass(frozen=True)
class Cut:
    """What a masked pass removed: masks of the dims of ``axis_map``, taken of the graph before the pass."""

    axis_map: AxisMap
    keep: Keep


class Rewriter:
    """Edits one graph on behalf of one pass.

    Args:
        graph: an independent copy; the rewriter changes it.
        source: the name of the pass, used as the source of its remarks.
    """

    def __init__(self, graph: Graph, source: str = "rewriter") -> None:
        self.graph = graph
        self.source = source
        self.edits = 0
        self.remarks: list[Remark] = []
        self.cuts: list[Cut] = []

    def set_tensor(self, name: str, value: torch.Tensor) -> None:
        """Replace the stored tensor ``name``. Its shape may change; dtype, device and whether it is a
        parameter stay. Other names of a tied tensor keep the old value."""
        old = self.graph.tensor(name)
        new = value.detach().to(dtype=old.dtype, device=old.device).contiguous()
        if new.data_ptr() == value.data_ptr():
            new = new.clone()
        owner, leaf = _owner(self.graph.module, name)
        if isinstance(old, nn.Parameter):
            setattr(owner, leaf, nn.Parameter(new, requires_grad=old.requires_grad))
        else:
            setattr(owner, leaf, new)
        self.edits += 1

    def add_tensor(self, name: str, value: torch.Tensor) -> fx.Node:
        """Store a new tensor and read it at the top of the program.

        Returns:
            The ``get_attr`` node; its target is ``name``, with a number appended where that is taken.
        """
        unique, count = name, 0
        while _is_taken(self.graph.module, unique):
            count += 1
            unique = f"{name}_{count}"
        owner, leaf = _make_owner(self.graph.module, unique)
        new = value.detach().clone().contiguous()
        if new.is_floating_point():
            owner.register_parameter(leaf, nn.Parameter(new, requires_grad=False))
        else:
            owner.register_buffer(leaf, new)
        program = self.graph.module.graph
        with program.inserting_before(next(iter(program.nodes))):
            node = program.get_attr(unique)
        self.edits += 1
        return node

    def set_argument(self, node: fx.Node, key: int | str, value: Any) -> None:
        """Set a positional (int) or keyword (str) argument; missing positions before it become None."""
        if isinstance(key, str):
            node.update_kwarg(key, value)
        else:
            filler = (None,) * (key + 1 - len(node.args))
            node.args = (*node.args, *filler)
            node.update_arg(key, value)
        self.edits += 1

    def retarget(
        self,
        node: fx.Node,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Let ``node`` call ``function`` with these arguments instead; its name, users and metadata stay."""
        node.target, node.args, node.kwargs = function, args, dict(kwargs or {})
        self.edits += 1

    def replace(self, node: fx.Node, value: fx.Node) -> None:
        """Let every user of ``node`` use ``value`` instead; ``node`` stays until it is erased."""
        node.replace_all_uses_with(value, delete_user_cb=lambda user: user is not value)
        self.edits += 1

    def erase(self, node: fx.Node) -> None:
        """Remove a node that nothing uses.

        Raises:
            ValueError: something still uses it, or it is an input or the output.
        """
        if node.users or node.op in ("placeholder", "output"):
            users = ", ".join(user.name for user in node.users) or "the signature"
            raise ValueError(f"{node.name}: cannot be erased, {users} still uses it; replace it first")
        self.graph.module.graph.erase_node(node)
        self.edits += 1

    def insert_after(
        self,
        node: fx.Node,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> fx.Node:
        """Insert a call of ``function`` after ``node`` and return it; ``meta`` becomes its metadata, ``name``
        (made unique) its name.

        In the ``onnx`` dialect ``function`` is that of an operator (``otgraph.graph.onnx.ops``), and the new
        node gets the identity that the emitter needs.
        """
        program = self.graph.module.graph
        with program.inserting_after(node):
            if self.graph.dialect == "onnx":
                new = make_node(self.graph, function, args, kwargs, name or "")
            else:
                new = program.create_node("call_function", function, args, dict(kwargs or {}), name)
        new.meta.update(meta or {})
        self.edits += 1
        return new

    def exchange(self, graph: Graph) -> None:
        """Let ``graph``, of the same signature, take the place of the whole program. For rewrites that are
        made elsewhere, such as of the network's ONNX form."""
        self.graph = replace(graph, name=self.graph.name, remarks=self.graph.remarks)
        self.edits += 1

    def annotate(self, node: fx.Node, note: Note[T], value: T) -> None:
        """Let ``node`` carry ``value`` as ``note``. Not an edit: the program computes the same."""
        note.write(node, value)

    def inherit_notes(self, heir: fx.Node, node: fx.Node) -> None:
        """Let ``heir``, which has the value of ``node`` now, carry its notes and stand for it."""
        notes.inherit_notes(heir, node)

    def clear_notes(self, node: fx.Node) -> None:
        """Let ``node``, which has another value now, carry no note."""
        notes.clear_notes(node)

    def remark(self, kind: RemarkKind, where: str, message: str, **metrics: float | int | str) -> None:
        """Say what was done, or not done and why."""
        self.remarks.append(Remark(kind, self.source, where, message, metrics))

    def record_cut(self, keep: Keep, axis_map: AxisMap) -> None:
        """State what a ``MASKED`` pass removed, in dims of the graph before it; the manager checks it."""
        self.cuts.append(Cut(axis_map, dict(keep)))

    def drop_unused_tensors(self) -> tuple[str, ...]:
        """Delete the stored tensors that nothing reads; returns their names."""
        dropped = _drop_unused_tensors(self.graph.module)
        self.edits += len(dropped)
        return dropped

    def finish(self) -> Graph:
        """The edited graph: recompiled, checked for well-formedness, without weights that nothing reads."""
        if self.edits:
            _drop_unused_tensors(self.graph.module)
            self.graph.module.graph.lint()
            self.graph.module.recompile()
        return self.graph


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return module.get_submodule(owner), leaf


def _make_owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:  # pyright: ignore[reportPrivateUsage]  (nn.Module has no public lookup)
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module, leaf


def _is_taken(module: nn.Module, name: str) -> bool:
    owner: Any = module
    for part in name.split("."):
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True


def _drop_unused_tensors(module: fx.GraphModule) -> tuple[str, ...]:
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    stored = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    stored += [name for name, _ in module.named_buffers(remove_duplicate=False)]
    dropped = tuple(name for name in stored if name not in used)
    for name in dropped:
        owner, leaf = _owner(module, name)
        delattr(owner, leaf)
    module.delete_all_unused_submodules()
    return dropped
