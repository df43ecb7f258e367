"""Candidate widths: multiples, always the full width, never too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otgraph.pricing.widths import candidate_widths


@pytest.mark.parametrize(
    ("arguments", "widths"),
    [
        ({"size": 20}, (20, 16, 8)),
        ({"size": 5}, (5,)),
        ({"size": 32}, (32, 24, 16, 8)),
        ({"size": 32, "minimum": 9}, (32, 24, 16)),
        ({"size": 10, "multiple": 4, "groups": 6}, (10,)),
        ({"size": 48, "multiple": 8, "groups": 12}, (48, 24)),
        ({"size": 80, "limit": 4}, (80, 56, 32, 8)),
        ({"size": 80, "limit": 1}, (80,)),
        ({"size": 80, "limit": 2}, (80, 8)),
    ],
)
def test_examples(arguments: dict[str, int], widths: tuple[int, ...]) -> None:
    assert candidate_widths(**arguments) == widths


@given(st.integers(1, 3000), st.integers(1, 32), st.integers(1, 64), st.integers(1, 20), st.integers(1, 6))
def test_rules(size: int, multiple: int, minimum: int, limit: int, groups: int) -> None:
    widths = candidate_widths(size, multiple, minimum, limit, groups)
    assert widths[0] == size
    assert list(widths) == sorted(set(widths), reverse=True)
    assert len(widths) <= limit
    assert all(w % multiple == 0 and w % groups == 0 and w >= minimum for w in widths[1:])


@pytest.mark.parametrize("name", ["size", "multiple", "minimum", "limit", "groups"])
def test_less_than_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        candidate_widths(**{"size": 8, name: 0})
