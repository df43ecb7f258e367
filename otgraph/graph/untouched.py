"""Running a user's module without changing it: on a copy, or on itself with everything put back."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def stand_in(module: nn.Module) -> Iterator[nn.Module]:
    """A module in the state that ``module`` is in, to be run and edited at will, with every training flag
    cleared: ``eval`` is forbidden on exported modules.

    It is a deep copy. A module that cannot be copied (it holds a lock, or a tensor with a gradient history),
    or whose copy would still run parts of the original, stands in for itself and is put back at the end: its
    tensors, attributes, hooks and training flags, and the containers among its attributes.
    """
    copied = None if _is_closed_over(module) else _copied(module)
    used = module if copied is None else copied
    before = None if copied is not None else _State(module)
    try:
        for part in used.modules():
            part.training = False
        yield used
    finally:
        if before is not None:
            before.restore()


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Put the states of the global random number generators back."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _copied(module: nn.Module) -> nn.Module | None:
    try:
        copied = copy.deepcopy(module)
    except Exception:  # noqa: BLE001  (attributes of any class, which raise what they like)
        return None
    shared = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    own = (*copied.parameters(), *copied.buffers())
    return None if copied is module or any(id(tensor) in shared for tensor in own) else copied


def _is_closed_over(module: nn.Module) -> bool:
    """Whether a function that was put on the module (a replaced ``forward``, a hook) refers to parts of it:
    copies of functions are the functions themselves, so the copy would run the original's parts."""
    parts = {id(part) for part in (*module.modules(), *module.parameters(), *module.buffers())}
    for part in module.modules():
        for value in vars(part).values():
            functions = value.values() if isinstance(value, dict) else (value,)
            if any(_refers_to(function, parts, 3) for function in functions):
                return True
    return False


def _refers_to(function: Any, parts: set[int], depth: int) -> bool:
    """Whether a plain function, or one that it calls in turn, reads one of ``parts``. Bound methods and
    partials are copied with what they are bound to."""
    if not isinstance(function, FunctionType) or not depth:
        return False
    read = [function.__globals__.get(name) for name in function.__code__.co_names]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell
            read.append(cell.cell_contents)
    read = [getattr(value, "__self__", value) for value in read]
    return any(id(value) in parts or _refers_to(value, parts, depth - 1) for value in read)


class _State:
    """What a module is: attributes of all its parts, containers among them, and the values of its tensors."""

    def __init__(self, module: nn.Module) -> None:
        self._attributes = [(part, dict(vars(part))) for part in module.modules()]
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._tensors: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]] = {}
        for _, attributes in self._attributes:
            for value in attributes.values():
                self._note(value)

    def _note(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if id(value) not in self._tensors:
                inner = value.detach()
                self._tensors[id(value)] = (value, inner, inner.clone(), value.requires_grad)
        elif isinstance(value, (dict, list, set)) and id(value) not in self._containers:
            self._containers[id(value)] = (value, copy.copy(value))
            for item in value.values() if isinstance(value, dict) else value:
                self._note(item)
        elif isinstance(value, tuple):
            for item in value:
                self._note(item)

    def restore(self) -> None:
        for part, attributes in self._attributes:
            vars(part).clear()
            vars(part).update(attributes)
        for container, kept in self._containers.values():
            container.clear()
            if isinstance(container, list):
                container.extend(kept)
            else:
                container.update(kept)
        for tensor, inner, values, requires_grad in self._tensors.values():
            _restore_tensor(tensor, inner, values)
            if tensor.is_leaf:
                tensor.requires_grad_(requires_grad)


def _restore_tensor(tensor: torch.Tensor, inner: torch.Tensor, values: torch.Tensor) -> None:
    """``inner`` has the storage that ``tensor`` had; other bits than ``values`` are written only where they
    differ, for a write would invalidate gradient histories."""
    if (tensor.data_ptr(), tensor.shape, tensor.dtype) != (inner.data_ptr(), inner.shape, inner.dtype):
        tensor.data = inner
    if not torch.equal(inner, values):
        with torch.no_grad():
            inner.data.copy_(values)
