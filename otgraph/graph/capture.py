"""``nn.Module`` / ``ExportedProgram`` → ``Graph`` in the ``aten`` dialect (``torch.export``)."""

from __future__ import annotations

import operator
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from otgraph.errors import ModelError
from otgraph.foreign import first_line
from otgraph.graph.exporting import Call, export_module
from otgraph.graph.graph import Graph, Port, Signature
from otgraph.graph.leaves import Leaf, output_names
from otgraph.graph.program import decomposed, drop_changes, drop_constants, returned_by, tensor_inputs
from otgraph.graph.standardize import store_standardized
from otgraph.graph.untouched import kept_random_states
from otgraph.remark import Remark


def capture(
    module: torch.nn.Module | ExportedProgram,
    example_inputs: Sequence[Any] | torch.Tensor = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Graph:
    """Capture a trained network as a graph.

    Args:
        module: an ``nn.Module`` (a ``torch.fx`` ``GraphModule`` is one) or an ``ExportedProgram``. It is
            captured as it infers, and is not changed: a deep copy is run, or it is put back where it cannot
            be copied. The graph has weights of its own.
        example_inputs: the positional arguments of one call; tensors share their first axis, the batch. Not
            used for an ``ExportedProgram``, which carries its own.
        kwargs: the keyword arguments of that call.

    Returns:
        A graph whose batch axis is dynamic where ``torch.export`` can make it so; a remark says where not.

        Its inputs are the tensors in the arguments, by the name of the argument: ``forward(x, pair, *rest,
        mask)`` gives ``x``, ``pair_left`` for the entry (or field) ``left`` of ``pair``, ``pair_0`` for its
        first item where it is a tuple, ``rest_0`` and ``mask``; words of Python get a number (``input_1``).
        Data are given under these names. Arguments that are no tensors are constants of the graph.

        Its outputs are the tensors that are returned: ``output`` where it is one, ``output_0`` and so on for
        a tuple, and keys and field names of dicts, named tuples and data classes (``logits``,
        ``hidden_states_0``). A name that is taken gets a number.

        What ``forward`` changes (a moving average, a counter) has in the graph the value that it had on
        entry, in every call; remarks name it.

    Raises:
        ModelError: ``torch.export`` cannot capture the module, or an argument or result is of a class that
            cannot be taken apart.
    """
    if isinstance(module, ExportedProgram):
        with kept_random_states():
            return _from_program(decomposed(module, "exported program"), None, ()).copy()
    name = type(module).__name__
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{name}: is no torch.nn.Module and no exported program; give one of them")
    call = Call(_arguments(example_inputs, kwargs, name), dict(kwargs or {}))
    with kept_random_states():
        exported = export_module(module, call)
        graph = _from_program(exported.program, exported.outputs, exported.remarks)
    return graph.copy() if exported.shared else graph


def _arguments(
    example_inputs: Sequence[Any] | torch.Tensor, kwargs: Mapping[str, Any] | None, name: str
) -> tuple[Any, ...]:
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,)
    if isinstance(example_inputs, Mapping):
        raise ModelError(
            f"{name}: example inputs: are a dict; give keyword arguments as kwargs, or (dict,) for one"
            " argument"
        )
    if not isinstance(example_inputs, (tuple, list)):
        kind = type(example_inputs).__name__
        raise ModelError(
            f"{name}: example inputs: are a {kind}; give a tensor, or a tuple of the arguments of one call"
        )
    if kwargs is not None and not (
        isinstance(kwargs, Mapping) and all(isinstance(key, str) for key in kwargs)
    ):
        raise ModelError(f"{name}: kwargs: are a {type(kwargs).__name__}; give a dict from name to value")
    if not example_inputs and not kwargs:
        raise ModelError(f"{name}: no example inputs; pass the arguments of one call")
    return tuple(example_inputs)


def load_program(path: Path) -> Graph:
    """Read a ``.pt2`` file written by ``torch.export.save``.

    Raises:
        ModelError: the file is no exported program.
    """
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path}: is no exported program, or is cut short; write it with torch.export.save")
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch raises whatever its zip, json and schema readers do
        raise ModelError(
            f"{path}: cannot be read as an exported program ({first_line(error)}); write it again"
        ) from error
    return _from_program(decomposed(program, str(path)), None, ())


