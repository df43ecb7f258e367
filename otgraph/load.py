"""MODEL: an ``.onnx`` file, a ``.pt2`` exported program, or ``package.module:callable`` → a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from otgraph.data_check import fits
from otgraph.errors import ModelError, UsageError
from otgraph.files import why_no_file
from otgraph.graph.affine import affine_nodes
from otgraph.graph.capture import capture, load_program
from otgraph.graph.graph import Graph, Port
from otgraph.graph.onnx.bounded import Bounded, TooLarge
from otgraph.graph.onnx.bounds import LARGEST_VALUE, in_words
from otgraph.graph.onnx.importer import load_onnx
from otgraph.named_callable import call_named, import_callable, is_named_callable


def load_model(spec: str, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """Read MODEL.

    Args:
        spec: a path, or ``package.module:callable`` that returns ``(module, example_inputs)``, or with
            keyword arguments ``(module, example_inputs, kwargs)``, or an exported program.
        shapes: input name → shape to analyze and measure with, for inputs whose axes are dynamic.

    Raises:
        ModelError: there is no such model, it cannot be read, or a weight is not finite.
    """
    path = Path(spec)
    if path.suffix == ".onnx":
        graph = load_onnx(path)
    elif path.suffix == ".pt2":
        graph = replace(load_program(_existing(path)), sources=(path.resolve(),))
    elif is_named_callable(spec):
        graph = _from_callable(spec)
    else:
        raise ModelError(
            f"{spec}: is no .onnx file, no .pt2 file and no package.module:callable; give one of them"
        )
    check_weights(graph, spec)
    name = path.stem if path.suffix in (".onnx", ".pt2") else spec.rpartition(":")[2]
    graph = replace(graph, name=name)
    return _with_shapes(graph, shapes) if shapes else graph


def check_weights(graph: Graph, where: str) -> None:
    """Raise ``ModelError`` naming the first weight that holds NaN, or that multiplies and holds infinities.

    Infinities elsewhere are left alone: attention masks are made of them.
    """
    multiplies = {view.weight for view in affine_nodes(graph)}
    for name, tensor in graph.tensors().items():
        if not tensor.is_floating_point():
            continue
        bad = ~tensor.isfinite() if name in multiplies else tensor.isnan()
        if bool(bad.any()):
            count = int(bad.sum())
            raise ModelError(
                f"{where}: weight {name} holds {count} values that are not finite; mend the model"
            )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"{path}: {why_no_file(path)}")
    return path


def _from_callable(spec: str) -> Graph:
    function = import_callable(spec, ModelError)
    made: Any = call_named(spec, function, ModelError)
    pieces: Any = (made,) if isinstance(made, torch.export.ExportedProgram) else made
    if not _is_model(pieces):
        returned = type(made).__name__
        raise ModelError(
            f"{spec}: returns a {returned}; return (module, example_inputs) or (module,"
            " example_inputs, kwargs)"
        )
    try:
        return capture(*pieces)
    except ModelError as error:
        raise ModelError(f"{spec}: {error}") from error


def _is_model(made: Any) -> bool:
    """Whether ``made`` is what ``capture`` takes, as a tuple."""
    if not isinstance(made, tuple) or not made:
        return False
    if isinstance(made[0], torch.export.ExportedProgram):
        return len(made) == 1
    return len(made) in (2, 3) and isinstance(made[0], torch.nn.Module)


def _with_shapes(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> Graph:
    names = [port.name for port in graph.signature.inputs]
    unknown = sorted(set(shapes) - set(names))
    if unknown:
        raise UsageError(f"shape of {unknown[0]!r}: the model has no such input (it has {', '.join(names)})")
    for port in graph.signature.inputs:
        if port.name in shapes:
            _check_shape(port, tuple(shapes[port.name]))
    example = [
        tensor if name not in shapes else _resized(tensor, tuple(shapes[name]))
        for name, tensor in zip(names, graph.example, strict=True)
    ]
    return _try_sizes(graph.with_example(tuple(example)))


def _check_shape(port: Port, shape: tuple[int, ...]) -> None:
    if not fits(port.shape, shape):
        raise UsageError(f"shape of {port.name!r}: {shape} does not fit {port}")
    size = math.prod(shape) * port.dtype.itemsize
    if size > LARGEST_VALUE:
        raise UsageError(f"shape of {port.name!r}: {shape} are {in_words(size)}, too much to go on with")


def _try_sizes(graph: Graph) -> Graph:
    """``graph``, which runs on its example, and makes no value there that is too large."""
    try:
        with torch.no_grad(), Bounded(LARGEST_VALUE):
            graph.module(*graph.example)
    except TooLarge as error:
        raise UsageError(f"shapes of the inputs: the model {error}, too much to go on with") from error
    except Exception as error:  # torch has no type of its own for sizes that an operator does not take
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"shapes of the inputs: the model does not run on them: {said}") from error
    return graph


def _resized(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tensor.is_floating_point():
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(tensor.dtype)
    return torch.zeros(shape, dtype=tensor.dtype)
