"""What an ``ExportedProgram`` takes, returns and changes, and its program as tensors in, tensors out."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import fx
from torch._decomp import decomposition_table
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, OutputSpec, TensorArgument
from torch.utils import _pytree as pytree

from otgraph.errors import ModelError
from otgraph.foreign import blame_briefly, first_line
from otgraph.graph.leaves import Leaf, leaves_of
from otgraph.remark import Remark

_CHANGED_CONSTANT = re.compile(r"Constant (\S+) is mutated in the forward method")
_TRAINED_NORM = torch.ops.aten._native_batch_norm_legit_functional.default
_DECOMPOSED: dict[Any, Any] = {_TRAINED_NORM: decomposition_table[_TRAINED_NORM]}
"""A batch norm that updates its statistics; exporters take it for one that uses them."""
_CHANGES = {
    OutputKind.BUFFER_MUTATION: "buffer",
    OutputKind.PARAMETER_MUTATION: "parameter",
    OutputKind.USER_INPUT_MUTATION: "input",
}


class ChangedConstant(ModelError):
    """A tensor that is no buffer is written to."""


def decomposed(program: ExportedProgram, name: str) -> ExportedProgram:
    """``program`` in functional operators, composite ones kept. ``name`` is said of it in errors.

    Raises:
        ChangedConstant: it writes to a tensor that is no buffer.
        ModelError: ``torch.export`` cannot do it.
    """
    program = copy.copy(program)
    program._guards_code = []  # checks of the inputs are not wanted, and cannot name variable arguments
    try:
        return program.run_decompositions(_DECOMPOSED)
    except Exception as error:
        changed = _CHANGED_CONSTANT.match(first_line(error))
        if changed:
            raise ChangedConstant(
                f"{name}: forward changes a tensor that is no buffer ({changed[1]}; what a list or dict"
                " holds is none); register it with register_buffer"
            ) from error
        raise ModelError(f"{name}: torch.export cannot decompose it ({blame_briefly(error)})") from error


def tensor_inputs(program: ExportedProgram) -> list[tuple[InputSpec, torch.Tensor]]:
    """The inputs that are tensors, with the example of each."""
    return [(spec, value) for spec, value in _inputs(program) if isinstance(value, torch.Tensor)]


def _inputs(program: ExportedProgram) -> list[tuple[InputSpec, Any]]:
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    example = pytree.tree_leaves(program.example_inputs)
    if program.example_inputs is None or len(example) != len(specs):
        raise ModelError("the exported program carries no example inputs; export it again, with its inputs")
    return list(zip(specs, example, strict=True))


def returned_by(program: ExportedProgram) -> tuple[Leaf, ...]:
    """What the program returns; in place of each tensor, some tensor."""
    values = [
        torch.empty(0) if isinstance(spec.arg, TensorArgument) else getattr(spec.arg, "value", 0)
        for spec in _results(program)
    ]
    spec: Any = program.call_spec.out_spec
    try:
        returned = pytree.tree_unflatten(values, spec)
        leaves = leaves_of(returned, "exported program: output")
    except Exception:  # noqa: BLE001  (constructors of the user's classes, which check what they are given)
        return leaves_of_flat(values)
    found = [leaf.value for leaf in leaves if isinstance(leaf.value, torch.Tensor)]
    wanted = [value for value in values if isinstance(value, torch.Tensor)]
    same = len(found) == len(wanted) and all(a is b for a, b in zip(found, wanted, strict=True))
    return tuple(leaves) if same else leaves_of_flat(values)


def leaves_of_flat(values: list[Any]) -> tuple[Leaf, ...]:
    """Values that are known by their position alone."""
    return tuple(leaves_of(tuple(values), "exported program: output"))


def _results(program: ExportedProgram) -> list[OutputSpec]:
    return [spec for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]


def drop_changes(module: fx.GraphModule, program: ExportedProgram) -> tuple[Remark, ...]:
    """Take out of ``module``, the unlifted ``program``, that it writes into buffers, parameters and inputs.

    What is read after the write is the new value already, so one call computes what it did before.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.aten.copy_.default:
            node.replace_all_uses_with(node.args[1])
            module.graph.erase_node(node)
    said = "is changed by forward; the graph has the values it had on entry"
    return tuple(
        Remark("analysis", "capture", f"{_CHANGES[spec.kind]} {spec.target}", said)
        for spec in program.graph_signature.output_specs
        if spec.kind in _CHANGES
    )


def drop_constants(
    module: fx.GraphModule, program: ExportedProgram, returned: tuple[Leaf, ...]
) -> tuple[Remark, ...]:
    """Take inputs and outputs that are no tensors out of ``module``.

    Raises:
        ModelError: an input that is no tensor is computed with, or there is no output left.
    """
    remarks: list[Remark] = []
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, (spec, value) in zip(placeholders, _inputs(program), strict=True):
        if isinstance(value, torch.Tensor):
            continue
        if node.users:
            raise ModelError(
                f"input {spec.arg.name}: inputs that are no tensors are not supported; bind them in a"
                " wrapping module"
            )
        module.graph.erase_node(node)
        if value is not None:
            said = f"is no tensor; the graph has its value {value!r} as a constant"
            remarks.append(Remark("analysis", "capture", f"input {spec.arg.name}", said))
    for leaf in returned:
        if not isinstance(leaf.value, torch.Tensor):
            said = f"is no tensor ({type(leaf.value).__name__}); it is left out"
            remarks.append(Remark("analysis", "capture", f"output {leaf.name}".rstrip(), said))
    _keep_tensors(module, program)
    return tuple(remarks)


def _keep_tensors(module: fx.GraphModule, program: ExportedProgram) -> None:
    output = next(node for node in module.graph.nodes if node.op == "output")
    leaves = pytree.tree_leaves(output.args[0])
    kept = [
        leaf
        for leaf, spec in zip(leaves, _results(program), strict=True)
        if isinstance(spec.arg, TensorArgument)
    ]
    if not kept:
        raise ModelError("the exported program returns no tensor; return at least one")
    output.args = (tuple(kept),)
