"""Legal masks: no axis may lose all its positions."""

from __future__ import annotations

import numpy as np

from otgraph.graph.axes.axis_map import AxisMap, Dim
from otgraph.graph.axes.expression import Atom, Concatenation, Indexed, Product
from otgraph.graph.axes.legal import legalize


def axis_map(**axes: Atom | Product | Concatenation | Indexed) -> AxisMap:
    dims = {"a": Dim("a", 4, ()), "b": Dim("b", 3, ()), "io": Dim("io", 2, (), blocked="model input")}
    return AxisMap(dims, {}, {name: (axis,) for name, axis in axes.items()})


A, B = Atom("a", 4), Atom("b", 3)


def bits(*values: int) -> np.ndarray:
    return np.array(values, bool)


def test_a_legal_mask_stays_and_is_copied() -> None:
    given = bits(1, 0, 1, 0)
    found = legalize(axis_map(w=A), {"a": given})
    assert found["a"].tolist() == given.tolist() and found["a"] is not given


def test_an_empty_mask_keeps_one() -> None:
    assert legalize(axis_map(w=A), {"a": bits(0, 0, 0, 0)})["a"].tolist() == [True, False, False, False]


def test_blocked_dims_are_left_out() -> None:
    assert legalize(axis_map(w=A), {"io": bits(1, 0)}) == {}


def test_an_axis_over_part_of_a_dim_keeps_its_first_position() -> None:
    axes = axis_map(whole=A, half=Indexed(A, (3, 2)))
    assert legalize(axes, {"a": bits(1, 1, 0, 0)})["a"].tolist() == [True, True, False, True]


def test_every_axis_keeps_a_position_whatever_the_masks() -> None:
    axes = axis_map(
        p=Product((A, B)), c=Concatenation((Indexed(A, (1,)), Indexed(B, (2,)))), q=Indexed(A, (2, 3))
    )
    for number in range(2**7):
        given = np.array([number >> i & 1 for i in range(7)], bool)
        found = legalize(axes, {"a": given[:4], "b": given[4:]})
        assert all(axis.mask(found).any() for (axis,) in axes.tensors.values())
        assert (found["a"] >= given[:4]).all() and (found["b"] >= given[4:]).all()
