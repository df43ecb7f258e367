"""The best of a few ordered settings."""

import pytest

from otgraph.calibrate.downhill import downhill


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("lowest", range(5))
def test_one_valley_is_found_from_anywhere_and_nothing_is_scored_twice(first: int, lowest: int) -> None:
    looked: list[int] = []

    def score(at: int) -> float:
        looked.append(at)
        return abs(at - lowest)

    assert downhill(score, first, 5) == lowest
    assert len(looked) == len(set(looked))


def test_what_lies_beyond_a_rise_is_not_looked_at() -> None:
    looked: list[int] = []

    def score(at: int) -> float:
        looked.append(at)
        return [0.0, 3.0, 2.0, 1.0, 2.0, 0.0][at]

    assert downhill(score, 2, 6) == 3
    assert 0 not in looked
    assert 5 not in looked


def test_a_single_setting_is_the_best() -> None:
    assert downhill(lambda _: 1.0, 0, 1) == 0
