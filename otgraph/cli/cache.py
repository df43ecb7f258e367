"""The cache of measurements, as commands use it: what is wrong with it is said, and never ends a run."""

from __future__ import annotations

from pathlib import Path

from otgraph.files import ENVIRONMENT, cache_folder
from otgraph.remark import Remark


def find_cache() -> tuple[Path | None, tuple[Remark, ...]]:
    """The folder of the cache, and where there is none, why."""
    folder = cache_folder()
    if folder is not None:
        return folder, ()
    text = f"the user has no home folder, so what is measured is not kept; set {ENVIRONMENT}"
    return None, (Remark("missed", "cache", "no folder", text),)


def of_cache(remark: Remark) -> bool:
    """Whether ``remark`` is about the cache: then it is shown, whatever else is."""
    return remark.source == "cache"
