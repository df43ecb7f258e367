"""``nn.Module`` → ``ExportedProgram``, with a dynamic batch where that is possible."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.export import Dim, ExportedProgram, ShapesCollection, export
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from otgraph.errors import ModelError
from otgraph.foreign import ForeignFailure, blame_briefly, run_foreign
from otgraph.graph.leaves import Leaf, leaves_of
from otgraph.graph.program import ChangedConstant, decomposed
from otgraph.graph.untouched import stand_in
from otgraph.remark import Remark

_INPUT_CONSTANTS = (
    *(bool, int, float, complex, str, torch.SymInt, torch.SymFloat, torch.SymBool),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_OWN_ATTRIBUTES = frozenset(vars(torch.nn.Module()))


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a module."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def mapped(self, change: Any) -> Call:
        """The call with every tensor replaced by ``change`` of it."""
        args, kwargs = pytree.tree_map_only(torch.Tensor, change, (self.args, dict(self.kwargs)))
        return Call(args, kwargs)

    def own(self) -> Call:
        """The call with tensors of its own: a module may change its inputs."""
        return self.mapped(lambda tensor: tensor.detach().clone())


@dataclass(frozen=True)
class Exported:
    """``program``, decomposed, returns the tensors of ``outputs`` (the constants among them left out), flat;
    where they are None it returns what the module does: a ``torch.fx`` module is exported without hooks.
    ``shared``: it reads the very weights of the user's module."""

    program: ExportedProgram
    outputs: tuple[Leaf, ...] | None
    remarks: tuple[Remark, ...]
    shared: bool


def export_module(module: torch.nn.Module, call: Call) -> Exported:
    """Export with a dynamic batch if possible. A batch of 1 carries no dim and would be specialized, so it is
    doubled where the module allows. The module is not changed.

    Raises:
        ModelError: an argument cannot be taken apart, or ``torch.export`` cannot capture the module.
    """
    name = type(module).__name__
    _check_arguments(module, call)
    _check_initialized(module)
    doubled = call.mapped(_doubled)
    missed: list[Remark] = []
    failure: BaseException | None = None
    for tried, dynamic in ((doubled, True), (doubled, False), (call, False)):
        try:
            done = run_foreign(lambda tried=tried, dynamic=dynamic: _attempt(module, tried, dynamic=dynamic))
            return replace(done, remarks=(*missed, *done.remarks))
        except ForeignFailure as raised:
            failure = raised.__cause__
            if failure is None or isinstance(failure, ModelError):
                raise (failure or raised) from None
            if dynamic:
                why = f"is not dynamic: {blame_briefly(failure)}"
                missed.append(Remark("missed", "capture", "batch", why))
    assert failure is not None
    raise ModelError(f"{name}: cannot be captured by torch.export ({blame_briefly(failure)})") from failure


def _attempt(module: torch.nn.Module, call: Call, *, dynamic: bool) -> Exported:
    with torch.no_grad(), _quiet():
        remarks = _trial(module, call)  # a bad batch shows here, with the user's own message
        try:
            done = _exported(module, call, dynamic=dynamic, adopt=False)
        except ChangedConstant:
            done = _exported(module, call, dynamic=dynamic, adopt=True)
    return replace(done, remarks=(*remarks, *done.remarks))


def _exported(module: torch.nn.Module, call: Call, *, dynamic: bool, adopt: bool) -> Exported:
    """``adopt``: tensors that are plain attributes are made buffers first, which may be written to."""
    found: list[Leaf] = []
    own = call.own()
    with stand_in(module) as used:
        if adopt:
            _make_buffers(used)
        used.register_forward_hook(_flattening(found, type(module).__name__))
        shapes = _dynamic_batch(own) if dynamic else None
        program = export(used, own.args, dict(own.kwargs), dynamic_shapes=shapes, strict=False)
        program = decomposed(program, type(module).__name__)
        shared = used is module
    return Exported(program, tuple(found) or None, (), shared)


