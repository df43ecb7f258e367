"""The axis algebra: what was unified has one mask, whatever was built, cut and viewed before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otgraph.graph.axes import algebra
from otgraph.graph.axes.algebra import (
    Axis,
    as_product,
    atoms,
    block,
    concatenation,
    cut,
    is_blocked,
    mark,
    product,
    resolve,
)

Masks = Mapping[int, np.ndarray]


def mask_of(axis: Axis, masks: Masks) -> np.ndarray:
    """Which positions stay, if the free atoms are cut to their masks."""
    axis = resolve(axis)
    if axis.kind == "atom":
        return masks.get(id(axis), np.ones(axis.size, bool))
    parts = [mask_of(part, masks) for part in axis.parts]
    if axis.kind == "concatenation":
        return np.concatenate(parts)
    if axis.kind == "indexed":
        return parts[0][algebra.index_of(axis)]
    mask = np.ones(1, bool)
    for part in parts:
        mask = np.outer(mask, part).ravel()
    return mask


def random_masks(roots: list[Axis], seed: int) -> Masks:
    """A random mask for every free atom below ``roots``; one of size 1 is no dim and is never cut."""
    random = np.random.default_rng(seed)
    free = {id(a): a for root in roots for a in atoms(root) if a.blocked is None and a.size > 1}
    return {key: random.random(atom.size) < 0.6 for key, atom in free.items()}


@st.composite
def expressions(draw: st.DrawFn, size: int, depth: int = 2) -> Axis:
    """A random axis of ``size`` positions; some atoms are blocked or marked."""
    inner = [d for d in range(2, size) if size % d == 0]
    kinds = ["atom"] + (["concatenation"] if size > 1 else []) + (["product"] if inner else [])
    kind = draw(st.sampled_from(kinds)) if depth else "atom"
    if kind == "atom":
        axis = Axis(size, blocked=draw(st.sampled_from([None, None, None, "model input"])))
        if draw(st.integers(0, 4)) == 0:
            mark(axis, draw(st.sampled_from(["normalized", "residual"])))
        return axis
    if kind == "product":
        outer = draw(st.sampled_from(inner))
        return product([draw(expressions(outer, depth - 1)), draw(expressions(size // outer, depth - 1))])
    at = draw(st.integers(1, size - 1))
    parts = [draw(expressions(at, depth - 1)), draw(expressions(size - at, depth - 1))]
    if at * 2 == size and draw(st.booleans()):
        parts[1] = parts[0]
    return concatenation(parts)


def remembered(roots: list[Axis]) -> list[tuple[Axis, str | None, bool, bool]]:
    return [(a, a.blocked, a.normalized, a.residual) for root in roots for a in atoms(root)]


def assert_marks_survive(before: list[tuple[Axis, str | None, bool, bool]]) -> None:
    for cell, blocked, normalized, residual in before:
        for atom in atoms(cell):
            assert blocked is None or atom.blocked is not None
            assert not normalized or atom.normalized
            assert not residual or atom.residual


SIZES = st.sampled_from([2, 4, 6, 8, 12])


@settings(max_examples=300, deadline=None)
@given(st.data(), SIZES, st.integers(0, 1000))
def test_unified_axes_have_one_mask(data: st.DataObject, size: int, seed: int) -> None:
    """Also after chains of unifications, where one may undo what another relied on."""
    axes = [data.draw(expressions(size)) for _ in range(data.draw(st.integers(2, 4)))]
    before = remembered(axes)
    pairs = list(itertools.combinations(range(len(axes)), 2))
    unified = data.draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=4))
    for i, j in unified:
        algebra.unify(axes[i], axes[j])
    masks = random_masks(axes, seed)
    for i, j in unified:
        assert np.array_equal(mask_of(axes[i], masks), mask_of(axes[j], masks))
    assert all(resolve(axis).size == size for axis in axes)
    assert_marks_survive(before)


@settings(max_examples=200, deadline=None)
@given(st.data(), SIZES, st.integers(0, 1000))
def test_pieces_of_a_cut_make_up_the_axis(data: st.DataObject, size: int, seed: int) -> None:
    axis = data.draw(expressions(size))
    before = remembered([axis])
    at = sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=3)))
    pieces = cut(axis, at)
    assert [piece.size for piece in pieces] == np.diff([0, *at, size]).tolist()
    masks = random_masks([axis, *pieces], seed)
    assert np.array_equal(np.concatenate([mask_of(piece, masks) for piece in pieces]), mask_of(axis, masks))
    assert_marks_survive(before)


@settings(max_examples=200, deadline=None)
@given(st.data(), SIZES, st.integers(0, 1000))
def test_factors_of_a_view_make_up_the_axis(data: st.DataObject, size: int, seed: int) -> None:
    axis = data.draw(expressions(size))
    before = remembered([axis])
    outer = data.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
    rest = size // outer
    middle = data.draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
    sizes = [outer, middle, rest // middle]
    parts = as_product(axis, sizes)
    assert [part.size for part in parts] == sizes
    masks = random_masks([axis, *parts], seed)
    assert np.array_equal(mask_of(product(parts), masks), mask_of(axis, masks))
    assert_marks_survive(before)


@settings(max_examples=200, deadline=None)
@given(st.data(), SIZES, st.integers(0, 1000))
def test_long_programs_stay_consistent(data: st.DataObject, size: int, seed: int) -> None:
    """Views, cuts and unifications in any order over shared atoms: every equality that was stated holds."""
    axes = [data.draw(expressions(size)) for _ in range(3)]
    equal: list[tuple[Axis, Axis]] = []
    for _ in range(data.draw(st.integers(1, 6))):
        a = axes[data.draw(st.integers(0, 2))]
        step = data.draw(st.sampled_from(["cut", "view", "unify", "shuffle"]))
        divisor = data.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        if step == "cut":
            equal.append((a, concatenation(cut(a, [data.draw(st.integers(1, size - 1))]))))
        elif step == "view":
            equal.append((a, product(as_product(a, [divisor, size // divisor]))))
        elif step == "shuffle":
            outer, inner = as_product(a, [divisor, size // divisor])
            axes.append(product([inner, outer]))
            algebra.unify(axes[-1], axes[0])
            equal.append((axes[-1], axes[0]))
        else:
            b = axes[data.draw(st.integers(0, 2))]
            algebra.unify(a, b)
            equal.append((a, b))
    masks = random_masks([*axes, *(x for pair in equal for x in pair)], seed)
    for left, right in equal:
        assert np.array_equal(mask_of(left, masks), mask_of(right, masks))


def shuffled(axis: Axis, groups: int) -> Axis:
    outer, inner = as_product(axis, [groups, axis.size // groups])
    return product([inner, outer])


@pytest.mark.parametrize(
    ("channels", "groups", "parts"), [(12, 2, 2), (12, 3, 2), (20, 2, 4), (58 * 2, 2, 2)]
)
def test_channel_shuffles_that_are_cut_in_the_middle_stay_free(
    channels: int, groups: int, parts: int
) -> None:
    axis = Axis(channels)
    pieces = cut(shuffled(axis, groups), [channels // parts * k for k in range(1, parts)])
    masks = random_masks([axis, *pieces], 0)
    assert masks
    order = mask_of(axis, masks).reshape(groups, -1).T.ravel()
    assert np.array_equal(np.concatenate([mask_of(piece, masks) for piece in pieces]), order)


def test_a_cut_at_whole_blocks_needs_no_index() -> None:
    axis = product([Axis(4), Axis(3)])
    assert [repr(piece) for piece in cut(axis, [6])] == ["(2*3)", "(2*3)"]
    assert repr(axis) == "((2+2)*3)"


def test_index_classes_merge_what_meets() -> None:
    """An axis against a permutation of itself: the classes are the cycles."""
    axis = Axis(6)
    permutation = np.arange(6).reshape(2, 3).T.ravel()
    algebra.unify(algebra.indexed(axis, permutation), axis)
    for seed in range(20):
        mask = mask_of(axis, random_masks([axis], seed))
        assert np.array_equal(mask[permutation], mask)
    assert [a.size for a in atoms(axis)] == [3]  # (0), (1 3 4 2), (5)


def test_the_first_reason_for_blocking_stays() -> None:
    axis = product([Axis(2), Axis(3)])
    block(axis, "first")
    block(axis, "second")
    assert [a.blocked for a in atoms(axis)] == ["first", "first"]
    assert algebra.is_blocked(axis)


def test_axes_of_different_sizes_are_blocked() -> None:
    a, b = Axis(4), Axis(6)
    algebra.unify(a, b)
    assert a.blocked == b.blocked == "axes of sizes 4 and 6 meet"


def test_a_view_must_have_the_right_number_of_entries() -> None:
    with pytest.raises(ValueError, match=r"an axis of size 6 is no product of \[2, 4\]"):
        as_product(Axis(6), [2, 4])


def test_units_vanish() -> None:
    assert product([Axis(1), Axis(1)]).size == 1
    axis = Axis(6)
    parts = as_product(axis, [1, 6, 1])
    assert [part.size for part in parts] == [1, 6, 1]
    assert parts[1] is axis
    assert math.prod(part.size for part in as_product(axis, [2, 1, 3])) == 6


def test_half_a_unification_is_caught() -> None:
    """The check of one mask sees it when only one factor of two products is unified."""
    a, b = product([Axis(2), Axis(3)]), product([Axis(2), Axis(3)])
    algebra.unify(algebra.factors(a)[0], algebra.factors(b)[0])
    masks = [random_masks([a, b], seed) for seed in range(20)]
    assert any(not np.array_equal(mask_of(a, m), mask_of(b, m)) for m in masks)
    algebra.unify(a, b)
    masks = [random_masks([a, b], seed) for seed in range(20)]
    assert all(np.array_equal(mask_of(a, m), mask_of(b, m)) for m in masks)


def test_an_index_set_times_itself_that_is_cut_in_the_middle_is_given_up() -> None:
    """A position stays only where all its coordinates do, which index classes of one of them do not say."""
    axis = Axis(8)
    as_product(axis, [2, 4])
    algebra.unify(axis, shuffled(axis, 2))
    atom = next(atoms(axis))
    assert [factor is atom for factor in algebra.factors(axis)] == [True] * 3
    cut(axis, [1])
    assert is_blocked(axis)
