"""Where measurements are kept, whatever the environment says of the user's folders."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from otgraph.cli.cache import find_cache
from otgraph.files import cache_folder

KNOWN = Path(pwd.getpwuid(os.getuid()).pw_dir)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTGRAPH_CACHE", "XDG_CACHE_HOME", "HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_said_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "otgraph"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "otgraph"
    monkeypatch.setenv("OTGRAPH_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder() == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())  # a question makes nothing


@pytest.mark.parametrize("base", ["", "relative", "./x"])
def test_a_cache_home_that_is_no_absolute_path_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    assert cache_folder() == tmp_path / ".cache" / "otgraph"
    monkeypatch.setenv("OTGRAPH_CACHE", "")
    assert cache_folder() == tmp_path / ".cache" / "otgraph"


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_the_system_is_asked(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert cache_folder() == KNOWN / ".cache" / "otgraph"


def test_a_user_whom_nobody_knows_has_none_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert cache_folder() is None
    folder, (remark,) = find_cache()
    assert folder is None and remark.source == "cache"
    assert remark.message.endswith("what is measured is not kept; set OTGRAPH_CACHE")
