"""Notes on nodes: typed keys, copies that share nothing, and who stands for whom."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx, nn

from otgraph.graph.capture import capture
from otgraph.graph.notes import (
    FITTED_ON,
    KEPT,
    STANDS_FOR,
    Note,
    clear_notes,
    inherit_notes,
    is_stand_in,
    kept_of,
    original_name,
    stood_for,
)


def nodes() -> dict[str, fx.Node]:
    graph = capture(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (torch.randn(2, 3),))
    return {node.name: node for node in graph.module.graph.nodes}


def test_a_node_without_notes_is_its_own_original_and_whole() -> None:
    relu = nodes()["relu"]
    assert Note[int]("anything").of(relu) is None
    assert original_name(relu) == "relu" and not is_stand_in(relu) and kept_of(relu) == {}
    assert "otgraph" not in relu.meta  # reading writes nothing


def test_a_second_note_does_not_reach_a_copy_that_shares_the_first() -> None:
    found = nodes()
    KEPT.write(found["relu"], {1: np.array([0, 2])})
    found["linear"].meta = dict(found["relu"].meta)
    STANDS_FOR.write(found["relu"], "older")
    assert kept_of(found["linear"])[1].tolist() == kept_of(found["relu"])[1].tolist() == [0, 2]
    assert STANDS_FOR.of(found["linear"]) is None


def test_an_heir_carries_what_the_other_did_and_stands_for_what_it_stood_for() -> None:
    found = nodes()
    relu, linear = found["relu"], found["linear"]
    FITTED_ON.write(linear, "input_1")
    KEPT.write(relu, {1: np.array([1])})
    inherit_notes(linear, relu)
    assert original_name(linear) == "relu" and kept_of(linear)[1].tolist() == [1]
    assert FITTED_ON.of(linear) is None
    inherit_notes(relu, linear)
    assert original_name(relu) == "relu" and not is_stand_in(relu)
    clear_notes(linear)
    assert original_name(linear) == "linear" and kept_of(linear) == {}


def test_who_is_stood_for_is_told_of_a_graph() -> None:
    graph = capture(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (torch.randn(2, 3),))
    last = next(node for node in graph.module.graph.nodes if node.name == "relu")
    assert stood_for(graph) == frozenset()
    STANDS_FOR.write(last, "gone")
    assert stood_for(graph) == {"gone"}
