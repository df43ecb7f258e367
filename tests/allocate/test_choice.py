"""Choices: equal ones have equal keys."""

from __future__ import annotations

from otgraph.allocate.choice import Choice


def test_equal_choices_have_equal_keys() -> None:
    sizes = {"a": 8, "b": 4}
    keys = {Choice({"b": 4, "a": 6}, ("y", "x")).key(sizes), Choice({"a": 6}, ("x", "y")).key(sizes)}
    assert keys == {"a:6 -x -y"}
    assert Choice({"a": 8}).key(sizes) == Choice().key(sizes) == ""
    assert Choice({"a": 6}).key(sizes) != Choice({"a": 4}).key(sizes)
