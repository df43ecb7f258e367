"""What editors show of values that callers fill in: a line of documentation for every field."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTED = {
    "Settings": "otgraph/optimize/settings.py",
    "Study": "otgraph/optimize/study.py",
    "LeastSquaresOptions": "otgraph/repair/least_squares.py",
    "SpanFit": "otgraph/calibrate/span_fit.py",
    "Kernel": "otgraph/latency/kernel.py",
}


def undocumented(source: str, name: str) -> list[str]:
    """The fields of the class ``name`` that no docstring follows."""
    body = next(
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name
    )
    found = []
    for field, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and not said:
            found.append(ast.unparse(field.target))
    return found


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_field_has_a_line(name: str) -> None:
    assert not undocumented((ROOT / DOCUMENTED[name]).read_text(encoding="utf-8"), name)


def test_a_field_without_one_is_caught() -> None:
    source = (
        "class A:\n    '''What.'''\n\n    x: int\n    '''This.'''\n    y: int = 0\n    def f(self): ...\n"
    )
    assert undocumented(source, "A") == ["y"]
