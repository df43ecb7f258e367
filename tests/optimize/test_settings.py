"""Choices that contradict each other, or that there are none of."""

from __future__ import annotations

import re
from typing import Any

import pytest

from otgraph.errors import UsageError
from otgraph.optimize.settings import Settings
from otgraph.plan.budget import make_budget


@pytest.mark.parametrize("moves", ["depths", "", None, ("width", "depth")])
def test_moves_are_one_of_three(moves: Any) -> None:
    with pytest.raises(
        UsageError, match=f"moves {re.escape(repr(moves))}: is none of both, width, depth; give"
    ):
        Settings(make_budget(latency="0.6x"), moves=moves)


def test_a_fraction_says_nothing_of_layers() -> None:
    with pytest.raises(
        UsageError, match="moves 'depth': a fraction to keep says nothing of layers; give a lat"
    ):
        Settings(make_budget(keep=0.5), moves="depth")
    for moves in ("both", "width"):
        assert Settings(make_budget(keep=0.5), moves=moves).moves == moves
    assert Settings(make_budget(latency="8ms"), moves="depth").moves == "depth"
    assert Settings(make_budget(max_drop=0.1), moves="depth").moves == "depth"


def test_widths_alone_leave_all_layers() -> None:
    with pytest.raises(UsageError, match="moves 'width': narrower layers are not fewer; give both or depth"):
        Settings(make_budget(layers="0.75x"), moves="width")
    assert Settings(make_budget(layers=12), moves="depth").budget.layers(50) == 12
