"""``cleanup``: nodes and weights that do nothing go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from torch import fx

from otgraph.graph.affine import affine_nodes, argument
from otgraph.graph.graph import Graph, label, op_name
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.intervals import bounds, join_bounds
from otgraph.rewrite.rewriter import Rewriter
from otgraph.rewrite.shapes import ValueInfo, value_infos

_VIEWS = frozenset({"aten.view", "aten.unsqueeze", "aten.squeeze"})
_CHECKS = frozenset(
    {"aten._assert_tensor_metadata", "aten._assert_scalar", "aten.sym_constrain_range_for_size"}
)
_RESHAPES = _VIEWS | {"aten.reshape", "aten.flatten", "aten._unsafe_view"}
_ONNX_RESHAPES = frozenset({"onnx.Reshape", "onnx.Flatten", "onnx.Squeeze", "onnx.Unsqueeze"})


@final
@dataclass(frozen=True)
class Cleanup(TransformPass):
    """Remove nodes and weights that do nothing.

    What it does
        Removes identities (identity, alias, detach, inference dropout, a cast to the same type, a
        concatenation of one tensor, a padding by nothing, a transposition that moves nothing, a reshape to
        the shape there is, a ReLU of a ReLU and other bounds that cut off nothing), joins chains of
        transpositions and of reshapes, and drops dead nodes, the assertions that `torch.export` leaves, and
        weights that nothing reads. Values of convolutions' and
        linear layers' weights that are too small for a normal number become zero: they change nothing that a
        result could show, and some processors take a hundred times as long to multiply with them.

    When it applies
        Where it is provable for every input, not only for the example. An identity that gives an input, or a
        value that others read too, the name of an ONNX output stays. Equal constants are not merged: a shared
        weight would stop other passes.

    Exactness
        Exact: bit for bit, but for terms below the smallest normal number.

    Before and after
        >>> graph = capture(nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(), nn.ReLU()), example(2, 6))
        >>> print(program_text(graph))
        input input_1
        sym_size_int_1 = aten.sym_size(input_1, 0)
        view = aten.view(input_1, [sym_size_int_1, 2, 3])
        view_1 = aten.view(view, [sym_size_int_1, 6])
        relu = aten.relu(view_1)
        return relu
        >>> print(program_text(rewrite("cleanup", graph)))
        input input_1
        relu = aten.relu(input_1)
        return relu

    Remarks
        *applied* per node that was removed or joined, per weight that had values too small for a normal
        number, and one each for dead nodes and unused weights;
        *missed* for an identity that carries the name of an output.

    Options
        None.
    """

    name: ClassVar[str] = "cleanup"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """One walk in program order, then one backwards for what is dead."""
        facts = _Facts(rewriter.graph)
        for node in list(rewriter.graph.module.graph.nodes):
            if node.op == "call_function":
                _join(rewriter, facts, node)
                _bypass(rewriter, facts, node)
                _join_bounds(rewriter, facts, node)
        _flush_subnormals(rewriter)
        _drop_dead(rewriter)


@dataclass(frozen=True)
class _Facts:
    """What is known of the values, computed when it is first asked for. Removing no-ops keeps it true."""

    graph: Graph

    @cached_property
    def _infos(self) -> dict[fx.Node, ValueInfo]:
        return value_infos(self.graph)

    def rank(self, node: fx.Node) -> int:
        return len(self._infos[node].shape)

    def same_dtype(self, a: fx.Node, b: fx.Node) -> bool:
        return a in self._infos and b in self._infos and self._infos[a].dtype == self._infos[b].dtype

    def fixed_size(self, node: fx.Node, axis: int) -> int | None:
        """The size of an axis of an input where the signature fixes it."""
        if node.op != "placeholder":
            return None
        inputs = [source for source in self.graph.module.graph.nodes if source.op == "placeholder"]
        size = self.graph.signature.inputs[inputs.index(node)].shape[axis]
        return size if isinstance(size, int) else None


def _bypass(rewriter: Rewriter, facts: _Facts, node: fx.Node) -> None:
    """Let the users of a no-op use its input."""
    if not node.users or not _is_noop(rewriter.graph, facts, node):
        return
    source = _data(node)
    is_output = rewriter.graph.dialect == "onnx" and any(user.op == "output" for user in node.users)
    if is_output and (source.op != "call_function" or len(source.users) > 1):
        rewriter.remark("missed", label(node), f"{op_name(node)} carries the name of an output")
        return
    rewriter.replace(node, source)
    rewriter.erase(node)
    rewriter.remark("applied", label(node), f"{op_name(node)} does nothing here: removed")


def _join_bounds(rewriter: Rewriter, facts: _Facts, node: fx.Node) -> None:
    """Leave one of two activations in a row that bound their values."""
    source = _data(node)
    if node.users and bounds(rewriter.graph, node) and isinstance(source, fx.Node):
        is_output = rewriter.graph.dialect == "onnx" and any(user.op == "output" for user in node.users)
        if facts.same_dtype(source, node) and not (is_output and len(source.users) > 1):
            join_bounds(rewriter, node)


def _data(node: fx.Node) -> Any:
    first = argument(node, 0, "")
    return first[0] if isinstance(first, (list, tuple)) and len(first) == 1 else first


def _is_noop(graph: Graph, facts: _Facts, node: fx.Node) -> bool:
    name = op_name(node)
    if not isinstance(_data(node), fx.Node):
        return False
    if name in ("aten.alias", "aten.detach", "aten.lift_fresh_copy", "onnx.Identity"):
        return True
    if name in ("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout"):
        return not argument(node, 2, "train")
    if name == "onnx.Dropout":
        return argument(node, 2, "training_mode") is None
    if name in ("onnx.Cast", "aten._to_copy", "aten.to"):
        return facts.same_dtype(_data(node), node)
    if name in ("aten.cat", "onnx.Concat"):
        return len(argument(node, 0, "") if name == "aten.cat" else node.args) == 1
    if name in ("aten.constant_pad_nd", "aten.pad", "onnx.Pad"):
        return _all_zero(graph, argument(node, 1, "pads"))
    if name in ("aten.permute", "onnx.Transpose"):
        order = _order(facts, node)
        return list(order) == sorted(order)
    return _keeps_shape(graph, facts, node)


def _all_zero(graph: Graph, amounts: Any) -> bool:
    values = _integers(graph, amounts)
    return values is not None and not any(values)


def _integers(graph: Graph, value: Any) -> list[int] | None:
    """Literal integers, or those of a stored tensor."""
    if isinstance(value, fx.Node):
        return [int(v) for v in graph.tensor(str(value.target)).flatten()] if value.op == "get_attr" else None
    if isinstance(value, (list, tuple)) and all(isinstance(item, int) for item in value):
        return list(value)
    return None


def _order(facts: _Facts, node: fx.Node) -> tuple[int, ...]:
    """The permutation that a transposing node applies, all axes counted from the front."""
    rank = facts.rank(_data(node))
    is_onnx = op_name(node) == "onnx.Transpose"
    order: Any = node.kwargs.get("perm") if is_onnx else argument(node, 1, "dims")
    return tuple(range(rank))[::-1] if order is None else tuple(axis % rank for axis in order)


def _keeps_shape(graph: Graph, facts: _Facts, node: fx.Node) -> bool:
    """A reshape is the identity when the rank stays and all axes but one are proved to keep their size: the
    remaining one follows from the number of elements."""
    name, data = op_name(node), _data(node)
    if name == "onnx.Flatten":
        return facts.rank(data) == 2 and node.kwargs.get("axis", 1) in (1, -1)
    if name in ("aten.view", "aten.reshape"):
        sizes: list[Any] = list(argument(node, 1, "size"))
        proved = [_same_size(facts, data, axis, size) for axis, size in enumerate(sizes)]
    elif name == "onnx.Reshape" and not node.kwargs.get("allowzero", 0):
        sizes = [*(_integers(graph, argument(node, 1, "shape")) or [])]
        proved = [size == 0 or facts.fixed_size(data, axis) == size for axis, size in enumerate(sizes)]
    else:
        return False
    return bool(sizes) and facts.rank(data) == len(sizes) and proved.count(False) <= 1


def _same_size(facts: _Facts, data: fx.Node, axis: int, size: Any) -> bool:
    if isinstance(size, fx.Node):
        return op_name(size) == "aten.sym_size" and size.args == (data, axis)
    return axis < facts.rank(data) and facts.fixed_size(data, axis) == size


def _join(rewriter: Rewriter, facts: _Facts, node: fx.Node) -> None:
    """Let the second of two transpositions or reshapes do the work of both."""
    inner = argument(node, 0, "")
    if not isinstance(inner, fx.Node) or inner.op != "call_function" or len(inner.users) != 1:
        return
    if op_name(node) == op_name(inner) and op_name(node) in ("aten.permute", "onnx.Transpose"):
        outer_order, inner_order = _order(facts, node), _order(facts, inner)
        order = [inner_order[axis] for axis in outer_order]
        rewriter.set_argument(node, "perm" if op_name(node) == "onnx.Transpose" else 1, order)
    elif not _forgets_shape(rewriter.graph, node, inner):
        return
    rewriter.set_argument(node, 0, inner.args[0])
    rewriter.erase(inner)
    rewriter.remark("applied", label(inner), f"{op_name(inner)} joined into {label(node)}")


def _forgets_shape(graph: Graph, node: fx.Node, inner: fx.Node) -> bool:
    """Whether a reshape depends on nothing but the elements, so that the reshape before it is not needed."""
    name, before = op_name(node), op_name(inner)
    if name == "aten.view":
        return before in _VIEWS  # a view of what was copied into order may not exist without the copy
    if name == "aten.reshape":
        return before in _RESHAPES
    if name == "onnx.Reshape" and before in _ONNX_RESHAPES:
        sizes = _integers(graph, node.args[1])
        return sizes is not None and (0 not in sizes or bool(node.kwargs.get("allowzero", 0)))
    return False


def _flush_subnormals(rewriter: Rewriter) -> None:
    """Least-squares repairs and decayed training leave such values in the rows of dead channels."""
    for name in sorted({view.weight for view in affine_nodes(rewriter.graph)}):
        weight = rewriter.graph.tensor(name).detach()
        if weight.dtype not in (torch.float32, torch.float64):
            continue  # in half precision numbers this small matter
        tiny = (weight != 0) & (weight.abs() < torch.finfo(weight.dtype).smallest_normal)
        if bool(tiny.any()):
            rewriter.set_tensor(name, weight.masked_fill(tiny, 0.0))
            rewriter.remark("applied", name, "subnormal values set to zero", values=int(tiny.sum()))


def _drop_dead(rewriter: Rewriter) -> None:
    dead = 0
    for node in reversed(list(rewriter.graph.module.graph.nodes)):
        idle = op_name(node) in _CHECKS or not node.is_impure()
        if node.op == "call_function" and not node.users and idle:
            rewriter.erase(node)
            dead += 1
    if dead:
        rewriter.remark("applied", "graph", "dead nodes removed", nodes=dead)
    dropped = rewriter.drop_unused_tensors()
    if dropped:
        rewriter.remark("applied", "graph", "unused weights removed", tensors=len(dropped))
