"""Patterns of dim names: two special characters, everything else literally."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otgraph.graph.axes.name_pattern import allowed, matches


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("conv2d_10.w_0[1]", "conv2d_10.w_0[1]", True),
        ("conv2d_10.w_0[1]", "conv2d_10.w_01", False),
        ("*[1]", "_conv_stem[1]", True),
        ("*[1]", "_conv_stem[2]", False),
        ("linear.w_0#?", "linear.w_0#2", True),
        ("linear.w_0#?", "linear.w_0#12", False),
        ("a.b", "axb", False),
        ("a*", "ba", False),
        ("Conv", "conv", False),
        ("a", "a\n", False),
    ],
)
def test_only_star_and_question_mark_are_special(pattern: str, name: str, fits: bool) -> None:
    assert matches(name, [pattern]) is fits


def test_fnmatch_would_not_do() -> None:
    """Why there is a matcher of our own."""
    assert not fnmatchcase("conv[1]", "conv[1]") and fnmatchcase("conv1", "conv[1]")
    assert matches("conv[1]", ["conv[1]"]) and not matches("conv1", ["conv[1]"])


@given(st.text("ab.*?#\n", max_size=6), st.text("ab.#\n", max_size=6))
def test_without_brackets_it_is_fnmatch(pattern: str, name: str) -> None:
    assert matches(name, [pattern]) == fnmatchcase(name, pattern)


def test_excluding_wins_and_no_inclusion_means_all() -> None:
    assert allowed("a", (), ()) and allowed("a", ("b", "a"), ("b",))
    assert not allowed("a", ("b",), ()) and not allowed("a", ("*",), ("a",))
