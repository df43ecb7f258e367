"""The lengths of axes as polynomials in the widths of dims."""

from __future__ import annotations

from collections.abc import Container

from otgraph.allocate.cost import Polynomial, Term, collect, multiply
from otgraph.graph.axes.expression import Atom, Concatenation, Expression, Indexed, Product


def expand(axis: Expression, dims: Container[str]) -> Polynomial:
    """The length of an axis as a polynomial in the widths of ``dims``; every other dim is constant.

    A product multiplies, a concatenation adds. An indexed axis shrinks in proportion to its base: exact at
    the full width, and wherever the kept indices fall evenly.
    """
    match axis:
        case Atom():
            if axis.name is None or axis.name not in dims:
                return (Term(float(axis.size)),)
            return (Term(1.0, (axis.name,)),)
        case Product(parts):
            return multiply(expand(part, dims) for part in parts)
        case Concatenation(parts):
            return collect(term for part in parts for term in expand(part, dims))
        case Indexed(base, index):
            return multiply([(Term(len(index) / base.size),), expand(base, dims)])
