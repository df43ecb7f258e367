"""Cost polynomials: expansion of axes and their arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otgraph.allocate.cost import Term, collect, evaluate, multiply
from otgraph.graph.axes.expression import Atom, Concatenation, Expression, Indexed, Product
from otgraph.pricing.lengths import expand

A, B, THREE = Atom("a", 4), Atom("b", 6), Atom(None, 3)
DIMS = {"a": 4, "b": 6}


@pytest.mark.parametrize(
    ("axis", "terms"),
    [
        (A, {("a",): 1}),
        (THREE, {(): 3}),
        (Atom("frozen", 7), {(): 7}),
        (Product((A, THREE, B)), {("a", "b"): 3}),
        (Product((A, A)), {("a", "a"): 1}),
        (Concatenation((A, B, THREE, A)), {("a",): 2, ("b",): 1, (): 3}),
        (Product((Concatenation((A, THREE)), B)), {("a", "b"): 1, ("b",): 3}),
        (Indexed(A, (0, 2)), {("a",): 0.5}),
    ],
)
def test_expansion(axis: Expression, terms: dict[tuple[str, ...], float]) -> None:
    assert {term.dims: term.coefficient for term in expand(axis, DIMS)} == terms


def _axes() -> st.SearchStrategy[Expression]:
    atoms = st.sampled_from([A, B, THREE])
    parts = lambda inner: st.lists(inner, min_size=1, max_size=3).map(tuple)  # noqa: E731
    return st.recursive(atoms, lambda x: parts(x).map(Product) | parts(x).map(Concatenation), max_leaves=5)


@given(_axes(), st.lists(st.booleans(), min_size=10, max_size=10))
def test_the_polynomial_counts_what_the_mask_keeps(axis: Expression, bits: list[bool]) -> None:
    keep = {"a": np.array(bits[:4]), "b": np.array(bits[4:])}
    widths = {name: int(mask.sum()) for name, mask in keep.items()}
    assert evaluate(expand(axis, DIMS), widths) == axis.mask(keep).sum()
    assert evaluate(expand(axis, DIMS), DIMS) == axis.size


@given(_axes(), _axes(), st.integers(0, 9), st.integers(0, 9))
def test_products_evaluate_as_products(first: Expression, second: Expression, a: int, b: int) -> None:
    p, q, widths = expand(first, DIMS), expand(second, DIMS), {"a": a, "b": b}
    assert evaluate(multiply([p, q]), widths) == evaluate(p, widths) * evaluate(q, widths)


def test_equal_products_are_collected() -> None:
    terms = [Term(1.0, ("a", "b")), Term(2.0, ("b", "a")), Term(3.0), Term(-3.0)]
    assert collect(terms) == (Term(3.0, ("a", "b")),)
