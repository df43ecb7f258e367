"""The algebra of axes under unification: atoms, products, concatenations, and index classes.

An ``Axis`` says what one axis of one tensor consists of. Operations never fail on what they cannot express:
they *refine* (an atom becomes a product or a concatenation), fall back to index classes where a product is
cut between multiples of its inner size, and block what is left. Blocking is always safe.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["atom", "product", "concatenation", "indexed"]
Index = npt.NDArray[np.int64]


class Axis:
    """A mutable cell of the unification; ``resolve`` gives the cell that now stands for it."""

    __slots__ = ("blocked", "index", "kind", "normalized", "parts", "replacement", "residual", "size")

    def __init__(
        self,
        size: int,
        kind: Kind = "atom",
        parts: Sequence[Axis] = (),
        index: Index | None = None,
        blocked: str | None = None,
    ) -> None:
        self.size = int(size)
        self.kind: Kind = kind
        self.parts = list(parts)
        self.index = index
        self.replacement: Axis | None = None
        self.blocked = blocked
        self.normalized = False
        self.residual = False

    def __repr__(self) -> str:
        axis = resolve(self)
        if axis.kind == "atom":
            return f"{axis.size}{'!' if axis.blocked else ''}"
        if axis.kind == "indexed":
            return f"@{axis.size}/{resolve(axis.parts[0])!r}"
        sign = "*" if axis.kind == "product" else "+"
        return "(" + sign.join(map(repr, axis.parts)) + ")"


def resolve(axis: Axis) -> Axis:
    """The cell that ``axis`` has become."""
    while axis.replacement is not None:
        axis = axis.replacement
    return axis


def product(parts: Sequence[Axis]) -> Axis:
    """Axes merged by a reshape, outermost first; parts of size 1 vanish."""
    flat = [factor for part in parts for factor in factors(part) if factor.size != 1]
    if not flat:
        return Axis(1)
    return flat[0] if len(flat) == 1 else Axis(math.prod(f.size for f in flat), "product", flat)


def concatenation(parts: Sequence[Axis]) -> Axis:
    """Axes laid end to end."""
    flat = [segment for part in parts for segment in segments(part) if segment.size != 0]
    if len(flat) == 1:
        return flat[0]
    return Axis(sum(s.size for s in flat), "concatenation", flat)


def indexed(atom: Axis, index: Index) -> Axis:
    """Position p of the result is index ``index[p]`` of ``atom``."""
    if len(index) == atom.size and bool(np.array_equal(index, np.arange(atom.size))):
        return atom
    return Axis(len(index), "indexed", [atom], index)


def factors(axis: Axis) -> list[Axis]:
    """The factors of a product, outermost first; any other axis is its own single factor."""
    axis = resolve(axis)
    return [f for part in axis.parts for f in factors(part)] if axis.kind == "product" else [axis]


def segments(axis: Axis) -> list[Axis]:
    """The parts of a concatenation in order; any other axis is its own single part."""
    axis = resolve(axis)
    return [s for part in axis.parts for s in segments(part)] if axis.kind == "concatenation" else [axis]


def atoms(axis: Axis) -> Iterator[Axis]:
    """Every atom below ``axis``, with repetition."""
    axis = resolve(axis)
    if axis.kind == "atom":
        yield axis
    else:
        for part in axis.parts:
            yield from atoms(part)


def block(axis: Axis, why: str) -> None:
    """No index of ``axis`` may be cut; the first reason given stays."""
    for atom in atoms(axis):
        if atom.blocked is None:
            atom.blocked = why


def mark(axis: Axis, flag: Literal["normalized", "residual"]) -> None:
    """Set a flag on every atom below ``axis``."""
    for atom in atoms(axis):
        setattr(atom, flag, True)


def is_blocked(axis: Axis) -> bool:
    """Whether nothing below ``axis`` may be cut."""
    return all(atom.blocked is not None or atom.size == 1 for atom in atoms(axis))


def cut(axis: Axis, at: Sequence[int]) -> list[Axis]:
    """Split ``axis`` at the positions ``at`` (ascending, inside) into consecutive axes, refining it."""
    axis = resolve(axis)
    if not at:
        return [axis]
    bounds = [0, *at, axis.size]
    spans = list(itertools.pairwise(bounds))
    if axis.kind == "atom":
        parts = [_child(axis, stop - start) for start, stop in spans]
        _become(axis, concatenation(parts))
        return [resolve(part) for part in parts]
    if axis.kind == "concatenation":
        return _cut_concatenation(axis, list(at))
    if axis.kind == "product":
        inner = axis.size // factors(axis)[0].size
        if all(a % inner == 0 for a in at):
            heads = cut(factors(axis)[0], [a // inner for a in at])
            return [product([head, *factors(axis)[1:]]) for head in heads]
        axis = as_indexed(axis)
    if axis.kind == "indexed":
        index = index_of(axis)
        if any(stop - start == 1 for start, stop in spans):
            block(axis, "one position of an axis that was cut in the middle goes its own way")
        return [indexed(axis.parts[0], index[start:stop]) for start, stop in spans]
    return [Axis(stop - start, blocked="cut in the middle of fixed factors") for start, stop in spans]


def as_product(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """View ``axis`` as an ordered product of ``sizes``, refining it in place; returns one axis per size."""
    axis = resolve(axis)
    if math.prod(sizes) != axis.size:
        raise ValueError(f"an axis of size {axis.size} is no product of {list(sizes)}")
    true = [size for size in sizes if size != 1]
    parts = iter([axis] if len(true) <= 1 else _split(axis, true))
    return [Axis(1) if size == 1 else next(parts) for size in sizes]


def unify(a: Axis, b: Axis) -> None:
    """Make two axes the same index set; what cannot be expressed becomes index classes, or is blocked."""
    a, b = resolve(a), resolve(b)
    if a is b:
        return
    if a.size != b.size:
        why = f"axes of sizes {a.size} and {b.size} meet"
        block(a, why)
        block(b, why)
        return
    if a.kind == "atom" and not _contains(b, a):
        _become(a, b)
    elif b.kind == "atom" and not _contains(a, b):
        _become(b, a)
    elif a.kind == "product" and b.kind == "product":
        _unify_products(a, b)
    elif "concatenation" in (a.kind, b.kind):
        _unify_concatenations(a, b)
    else:
        _unify_indices(a, b)


def as_indexed(axis: Axis) -> Axis:
    """``axis`` as index classes of one atom; of a product all but the largest free factor are blocked."""
    axis = resolve(axis)
    if axis.kind in ("atom", "indexed"):
        return axis
    if axis.kind == "concatenation":
        raise ValueError("a concatenation runs over several atoms")
    free = [f for f in factors(axis) if not is_blocked(f)]
    if not free:
        return Axis(axis.size, blocked="product of fixed factors")
    chosen = max(free, key=lambda f: f.size)
    for other in free:
        if other is not chosen:
            block(other, "product cut at a place that is no multiple of its inner size")
    place = factors(axis)
    at = next(i for i, f in enumerate(place) if f is chosen)
    if any(_share_atoms(chosen, other) for k, other in enumerate(place) if k != at):
        why = "an index set times itself, cut at a place that is no multiple of its size"
        block(chosen, why)  # a position stays only where all its coordinates do: no index class says that
        return Axis(axis.size, blocked=why)
    inner = math.prod(f.size for f in place[at + 1 :])
    coordinate = (np.arange(axis.size) // inner) % chosen.size
    base = as_indexed(chosen) if chosen.kind != "concatenation" else _one_atom(chosen)
    if base.kind == "indexed":
        return indexed(base.parts[0], index_of(base)[coordinate])
    return indexed(base, coordinate)


def _share_atoms(a: Axis, b: Axis) -> bool:
    return not {id(atom) for atom in atoms(a)}.isdisjoint(id(atom) for atom in atoms(b))


def _one_atom(axis: Axis) -> Axis:
    """A concatenation inside a product that is cut in the middle: give up its parts."""
    block(axis, "concatenation inside a product that is cut in the middle")
    return Axis(axis.size, blocked="concatenation inside a product that is cut in the middle")


def index_of(axis: Axis) -> Index:
    """The positions an indexed axis takes of its base."""
    if axis.index is None:
        raise ValueError("not an indexed axis")
    return axis.index


def _child(parent: Axis, size: int) -> Axis:
    child = Axis(size, blocked=parent.blocked)
    child.normalized = parent.normalized
    child.residual = parent.residual
    return child


def _become(atom: Axis, other: Axis) -> None:
    """The atom is replaced everywhere; its marks go to what replaces it."""
    other = resolve(other)
    if atom is other:
        return
    if atom.blocked is not None:
        block(other, atom.blocked)
    if atom.normalized:
        mark(other, "normalized")
    if atom.residual:
        mark(other, "residual")
    atom.replacement = other


def _contains(axis: Axis, atom: Axis) -> bool:
    return any(found is atom for found in atoms(axis))


def _cut_concatenation(axis: Axis, at: list[int]) -> list[Axis]:
    result: list[Axis] = []
    current: list[Axis] = []
    position = 0
    for segment in segments(axis):
        stop = position + segment.size
        for piece in cut(segment, [a - position for a in at if position < a < stop]):
            current.append(piece)
            position += piece.size
            if position in at:
                result.append(concatenation(current))
                current = []
    result.append(concatenation(current))
    return result


def _split(axis: Axis, sizes: list[int]) -> list[Axis]:
    """``as_product`` where every size is larger than 1 and there are at least two."""
    axis = resolve(axis)
    if axis.kind == "atom":
        parts = [_child(axis, size) for size in sizes]
        _become(axis, product(parts))
        return [resolve(part) for part in parts]
    if axis.kind == "concatenation":
        return _split_rows(cut(axis, [axis.size // sizes[0] * k for k in range(1, sizes[0])]), sizes)
    if axis.kind == "product":
        found = _regroup(factors(axis), sizes)
        if found is not None:
            return found
        axis = as_indexed(axis)
        if axis.kind == "atom":
            return [_child(axis, size) for size in sizes]
    return _split_indexed(axis, sizes)


def _split_rows(rows: list[Axis], sizes: list[int]) -> list[Axis]:
    """Equal blocks laid end to end are a product with a fixed outer factor once the blocks are the same."""
    for row in rows[1:]:
        unify(rows[0], row)
    outer = Axis(sizes[0], blocked="equal blocks of a concatenation")
    rest = as_product(rows[0], sizes[1:])
    return [outer, *rest]


def _split_indexed(axis: Axis, sizes: list[int]) -> list[Axis]:
    atom, index = resolve(axis.parts[0]), index_of(axis).reshape(sizes[0], -1)
    if bool((index == index[:, :1]).all()):
        outer = indexed(atom, index[:, 0].copy())
        return [outer, *(Axis(size, blocked="index classes repeat") for size in sizes[1:])]
    return _split_rows([indexed(atom, row.copy()) for row in index], sizes)


def _regroup(parts: list[Axis], sizes: list[int]) -> list[Axis] | None:
    """Walk factors and sizes together, splitting a factor where both divide; None where they do not."""
    pending = list(parts)
    result: list[Axis] = []
    for size in sizes:
        taken: list[Axis] = []
        need = size
        while need > 1:
            factor = resolve(pending.pop(0))
            if factor.kind == "product":
                pending = factors(factor) + pending
            elif need % factor.size == 0:
                taken.append(factor)
                need //= factor.size
            elif factor.size % need == 0:
                head, tail = as_product(factor, [need, factor.size // need])
                taken.append(head)
                pending.insert(0, tail)
                need = 1
            else:
                return None
        result.append(product(taken))
    return [resolve(axis) for axis in result]


def _unify_products(a: Axis, b: Axis) -> None:
    ends = sorted({*_ends(a), *_ends(b)})
    sizes = [end // start for start, end in itertools.pairwise([1, *ends])]
    if math.prod(sizes) != a.size or any(end % start for start, end in itertools.pairwise([1, *ends])):
        _unify_indices(a, b)
        return
    left, right = _regroup(factors(a), sizes), _regroup(factors(b), sizes)
    if left is None or right is None:
        _unify_indices(a, b)
        return
    for p, q in zip(left, right, strict=True):
        if {resolve(p).kind, resolve(q).kind} == {"product"} and len(sizes) == 1:
            _unify_indices(p, q)
        else:
            unify(p, q)


def _ends(axis: Axis) -> list[int]:
    return list(itertools.accumulate((f.size for f in factors(axis)), lambda x, y: x * y))


def _unify_concatenations(a: Axis, b: Axis) -> None:
    """Cut both at each other's ends, and unify the pieces. A product that cannot be cut there in whole inner
    blocks comes back from ``cut`` as index classes."""
    ends = sorted({*_borders(a), *_borders(b)})
    for p, q in zip(cut(a, ends), cut(b, ends), strict=True):
        if "concatenation" in (resolve(p).kind, resolve(q).kind):
            _unify_indices(p, q)
        else:
            unify(p, q)


def _borders(axis: Axis) -> list[int]:
    return list(itertools.accumulate(s.size for s in segments(axis)))[:-1]


def _unify_indices(a: Axis, b: Axis) -> None:
    """Position by position: indices that meet become one class; the atoms become index classes."""
    left, right = _positions(a), _positions(b)
    involved: list[Axis] = []
    for atom, _ in (*left, *right):
        if atom is not None and all(atom is not known for known in involved):
            involved.append(atom)
    for (p, _), (q, _) in zip(left, right, strict=True):
        for one, other in ((p, q), (q, p)):
            if one is None and other is not None:
                block(other, "meets a fixed axis index by index")
    if any(atom.blocked is not None for atom in involved):
        for atom in involved:
            block(atom, "meets a fixed axis index by index")
        return
    if involved:
        _merge_classes(involved, left, right)


def _positions(axis: Axis) -> list[tuple[Axis | None, int]]:
    """For each position the atom and the index in it; None where nothing can be cut."""
    axis = resolve(axis)
    if axis.kind == "concatenation":
        return [pair for segment in segments(axis) for pair in _positions(segment)]
    if axis.kind == "product":
        axis = as_indexed(axis)
    if is_blocked(axis):
        return [(None, 0)] * axis.size
    if axis.kind == "indexed":
        atom = resolve(axis.parts[0])
        if atom.kind != "atom":
            return [_positions(atom)[i] for i in index_of(axis)]
        return [(atom, int(i)) for i in index_of(axis)]
    return [(axis, i) for i in range(axis.size)]


def _merge_classes(
    involved: list[Axis], left: list[tuple[Axis | None, int]], right: list[tuple[Axis | None, int]]
) -> None:
    start = dict(zip(map(id, involved), itertools.accumulate([0, *(a.size for a in involved)]), strict=False))
    parent = list(range(sum(a.size for a in involved)))
    find = _finder(parent)
    for (p, i), (q, j) in zip(left, right, strict=True):
        if p is not None and q is not None:
            parent[find(start[id(p)] + i)] = find(start[id(q)] + j)
    roots = [find(x) for x in range(len(parent))]
    number = {root: k for k, root in enumerate(dict.fromkeys(roots))}
    classes = np.array([number[root] for root in roots], dtype=np.int64)
    merged = Axis(len(number))
    for atom in involved:
        index = classes[start[id(atom)] : start[id(atom)] + atom.size]
        _become(atom, indexed(merged, index))


def _finder(parent: list[int]) -> Callable[[int], int]:
    def find(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    return find
