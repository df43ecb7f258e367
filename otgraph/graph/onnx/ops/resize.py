"""Resizing: ``F.interpolate`` where it means the same, else one gather (and blend) per axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from otgraph.graph.onnx.ops.integers import Integers, axes_of, integers
from otgraph.graph.onnx.ops.unsupported import Unsupported

Floats = npt.NDArray[np.float32]
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@dataclass(frozen=True)
class _Axis:
    """One resized axis: sizes before and after, and the scale (which need not be their ratio)."""

    axis: int
    size: int
    out: int
    scale: float


def Resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Integers | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Since opset 11. Antialiasing, regions of interest and kept aspect ratios are left to ONNX Runtime."""
    if (
        antialias
        or keep_aspect_ratio_policy != "stretch"
        or coordinate_transformation_mode == "tf_crop_and_resize"
    ):
        raise Unsupported("antialiased, cropping or aspect-keeping resize")
    along = list(range(x.dim())) if axes is None else axes_of(axes, x.dim())
    if sizes is not None and sizes.numel():
        wanted = integers(sizes)
        found = [_Axis(a, x.shape[a], o, o / x.shape[a]) for a, o in zip(along, wanted, strict=True)]
    elif scales is not None:
        found = _scaled(x, along, scales.tolist())
    else:
        raise Unsupported("neither scales nor sizes")
    return _resize(
        x, found, mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a, exclude_outside
    )


def Resize_10(x: Tensor, scales: Tensor | Sequence[float], *, mode: str = "nearest") -> Tensor:
    """Opset 10, and ``Upsample`` of opsets 7 and 9: asymmetric coordinates. How the nearest cell is rounded
    the operator does not say; as in ONNX Runtime: up where an axis shrinks, down where it grows."""
    values = scales.tolist() if isinstance(scales, Tensor) else list(scales)
    found = _scaled(x, list(range(x.dim())), values)
    return _resize(x, found, mode, "asymmetric", "simple", -0.75, 0)


def Upsample(x: Tensor, scales: Tensor | Sequence[float], *, mode: str = "nearest") -> Tensor:
    """As ``Resize_10``."""
    return Resize_10(x, scales, mode=mode)


def _scaled(x: Tensor, along: list[int], scales: list[float]) -> list[_Axis]:
    return [
        _Axis(a, x.shape[a], int(np.floor(np.float32(x.shape[a]) * np.float32(s))), s)
        for a, s in zip(along, scales, strict=True)
    ]


def _resize(
    x: Tensor, found: list[_Axis], mode: str, coordinates: str, rounding: str, cubic: float, exclude: int
) -> Tensor:
    moving = [a for a in found if a.out != a.size or a.scale != 1.0]
    if not moving:
        return x
    if mode == "nearest":
        return _nearest(x, moving, coordinates, rounding)
    if mode == "linear":
        return _linear(x, moving, coordinates)
    if (
        mode == "cubic"
        and _spatial(x, moving, 4)
        and cubic == -0.75
        and not exclude
        and _even(moving, coordinates)
    ):
        return F.interpolate(
            x, _sizes(x, moving), mode="bicubic", align_corners=coordinates == "align_corners"
        )
    raise Unsupported(f"resize mode {mode} with {coordinates}")


def _nearest(x: Tensor, moving: list[_Axis], coordinates: str, rounding: str) -> Tensor:
    cells = [_round(_positions(a, coordinates), _rule(rounding, a)) for a in moving]
    picks = [at.clip(0, a.size - 1).astype(np.int64) for a, at in zip(moving, cells, strict=True)]
    repeats = all(
        a.out % a.size == 0 and np.array_equal(pick, np.arange(a.out) // (a.out // a.size))
        for a, pick in zip(moving, picks, strict=True)
    )
    if repeats and any(_spatial(x, moving, rank) for rank in (3, 4, 5)):
        return F.interpolate(x, _sizes(x, moving), mode="nearest")
    for a, pick in zip(moving, picks, strict=True):
        x = x.index_select(a.axis, torch.from_numpy(pick).to(x.device))
    return x


def _linear(x: Tensor, moving: list[_Axis], coordinates: str) -> Tensor:
    if x.dim() in _LINEAR and _spatial(x, moving, x.dim()) and _even(moving, coordinates):
        corners = coordinates == "align_corners"
        return F.interpolate(x, _sizes(x, moving), mode=_LINEAR[x.dim()], align_corners=corners)
    for a in moving:
        at = _positions(a, coordinates).clip(0, a.size - 1)
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, a.size - 1)
        shape = [-1 if i == a.axis else 1 for i in range(x.dim())]
        blend = torch.from_numpy((at - low).astype(np.float32)).to(x).reshape(shape)
        first = x.index_select(a.axis, torch.from_numpy(low).to(x.device))
        second = x.index_select(a.axis, torch.from_numpy(high).to(x.device))
        x = first * (1 - blend) + second * blend
    return x


def _positions(a: _Axis, coordinates: str) -> Floats:
    """Where each output cell lies in the input, in the float32 arithmetic of ONNX Runtime."""
    at, scale = np.arange(a.out, dtype=np.float32), np.float32(a.scale)
    half = np.float32(0.5)
    if coordinates == "asymmetric":
        return at / scale
    if coordinates == "align_corners":
        return at * np.float32(a.size - 1) / np.float32(a.out - 1) if a.out > 1 else np.zeros(1, np.float32)
    if coordinates == "pytorch_half_pixel" and a.out == 1:
        return np.zeros(1, np.float32)
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return (at + half) / scale - half
    raise Unsupported(f"coordinates {coordinates}")


def _rule(rounding: str, a: _Axis) -> str:
    if rounding == "simple":
        return "ceil" if a.scale < 1 else "floor"
    return rounding


def _round(at: Floats, rounding: str) -> Floats:
    if rounding == "floor":
        return np.floor(at)
    if rounding == "ceil":
        return np.ceil(at)
    if rounding == "round_prefer_floor":
        return np.ceil(at - np.float32(0.5))
    if rounding == "round_prefer_ceil":
        return np.floor(at + np.float32(0.5))
    raise Unsupported(f"nearest mode {rounding}")


def _even(moving: list[_Axis], coordinates: str) -> bool:
    """Whether ``F.interpolate`` uses the same coordinates: it knows sizes only, not scales."""
    if coordinates == "align_corners":
        return all(a.out > 1 for a in moving)
    if coordinates == "pytorch_half_pixel" and any(a.out == 1 for a in moving):
        return False
    return coordinates in ("half_pixel", "pytorch_half_pixel") and all(
        np.float32(a.scale) == np.float32(a.out / a.size) for a in moving
    )


def _spatial(x: Tensor, moving: list[_Axis], rank: int) -> bool:
    return x.dim() == rank and all(a.axis >= 2 for a in moving)


def _sizes(x: Tensor, moving: list[_Axis]) -> list[int]:
    out = list(x.shape)
    for a in moving:
        out[a.axis] = a.out
    return out[2:]
