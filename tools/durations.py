"""Which tests take long: ``tests/durations.txt`` from the record of a whole run.

    OMP_NUM_THREADS=1 python -m pytest -n 2 --junitxml=run.xml && python tools/durations.py run.xml

One line for each test that takes a second or more, all its cases together: seconds, cases, and its name.
``tests/conftest.py`` leaves such tests out of ``make quick``, and most cases of the longest out of
``make test``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "durations.txt"
LEAST = 1.0
"""Seconds; what takes less is not listed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table; prints what is in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("record", type=Path, nargs="+", help="what --junitxml wrote")
    parser.add_argument("--output", type=Path, default=TABLE)
    chosen = parser.parse_args(arguments)
    lines = table(case for record in chosen.record for case in ElementTree.parse(record).iter("testcase"))
    chosen.output.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} tests, {sum(float(line.split()[0]) for line in lines):.0f} s")
    return 0


def table(cases: Iterable[ElementTree.Element]) -> list[str]:
    """``seconds cases file::test``, by name."""
    seconds: dict[str, float] = {}
    count: dict[str, int] = {}
    for case in cases:
        module, name = case.get("classname", ""), case.get("name", "").partition("[")[0]
        test = f"{module.replace('.', '/')}.py::{name}"
        seconds[test] = seconds.get(test, 0.0) + float(case.get("time", 0.0))
        count[test] = count.get(test, 0) + 1
    return [f"{seconds[test]:.1f} {count[test]} {test}" for test in sorted(seconds) if seconds[test] >= LEAST]


if __name__ == "__main__":
    raise SystemExit(main())
