"""The cache of trials: what is wrong with its file costs time and a remark, never the run."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from otgraph.optimize.trial_cache import TrialCache


def said(cache: TrialCache) -> list[str]:
    assert all(remark.source == "cache" and remark.kind == "missed" for remark in cache.remarks)
    return [remark.message for remark in cache.remarks]


SPOILT = [
    b"",
    b'{"k": 1.5',
    b"[1]",
    b"null",
    b"1",
    b'{"k": "fast"}',
    b'{"k": null}',
    b'{"k": NaN}',
    b'{"k": Infinity}',
    b'{"k": 1e999}',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"k": 1' + b"0" * 400 + b"}",
]


@pytest.mark.parametrize("content", SPOILT, ids=lambda content: str(content[:12]))
def test_a_damaged_file_is_made_anew_with_a_remark(tmp_path: Path, content: bytes) -> None:
    TrialCache(tmp_path, "x").put("k", 1.5)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    cache = TrialCache(tmp_path, "x")
    assert cache.get("k") is None
    (text,) = said(cache)
    assert text.startswith("was damaged (") and text.endswith("is made anew; what it held is measured again")
    assert cache.remarks[0].where == str(path)
    cache.put("k", 2.5)
    again = TrialCache(tmp_path, "x")
    assert again.get("k") == 2.5 and not again.remarks


def test_a_new_one_and_a_sound_one_say_nothing(tmp_path: Path) -> None:
    first = TrialCache(tmp_path / "new" / "folder", "x")
    first.put("k", 0.0)
    first.put("below", -1e-17)  # by rounding
    again = TrialCache(tmp_path / "new" / "folder", "x")
    assert (again.get("k"), again.get("below")) == (0.0, -1e-17)
    assert not first.remarks and not again.remarks


def test_what_is_no_number_is_known_and_not_kept(tmp_path: Path) -> None:
    first = TrialCache(tmp_path, "x")
    first.put("far", math.inf)
    first.put("k", 1.0)
    assert first.get("far") == math.inf
    again = TrialCache(tmp_path, "x")
    assert (again.get("far"), again.get("k"), again.remarks) == (None, 1.0, [])


@pytest.mark.parametrize("folder", ["file", "/proc/otgraph", "/sys/otgraph"])
def test_a_place_that_cannot_be_written_is_left_alone(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("mine")
    cache = TrialCache(tmp_path / folder, "x")
    for value in (1.0, 2.0):
        cache.put("k", value)
    assert cache.get("k") == 2.0
    assert sum("cannot be written (" in text for text in said(cache)) == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_its_place_is_left_alone(tmp_path: Path) -> None:
    TrialCache(tmp_path, "x").put("k", 1.5)
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.mkdir()
    cache = TrialCache(tmp_path, "x")
    cache.put("k", 1.0)
    assert [text[:17] for text in said(cache)] == ["cannot be read (I", "cannot be written"]


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TrialCache(tmp_path, "x").put("k", 1.5)

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        cache = TrialCache(tmp_path, "x")
        cache.put("other", 2.0)
    (text,) = said(cache)
    assert "No space left on device" in text and text.endswith("what is measured is not kept")
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == {"k": 1.5}


def test_one_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TrialCache(tmp_path, "x").put("k", 1.5)

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "read_text", refuse)
    cache = TrialCache(tmp_path, "x")
    assert cache.get("k") is None
    assert said(cache) == ["cannot be read (Permission denied); all is measured again"]
