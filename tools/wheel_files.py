"""Where an installed package keeps its files, without importing the package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def package_folder(name: str) -> Path:
    """The folder of the installed package ``name``; ``SystemExit`` names the extra that brings it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f'{name} is not installed; run: pip install -e ".[examples]"')
    return Path(next(iter(spec.submodule_search_locations)))
