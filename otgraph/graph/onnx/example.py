"""Example inputs for a model that came without any."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime as ort
import torch

from otgraph.errors import ModelError
from otgraph.graph.graph import Port
from otgraph.graph.onnx.bounds import LARGEST_VALUE, in_words
from otgraph.graph.onnx.opaque import ORT_ERRORS
from otgraph.graph.onnx.write_file import LARGEST, inner_bytes
from otgraph.remark import Remark

_SIDES: tuple[tuple[int, ...], ...] = (
    *(
        (224,),
        (320,),
        (48, 320),
        (32, 320),
        (64,),
        (48,),
        (32,),
        (640,),
        (128,),
        (299,),
        (256,),
        (512,),
        (16,),
        (8,),
    ),
)
"""Sizes tried for the dynamic axes of an input; the last repeats where there are more axes."""


def find_example(
    model: onnx.ModelProto, folder: Path | None, inputs: tuple[Port, ...], where: str
) -> tuple[tuple[torch.Tensor, ...], tuple[Remark, ...]]:
    """One input per port: normal noise, or zeros for integers. A free first axis is 2; other free axes get
    the first sizes with which the model runs in ONNX Runtime, and a remark says which.

    Raises:
        ModelError: it runs with none of them, or an input would be too large to make one.
    """
    free = {size for port in inputs for size in port.shape if isinstance(size, str)}
    candidates = list(_candidates(inputs)) if free else [{}]
    if not free:
        return _inputs(inputs, {}, where), ()
    session = _session(model, folder)
    if session is None:
        chosen = candidates[0]
        return _inputs(inputs, chosen, where), (
            _remark(where, chosen, "guessed: ONNX Runtime cannot open the model"),
        )
    for sizes in candidates:
        example = _inputs(inputs, sizes, where)
        if _runs(session, inputs, example):
            guessed = any(
                port.shape[1:] and any(isinstance(s, str) for s in port.shape[1:]) for port in inputs
            )
            small = any(sizes.get(str(port.shape[0])) == 1 for port in inputs if port.shape)
            if small or guessed:
                return example, (_remark(where, sizes, "sizes found by trying"),)
            return example, ()
    names = ", ".join(sorted(free))
    raise ModelError(
        f"{where}: does not run with any size tried for its free axes ({names}); pass example inputs"
    )


def _candidates(inputs: tuple[Port, ...]) -> Iterator[dict[str, int]]:
    """Sizes by axis name, the most likely first."""
    batch = {str(port.shape[0]) for port in inputs if port.shape and isinstance(port.shape[0], str)}
    other = list(
        dict.fromkeys(s for port in inputs for s in port.shape if isinstance(s, str) and s not in batch)
    )
    for first in (2, 1):
        for sides in _SIDES if other else ((),):
            sizes = dict.fromkeys(batch, first)
            sizes.update({name: sides[min(i, len(sides) - 1)] for i, name in enumerate(other)})
            yield sizes


def _inputs(ports: tuple[Port, ...], sizes: dict[str, int], where: str) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for port in ports:
        shape = [sizes[s] if isinstance(s, str) else s for s in port.shape]
        size = math.prod(shape) * port.dtype.itemsize
        if size > LARGEST_VALUE:
            raise ModelError(
                f"{where}: input {port.name!r} of shape {shape} would be {in_words(size)}; export the model"
                " with smaller axes"
            )
        if port.dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator).to(port.dtype))
        else:
            made.append(torch.zeros(shape, dtype=port.dtype))
    return tuple(made)


def _session(model: onnx.ModelProto, folder: Path | None) -> ort.InferenceSession | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if inner_bytes(model) > LARGEST:
        return None
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS:
        return None


def _runs(session: ort.InferenceSession, ports: tuple[Port, ...], example: tuple[torch.Tensor, ...]) -> bool:
    try:
        session.run(None, {port.name: x.numpy() for port, x in zip(ports, example, strict=True)})
    except ORT_ERRORS:
        return False
    return True


def _remark(where: str, sizes: dict[str, int], how: str) -> Remark:
    said = ", ".join(f"{name}={size}" for name, size in sorted(sizes.items()))
    return Remark("analysis", "import", where, f"example inputs use {said} ({how})")
