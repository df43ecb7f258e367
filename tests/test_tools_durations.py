"""Which tests are left out of which run: the table, what is made of it, that it names tests there are."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_adds_up_cases_and_leaves_out_what_is_quick() -> None:
    record = ElementTree.fromstring(
        """<testsuite>
        <testcase classname="tests.a.test_x" name="test_long[one]" time="2.5"/>
        <testcase classname="tests.a.test_x" name="test_long[two]" time="1.5"/>
        <testcase classname="tests.a.test_x" name="test_quick" time="0.9"/>
        </testsuite>"""
    )
    table = _module(ROOT / "tools" / "durations.py").table
    assert table(record.iter("testcase")) == ["4.0 2 tests/a/test_x.py::test_long"]


class Item:
    """What the hook needs of a test."""

    def __init__(self, nodeid: str) -> None:
        self.nodeid, self.marks = nodeid, []

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.marks.append(mark.name)


def test_slow_and_long_tests_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conftest = _module(ROOT / "tests" / "conftest.py")
    (tmp_path / "durations.txt").write_text(
        "30.0 6 t.py::test_long\n1.1 1 t.py::test_slow\n4.0 40 t.py::test_many\n"
    )
    monkeypatch.setattr(conftest, "_DURATIONS", tmp_path / "durations.txt")
    names = [f"t.py::test_long[{i}]" for i in range(6)] + [
        "t.py::test_slow",
        "t.py::test_many[1]",
        "t.py::test_new",
    ]
    items = [Item(name) for name in names]
    conftest.pytest_collection_modifyitems(items)
    some, rest = ["slow"], ["slow", "exhaustive"]
    assert [item.marks for item in items] == [some, rest, rest, some, rest, rest, some, [], []]


def test_every_line_names_a_test() -> None:
    for line in (ROOT / "tests" / "durations.txt").read_text(encoding="utf-8").splitlines():
        seconds, cases, name = line.split(" ", 2)
        path, _, test = name.partition("::")
        assert float(seconds) > 0 and int(cases) > 0
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, name
