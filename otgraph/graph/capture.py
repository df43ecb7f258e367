"""``nn.Module`` / ``ExportedProgram`` → ``Graph`` in the ``aten`` dialect (``torch.export``)."""

from __future__ import annotations

import operator
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from otgraph.errors import ModelError
from otgraph.graph.graph import Graph, Port, Signature
from otgraph.graph.standardize import store_standardized
from otgraph.remark import Remark


def capture(
    module: torch.nn.Module | ExportedProgram, example_inputs: Sequence[Any] | torch.Tensor = ()
) -> Graph:
    """Capture a trained network as a graph.

    Args:
        module: an ``nn.Module`` (a ``torch.fx`` ``GraphModule`` is one) or an ``ExportedProgram``. It is
            captured as it infers; afterwards the training flags of all its parts are what they were.
        example_inputs: the positional arguments of one call; tensors share their first axis, the batch. Not
            used for an ``ExportedProgram``, which carries its own.

    Returns:
        A graph whose batch axis is dynamic where ``torch.export`` can make it so; a remark says where not.

    Raises:
        ModelError: ``torch.export`` cannot capture the module.
    """
    if isinstance(module, ExportedProgram):
        return _from_program(module, ())
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    if not inputs:
        raise ModelError(f"{type(module).__name__}: no example inputs; pass the arguments of one call")
    with _inferring(module):
        program, remarks = _export(module, inputs)
    return _from_program(program, remarks)


@contextmanager
def _inferring(module: torch.nn.Module) -> Iterator[None]:
    """Clear every training flag, and restore each: ``eval`` is forbidden on exported modules, and ``train``
    forgets which submodules were frozen."""
    flags = [(part, part.training) for part in module.modules()]
    for part, _ in flags:
        part.training = False
    try:
        yield
    finally:
        for part, training in flags:
            part.training = training


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
            f"{path}: cannot be read as an exported program ({_first_line(error)}); write it again"
        ) from error
    return _from_program(program, ())


@dataclass(frozen=True)
class _Attempt:
    inputs: tuple[Any, ...]
    dynamic: bool


def _export(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[ExportedProgram, tuple[Remark, ...]]:
    """Dynamic batch if possible; a batch of 1 carries no dim and would be specialized, so it is doubled."""
    remarks: list[Remark] = []
    attempts = [_Attempt(_with_batch_of_two(inputs), True), _Attempt(_with_batch_of_two(inputs), False)]
    attempts.append(_Attempt(inputs, False))
    failure: Exception | None = None
    for attempt in attempts:
        try:
            shapes = _dynamic_batch(attempt.inputs) if attempt.dynamic else None
            with torch.no_grad(), warnings.catch_warnings():
                # recurrent layers refresh a list of their weights; the export warns of it, and is right
                warnings.filterwarnings("ignore", "The tensor attributes", UserWarning)
                module(*attempt.inputs)  # a bad batch shows here, with the user's own message
                program = export(module, attempt.inputs, dynamic_shapes=shapes, strict=False)
            return program, tuple(remarks)
        except Exception as error:  # noqa: BLE001  (user code and torch.export raise anything)
            failure = error
            if attempt.dynamic:
                remarks.append(Remark("missed", "capture", "batch", f"is not dynamic: {_first_line(error)}"))
    name = type(module).__name__
    raise ModelError(f"{name}: cannot be captured by torch.export ({_first_line(failure)})") from failure


def _with_batch_of_two(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    def double(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == 1:
            return torch.cat([leaf, leaf])
        return leaf

    return pytree.tree_map(double, inputs)


def _dynamic_batch(inputs: tuple[Any, ...]) -> Any:
    batch = Dim("batch")

    def axes(leaf: Any) -> Any:
        return {0: batch} if isinstance(leaf, torch.Tensor) and leaf.dim() > 0 else None

    return pytree.tree_map(axes, inputs)


def _from_program(program: ExportedProgram, remarks: tuple[Remark, ...]) -> Graph:
    program = program.run_decompositions({})  # functional, composite operators kept
    leaves = pytree.tree_leaves(program.example_inputs)
    example = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    batched = _symbolic_axes(program)
    unlifted = program.module(check_guards=False)
    if not isinstance(unlifted, fx.GraphModule):
        raise ModelError("the exported program does not unlift to a torch.fx graph")
    module = fx.GraphModule(
        unlifted, unlifted.graph
    )  # without the hook that checks the old calling convention
    _flatten_calling_convention(module)
    _restore_batch_norms(module)
    remarks = (*remarks, *store_standardized(module))
    _drop_unused(module)
    _own_parameters(module)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    inputs = tuple(
        Port(node.name, value.dtype, batched.get(name, tuple(value.shape)))
        for node, name, value in zip(placeholders, names, example, strict=False)
    )
    if len(inputs) != len(placeholders):
        raise ModelError("inputs that are no tensors are not supported; bind them in a wrapping module")
    with torch.no_grad():
        results = module(*example)
    outputs = tuple(
        Port(f"output_{i}" if len(results) > 1 else "output", value.dtype, _output_shape(value, inputs))
        for i, value in enumerate(results)
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


def _first_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
