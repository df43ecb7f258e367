"""How long one convolution or matrix product takes on an engine, as a function of its widths.

A node's time is no multiple of its MACs: narrow layers use the vector units badly, depthwise ones are bound
by memory. So each distinct node is built as a model of its own, timed at a few widths, and a bilinear form
``t = a + b·in·out + c·in + d·out`` with non-negative coefficients is fitted to relative errors. The kernel's
own time is taken (what the engine inserts around a node in isolation is not what it inserts in the network).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import nnls

from otgraph.engines.engine import Engine
from otgraph.errors import ModelError
from otgraph.latency.table import LatencyTable

RUNS = 12
"""Runs per width; the minimum counts."""

OPSET = 17


@dataclass(frozen=True)
class Kernel:
    """One node: ``conv``, ``depthwise`` or ``linear``, its widths, and what else its time depends on.

    ``inputs`` and ``outputs``: channels (of a depthwise convolution the same). ``space``: the spatial extent
    of the input, or for ``linear`` the number of rows. ``kernel``, ``stride``, ``dilation`` per spatial axis,
    ``pads`` as ONNX writes them."""

    kind: Literal["conv", "depthwise", "linear"]
    inputs: int
    outputs: int
    space: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    def at(self, inputs: int, outputs: int) -> Kernel:
        """The same node with other widths."""
        return replace(self, inputs=inputs, outputs=outputs)


@dataclass(frozen=True)
class KernelTime:
    """Milliseconds as ``constant + both·in·out + inputs·in + outputs·out``; ``error`` is the largest relative
    deviation from what was measured."""

    constant: float
    both: float
    inputs: float
    outputs: float
    error: float = 0.0

    def at(self, inputs: float, outputs: float) -> float:
        """Milliseconds at these widths."""
        return self.constant + self.both * inputs * outputs + self.inputs * inputs + self.outputs * outputs


def time_kernels(
    engine: Engine,
    kernels: Sequence[Kernel],
    *,
    threads: int = 1,
    multiple: int = 8,
    table: LatencyTable | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[Kernel, KernelTime]:
    """Time every distinct kernel, those aside that ``table`` knows. One that the engine cannot run by itself
    is left out."""
    found: dict[Kernel, KernelTime] = {}
    distinct = list(dict.fromkeys(kernels))
    for number, kernel in enumerate(distinct, 1):
        known = None if table is None else table.load(kernel)
        if known is not None:
            found[kernel] = KernelTime(**known)
            continue
        progress(f"timing node {number} of {len(distinct)}")
        try:
            points = [
                (i, o, _milliseconds(engine, kernel.at(i, o), threads)) for i, o in _grid(kernel, multiple)
            ]
        except ModelError:
            continue
        found[kernel] = fit_time(points, tied=kernel.kind == "depthwise")
        if table is not None:
            table.store(kernel, found[kernel])
    return found


def fit_time(points: Sequence[tuple[int, int, float]], *, tied: bool = False) -> KernelTime:
    """The non-negative form nearest in relative error to ``(inputs, outputs, milliseconds)`` points.

    ``tied``: inputs and outputs are the same channels, so only the linear part is fitted.
    """
    i, o, t = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    columns = [np.ones_like(t), np.zeros_like(t) if tied else i * o, np.zeros_like(t) if tied else i, o]
    scale = np.array([max(float(column.max()), 1.0) for column in columns])
    design = np.stack(columns, axis=1) / scale / t[:, None]
    found = nnls(design, np.ones_like(t))[0] / scale
    form = KernelTime(*(float(value) for value in found))
    worst = max(abs(form.at(a, b) / c - 1) for a, b, c in points)
    return replace(form, error=float(worst))


def _grid(kernel: Kernel, multiple: int) -> list[tuple[int, int]]:
    """Full, three quarters, half and a quarter of either width, in multiples the engine likes."""

    def widths(size: int) -> list[int]:
        shares = (max(multiple * round(size * q / multiple), multiple) for q in (0.75, 0.5, 0.25))
        return sorted({size, *(w for w in shares if w < size)}, reverse=True)

    if kernel.kind == "depthwise":
        return [(w, w) for w in widths(kernel.outputs)]
    return [(i, o) for i in widths(kernel.inputs) for o in widths(kernel.outputs)]


def _milliseconds(engine: Engine, kernel: Kernel, threads: int) -> float:
    model, shape = _model(kernel)
    session = engine.load(model.SerializeToString(), threads=threads)
    feed = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    times = session.profile({"x": feed}, RUNS)
    kernels = [time.ms for time in times if not time.op_type.startswith("Reorder")]
    if not kernels:
        raise ModelError(f"{kernel.kind}: the engine reports no time for it")
    return max(sum(kernels), 5e-4)  # the profiler counts whole microseconds


def _model(kernel: Kernel) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    if kernel.kind == "linear":
        shape = (kernel.space[0], kernel.inputs)
        weight = _random((kernel.inputs, kernel.outputs))
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    else:
        groups = kernel.outputs if kernel.kind == "depthwise" else 1
        shape = (1, kernel.inputs, *kernel.space)
        weight = _random((kernel.outputs, kernel.inputs // groups, *kernel.kernel))
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups, **_attributes(kernel))
    made = helper.make_graph(
        [node],
        "kernel",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(_random((kernel.outputs,)), "b")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8), shape


def _attributes(kernel: Kernel) -> dict[str, Any]:
    return {"strides": kernel.stride, "pads": kernel.pads, "dilations": kernel.dilation}


def _random(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32) * np.float32(0.1)
