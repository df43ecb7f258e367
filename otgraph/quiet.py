"""No chatter on the console while an exporter or converter works, and none over the network."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, warnings and log records below ERROR are dropped, whoever makes them."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def without(module: str) -> Iterator[None]:
    """Within the block ``import module`` fails, as if it were not installed, unless it has been imported."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # pyright: ignore[reportArgumentType]  (the documented way to forbid an import)
    try:
        yield
    finally:
        del sys.modules[module]