def _make_buffers(module: torch.nn.Module) -> None:
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor):
                delattr(part, name)
                part.register_buffer(name, value, persistent=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Recurrent layers refresh a list of their weights, and caches are filled; the export warns of it, and is
    right."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attributes?", UserWarning)
        yield


def _trial(module: torch.nn.Module, call: Call) -> tuple[Remark, ...]:
    """Call a stand-in once; says which attributes that changes, and raises where no tensor comes out."""
    own = call.own()
    with stand_in(module) as used:
        before = _plain_attributes(used)
        leaves = leaves_of(used(*own.args, **own.kwargs), f"{type(module).__name__}: output")
        after = _plain_attributes(used)
    if not any(isinstance(leaf.value, torch.Tensor) for leaf in leaves):
        raise ModelError(f"{type(module).__name__}: returns no tensor; return at least one")
    changed = [name for name, value in after.items() if before.get(name, _ABSENT) != value]
    said = "is changed by forward; the graph does what the first call does"
    return tuple(Remark("analysis", "capture", f"attribute {name}", said) for name in changed)


_ABSENT = object()


def _plain_attributes(module: torch.nn.Module) -> dict[str, Any]:
    """What can be compared of the attributes that are no part of a module's state: numbers and texts, which
    tensor it is, and how long a container is."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            known = f"{path}.{name}" if path else name
            if name in _OWN_ATTRIBUTES:
                continue
            if value is None or isinstance(value, (bool, int, float, str)):
                found[known] = (type(value), value)
            elif isinstance(value, torch.Tensor):
                found[known] = (torch.Tensor, id(value), value._version if not value.is_inference() else 0)
            elif isinstance(value, (list, dict, set)):
                found[known] = (type(value), len(value))
    return found


def _flattening(found: list[Leaf], name: str) -> Any:
    """A forward hook that makes a flat tuple of tensors of what is returned, and notes what it was."""

    def flatten(_module: torch.nn.Module, _args: Any, returned: Any) -> tuple[torch.Tensor, ...]:
        found[:] = leaves_of(returned, f"{name}: output")
        return tuple(leaf.value for leaf in found if isinstance(leaf.value, torch.Tensor))

    return flatten


def _doubled(leaf: torch.Tensor) -> torch.Tensor:
    return torch.cat([leaf, leaf]) if leaf.dim() > 0 and leaf.shape[0] == 1 else leaf


def _dynamic_batch(call: Call) -> ShapesCollection:
    batch, shapes = Dim("batch"), ShapesCollection()
    for leaf in pytree.tree_leaves((call.args, dict(call.kwargs))):
        if isinstance(leaf, torch.Tensor) and leaf.dim() > 0:
            shapes[leaf] = {0: batch}
    return shapes


def _check_arguments(module: torch.nn.Module, call: Call) -> None:
    """Refuse what ``torch.export`` refuses, in words that say which argument and what to do."""
    names = _parameter_names(module)
    found: list[tuple[str, Any]] = []
    for number, value in enumerate(call.args):
        found.append((names[number] if number < len(names) else f"argument {number}", value))
    found.extend(call.kwargs.items())
    for name, value in found:
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if leaf is None or isinstance(leaf, (torch.Tensor, *_INPUT_CONSTANTS)):
                continue
            kind = type(leaf).__name__
            where = f"{type(module).__name__}: input {name}{pytree.keystr(path)}: is a {kind}"
            if hasattr(leaf, "__array__"):
                raise ModelError(f"{where}; give a torch tensor")
            raise ModelError(
                f"{where}, which torch.export cannot take apart; register a data class with "
                f"torch.export.register_dataclass({kind}), or pass its tensors"
            )


def _check_initialized(module: torch.nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"{type(module).__name__}: {name} is not initialized; call it once, or load its weights"
            )


def _parameter_names(module: torch.nn.Module) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [each.name for each in parameters if each.kind in kinds]
