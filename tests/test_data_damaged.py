"""Archives that are damaged inside: NumPy and zipfile refuse them in many ways, we in one."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from otgraph.data_sources import load_data
from otgraph.errors import DataError


def archive(path: Path, content: bytes) -> str:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", content)
    return str(path)


def member(header: bytes) -> bytes:
    text = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


HEADERS = {
    "open bracket": b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3",
    "no Python": b"{'descr': '<f4' 'fortran_order': : False}",
    "no type": b"{'descr': '<z9', 'fortran_order': False, 'shape': (2, 3), }",
    "absurd": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976, 3), }",
    "negative": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3), }",
    "unhashable": b"{[]: 1, 'descr': '<f4'}",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_damaged_header(tmp_path: Path, kind: str) -> None:
    spec = archive(tmp_path / "bad.npz", member(HEADERS[kind]))
    with pytest.raises(DataError, match=r"bad\.npz: (array 'x' )?is damaged \(.*\); store it again"):
        load_data(spec)


@pytest.mark.parametrize(("place", "value"), [(8, 99), (6, 1)])
def test_an_archive_of_an_unknown_or_secret_kind(tmp_path: Path, place: int, value: int) -> None:
    stream = io.BytesIO()
    np.savez(stream, x=np.ones((2, 3), np.float32))
    data = bytearray(stream.getvalue())
    central = data.find(b"PK\x01\x02")
    data[place] = value  # in both headers: 8 is the compression, 6 the flags (encrypted)
    data[central + place + 2] = value
    (tmp_path / "bad.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"bad\.npz: is damaged \(.*\); store it again"):
        load_data(str(tmp_path / "bad.npz"))
