"""Options of the whole test suite, which tests are run when, and what every test is kept from."""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path

import pytest

SLOW = 0.5
"""Seconds of one case from which a test is left out of ``make quick``."""
LONG, SHARE = 20.0, 3
"""Of a test whose cases together take so many seconds, ``make test`` runs one case in so many."""

_DURATIONS = Path(__file__).with_name("durations.txt")
_NUMBERS = count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden/*.txt; review the diff"
    )


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they took in a whole run (``tools/durations.py``): ``slow``, and of the longest
    all cases but some ``exhaustive``."""
    known = {}
    for line in _DURATIONS.read_text(encoding="utf-8").splitlines():
        seconds, cases, name = line.split(" ", 2)
        known[name] = float(seconds), int(cases)
    seen: Counter[str] = Counter()
    for item in items:
        name = item.nodeid.partition("[")[0]
        if name not in known:
            continue
        seconds, cases = known[name]
        if seconds > SLOW * cases:
            item.add_marker(pytest.mark.slow)
        if seconds > LONG and seen[name] % SHARE:
            item.add_marker(pytest.mark.exhaustive)
        seen[name] += 1


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the measurements of the user, or of another test."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(_NUMBERS)}"
    monkeypatch.setenv("OTGRAPH_CACHE", str(folder))
