"""Reading DATA: an ``.npz`` file, a folder of them, or ``package.module:callable`` that yields batches.

Nothing here executes pickled content, and nothing here knows a model: whether names, shapes and types fit one
is another check.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from otgraph.data import ONLY_INPUT, Array, Chunk, Data, make_chunk
from otgraph.data_bounds import Bounds
from otgraph.errors import DataError
from otgraph.files import kind_of, why_no_file
from otgraph.foreign import ForeignFailure, describe, run_foreign
from otgraph.named_callable import call_named, import_callable, is_named_callable

_BROKEN_ARCHIVE = (
    *(OSError, EOFError, ValueError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
"""How ``zipfile`` and what it unpacks with refuse: among them encrypted members and unknown compressions."""
_BROKEN_ARRAY = (
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TokenError,
)
"""How NumPy refuses a member: object arrays, and headers, which it reads as Python text."""

LABELS = "labels"
"""The array name that holds labels and is never a model input."""

_END = object()


def load_data(spec: str) -> Data:
    """The data that ``spec`` names.

    * ``file.npz``: one array per model input, first axis = samples, and optionally ``labels``.
    * a folder: each ``.npz`` in it, by name, is one chunk; shapes may differ from chunk to chunk.
    * ``package.module:callable``: called without arguments (modules of the current directory can be
      imported); returns an iterable of batches. A batch is a dict of arrays (``labels`` optional), a pair
      (inputs, labels) with the inputs a dict or one array, or one array for a model with one input.
      Arrays are whatever NumPy can read, torch tensors included. Everything is read before any work: an
      iterator without end is stopped at a million samples or half of the memory, with an error.

    ``DataError`` when there is nothing to read, or it cannot be read as that.
    """
    path = Path(spec)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return Data((_from_npz(path),), spec)
    if is_named_callable(spec):
        return _from_callable(spec)
    kind = kind_of(path)
    raise DataError(
        f"{spec}: {'no such file or folder' if kind is None else f'is {kind}'}; give an .npz, a folder of"
        " them, or package.module:callable"
    )


def _from_folder(folder: Path) -> Data:
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise DataError(f"{folder}: holds no .npz file; store the inputs with numpy.savez")
    chunks = tuple(_from_npz(file) for file in files)
    _check_same_names(chunks, [str(file) for file in files])
    return Data(chunks, str(folder))


def _from_npz(path: Path) -> Chunk:
    if not path.is_file():
        raise DataError(f"{path}: {why_no_file(path)}")
    if not zipfile.is_zipfile(path):
        # NumPy would take such a file for a pickle and refuse it in words that mislead
        raise DataError(f"{path}: is not an .npz file, or is cut short; store the inputs with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: _member(archive, name, path) for name in archive.files}
    except _BROKEN_ARCHIVE as error:
        raise DataError(f"{path}: is damaged ({describe(error)}); store it again") from error
    labels = arrays.pop(LABELS, None)
    return make_chunk(arrays, labels, str(path))


def _member(archive: Mapping[str, Any], name: str, path: Path) -> Array:
    try:
        array = archive[name]
    except _BROKEN_ARRAY as error:
        if "pickle" in str(error):
            raise DataError(
                f"{path}: array {name!r} holds pickled objects, which are never loaded; store plain numbers"
            ) from error
        raise DataError(f"{path}: array {name!r} is damaged ({describe(error)}); store it again") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {name!r} is not an array; store the inputs with numpy.savez")
    return array


def _from_callable(spec: str) -> Data:
    function = import_callable(spec, DataError)
    batches = call_named(spec, function, DataError)
    if not isinstance(batches, Iterable) or isinstance(batches, (str, bytes, Mapping)):
        raise DataError(f"{spec}: returns a {type(batches).__name__}; return or yield batches")
    iterator = call_named(spec, lambda: iter(batches), DataError)
    chunks: list[Chunk] = []
    bounds = Bounds(spec)
    while (batch := call_named(spec, lambda: next(iterator, _END), DataError)) is not _END:
        chunk = _read_batch(batch, f"{spec}: batch {len(chunks)}")
        bounds.add(chunk)
        # a generator may fill one array again and again; what a list holds stays what it is
        chunks.append(chunk if isinstance(batches, Sequence) else _owned(chunk))
    if not chunks:
        raise DataError(f"{spec}: yields nothing; yield at least one batch")
    _check_same_names(chunks, [f"{spec}: batch {number}" for number in range(len(chunks))])
    return Data(tuple(chunks), spec)


def _read_batch(batch: Any, where: str) -> Chunk:
    """Reading a batch runs foreign code too: mappings and arrays may be classes of the user."""
    try:
        return run_foreign(lambda: _from_batch(batch, where))
    except ForeignFailure as failure:
        if isinstance(failure.__cause__, DataError):
            raise failure.__cause__ from None
        raise DataError(f"{where}: raised {failure}; yield plain arrays") from failure.__cause__


def _owned(chunk: Chunk) -> Chunk:
    labels = None if chunk.labels is None else chunk.labels.copy()
    return Chunk({name: array.copy() for name, array in chunk.arrays.items()}, labels)


def _from_batch(batch: Any, where: str) -> Chunk:
    inputs, labels = batch, None
    if isinstance(batch, (tuple, list)):
        if len(batch) != 2:
            raise DataError(
                f"{where}: is a {type(batch).__name__} of {len(batch)}; yield a dict with one array per input"
            )
        inputs, labels = batch
    if not isinstance(inputs, Mapping):
        return make_chunk({ONLY_INPUT: inputs}, labels, where)
    arrays = {str(name): value for name, value in inputs.items() if name != LABELS}
    return make_chunk(arrays, inputs.get(LABELS) if labels is None else labels, where)


def _check_same_names(chunks: Iterable[Chunk], places: list[str]) -> None:
    """Every chunk must hold the same arrays as the first one, labels included."""
    reference: set[str] | None = None
    for chunk, place in zip(chunks, places, strict=True):
        names = {name or "(unnamed)" for name in chunk.arrays} | (
            {LABELS} if chunk.labels is not None else set()
        )
        if reference is None:
            reference = names
        elif names != reference:
            here, there = ", ".join(sorted(names)), ", ".join(sorted(reference))
            raise DataError(
                f"{place}: holds {here}, but {places[0]} holds {there}; store the same arrays in each"
            )
