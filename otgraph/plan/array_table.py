"""The table at the end of a plan file that holds the arrays, so that the part above it can be read by
people."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otgraph.errors import PlanError

DTYPES = {"int32": "<i4", "float64": "<f8"}


def encode(values: Sequence[int] | Sequence[float], dtype: str) -> dict[str, Any]:
    """A vector as JSON: base64 of its little-endian bytes, with its dtype and shape."""
    array = np.array(values, DTYPES[dtype])
    return {"dtype": dtype, "shape": [len(array)], "base64": base64.b64encode(array.tobytes()).decode()}


def decode(table: Mapping[str, Any], key: str, dtype: str, size: int, where: str) -> npt.NDArray[Any]:
    """The vector ``key`` of the table, which must have ``size`` values of ``dtype``.

    Raises:
        PlanError: it is not in the table, or is not that.
    """
    if key not in table:
        raise PlanError(f"{where}: names the array {key!r}, which the table 'arrays' does not have")
    entry = table[key]
    if entry["dtype"] != dtype or entry["shape"] != [size]:
        raise PlanError(
            f"{where}: arrays[{key!r}] must be {dtype} of shape [{size}], but is {entry['dtype']} of shape"
            f" {entry['shape']}"
        )
    try:
        raw = base64.b64decode(entry["base64"], validate=True)
    except ValueError as error:  # of its own kind, and of a plain one for letters beyond ASCII
        raise PlanError(f"{where}: arrays[{key!r}] is not base64 ({error})") from error
    if len(raw) != size * np.dtype(DTYPES[dtype]).itemsize:
        raise PlanError(f"{where}: arrays[{key!r}] holds {len(raw)} bytes, which is not {size} of {dtype}")
    values = np.frombuffer(raw, DTYPES[dtype])
    if not np.isfinite(values).all():
        raise PlanError(f"{where}: arrays[{key!r}] holds a value that is not finite")
    return values