def _from_program(
    program: ExportedProgram, returned: tuple[Leaf, ...] | None, remarks: tuple[Remark, ...]
) -> Graph:
    """``program`` is decomposed. ``returned``: what the module returned, where the program returns its
    tensors, flat."""
    returned = returned_by(program) if returned is None else returned
    batched = _symbolic_axes(program)
    unlifted = program.module(check_guards=False)
    if not isinstance(unlifted, fx.GraphModule):
        raise ModelError("the exported program does not unlift to a torch.fx graph")
    module = fx.GraphModule(
        unlifted, unlifted.graph
    )  # without the hook that checks the old calling convention
    remarks = (*remarks, *drop_changes(module, program), *drop_constants(module, program, returned))
    _flatten_calling_convention(module)
    _restore_batch_norms(module)
    remarks = (*remarks, *store_standardized(module))
    _drop_unused(module)
    _own_parameters(module)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    inputs = tuple(
        Port(node.name, value.dtype, batched.get(spec.arg.name, tuple(value.shape)))
        for node, (spec, value) in zip(placeholders, tensor_inputs(program), strict=True)
    )
    example = tuple(value.detach().clone() for _, value in tensor_inputs(program))
    with torch.no_grad():
        results = module(*example)
    leaves = [leaf for leaf in returned if isinstance(leaf.value, torch.Tensor)]
    stored = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    names = output_names(leaves, stored | {port.name for port in inputs})
    outputs = tuple(
        Port(name, value.dtype, _output_shape(value, inputs))
        for name, value in zip(names, results, strict=True)
    )
    return Graph(module, Signature(inputs, outputs), "aten", example, remarks=remarks)


def _own_parameters(module: fx.GraphModule) -> None:
    """Parameters of the graph's own, without gradients, on the same storage: the caller's module can be
    trained as before. What was tied stays tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter not in made:
                made[parameter] = nn.Parameter(parameter.detach(), requires_grad=False)
            setattr(owner, name, made[parameter])


def _symbolic_axes(program: ExportedProgram) -> dict[str, tuple[int | str, ...]]:
    found: dict[str, tuple[int | str, ...]] = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor):
            found[node.name] = tuple(
                s if isinstance(s, int) else ("batch" if axis == 0 else f"dim_{axis}")
                for axis, s in enumerate(value.shape)
            )
    return found


def _output_shape(value: torch.Tensor, inputs: tuple[Port, ...]) -> tuple[int | str, ...]:
    dynamic = any(port.shape and port.shape[0] == "batch" for port in inputs)
    return ("batch", *value.shape[1:]) if dynamic and value.dim() > 0 else tuple(value.shape)


def _flatten_calling_convention(module: fx.GraphModule) -> None:
    """Plain tensors in, a flat tuple of tensors out, whatever containers the module was written with."""
    module.graph.set_codegen(CodeGen())
    output = next(node for node in module.graph.nodes if node.op == "output")
    leaves = [leaf for leaf in pytree.tree_leaves(output.args[0]) if isinstance(leaf, fx.Node)]
    output.args = (tuple(leaves),)
    module.recompile()


def _restore_batch_norms(module: fx.GraphModule) -> None:
    """Functionalisation makes an inference batch norm a triple; the single-valued operator says the same."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten._native_batch_norm_legit_no_training.default:
            continue
        if not all(user.target is operator.getitem and user.args[1] == 0 for user in node.users):
            continue
        x, weight, bias, mean, var, momentum, eps = node.args
        with graph.inserting_before(node):
            args = (x, weight, bias, mean, var, False, momentum, eps, False)
            single = graph.call_function(torch.ops.aten.batch_norm.default, args)
        single.meta = {key: value for key, value in node.meta.items() if key not in ("val", "tensor_meta")}
        for user in list(node.users):
            user.replace_all_uses_with(single)
            graph.erase_node(user)
        graph.erase_node(node)
    module.recompile()


def _drop_unused(module: fx.GraphModule) -> None:
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [*dict(module.named_parameters()), *dict(module.named_buffers())]:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
    module.recompile()
