"""Aligned tables, letter by letter."""

from __future__ import annotations

import pytest

from otgraph.text_table import aligned

ROWS = [("dim", "kept", "why"), ("conv1", "8 of 16", ""), ("×", "–", "long enough")]


def test_all_columns_to_the_left_and_nothing_at_the_end_of_a_line() -> None:
    assert aligned(ROWS) == ["dim    kept     why", "conv1  8 of 16", "×      –        long enough"]


def test_numbers_to_the_right() -> None:
    assert aligned([row[:2] for row in ROWS], left=1) == [
        "dim       kept",
        "conv1  8 of 16",
        "×            –",
    ]


def test_rows_have_the_same_columns() -> None:
    assert aligned([]) == []
    with pytest.raises(ValueError, match="shorter"):
        aligned([("a", "b"), ("c",)])
