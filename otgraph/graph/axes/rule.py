"""``AxisRule``: what one operator does to axes, as data that prints on one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Shape = tuple[int, ...]
Combine = Literal["product", "any", "numeric", "always", "never", "weights"]


@dataclass(frozen=True)
class Pattern:
    """One axis of one operand or result over named factors.

    ``a`` · a product ``a*b`` (outermost first) · a concatenation ``a+b`` · ``1`` for an axis that carries no
    dim. ``!`` after a factor fixes it: it is never cut.
    """

    factors: tuple[str, ...]
    joined: Literal["product", "concatenation"] = "product"
    fixed: frozenset[str] = frozenset()

    def __str__(self) -> str:
        sign = "*" if self.joined == "product" else "+"
        return sign.join(f + ("!" if f in self.fixed else "") for f in self.factors) or "1"

    @staticmethod
    def parse(text: str) -> Pattern:
        """The inverse of ``str``."""
        if text in ("1", "1!"):
            return Pattern(())
        sign = "+" if "+" in text else "*"
        marked = text.split(sign)
        names = tuple(f.removesuffix("!") for f in marked)
        fixed = frozenset(f.removesuffix("!") for f in marked if f.endswith("!"))
        return Pattern(names, "concatenation" if sign == "+" else "product", fixed)


@dataclass(frozen=True)
class AxisRule:
    """One operator's axes.

    ``operands`` and ``results`` hold one pattern per axis of each tensor, ``sizes`` the size of every factor.
    ``reduce`` names the factors that are contracted (cut in all operands at once: the removed part
    contributes nothing if it is zero), ``averaged`` those that are contracted and divided by their number
    (the result must then be multiplied by what is left of it over what there was), ``normalized`` those whose
    cut changes statistics, ``fresh`` those that only the result has and that may nevertheless be cut (a
    broadcast).

    ``combine`` says when a result can be non-zero at a removed index: ``product`` if no operand it is
    multiplied by (``times``, by default all but ``added``) vanishes there, or one of the ``added`` operands
    does not; ``any`` if any operand is non-zero; ``numeric`` is found by evaluating the operator on zeros;
    ``always`` where the operator makes values out of nothing; ``never`` where they are zeros; ``weights``
    unless every operand but the first vanishes there, of those that hold the factor, and the first holds it
    only as something contracted.
    """

    name: str
    operands: tuple[tuple[Pattern, ...], ...]
    results: tuple[tuple[Pattern, ...], ...]
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    reduce: tuple[str, ...] = ()
    normalized: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    combine: Combine = "any"
    times: tuple[int, ...] | None = None
    added: tuple[int, ...] = ()
    averaged: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = [f"{name}:reduce" for name in self.reduce] + [
            f"{name}:normalized" for name in self.normalized
        ]
        kinds += [f"{name}:averaged" for name in self.averaged]
        kinds += [f"{name}:fresh" for name in self.fresh]
        operands = ", ".join(_shape_text(shape) for shape in self.operands)
        results = ", ".join(_shape_text(shape) for shape in self.results)
        return f"{self.name}: ({operands}) -> {results}" + ("   " + " ".join(kinds) if kinds else "")


def make_rule(
    name: str,
    text: str,
    operands: Sequence[Shape],
    results: Sequence[Shape],
    *,
    sizes: Mapping[str, int] | None = None,
    reduce: Sequence[str] = (),
    normalized: Sequence[str] = (),
    fresh: Sequence[str] = (),
    combine: Combine = "any",
    times: tuple[int, ...] | None = None,
    added: tuple[int, ...] = (),
    averaged: Sequence[str] = (),
) -> AxisRule:
    """Build a rule from ``"n i h!, o i -> n o h'!"`` and the concrete shapes it speaks of.

    Sizes of factors that stand alone on an axis come from the shapes; the others from ``sizes`` or, where one
    factor of an axis is left unknown, by division. An axis of size 1 is written ``1`` whatever the text says.

    Raises:
        ValueError: the text does not fit the shapes; the message names tensor and axis.
    """
    left, _, right = text.partition("->")
    known = dict(sizes or {})
    patterns = (_parse_side(left), _parse_side(right))
    shapes = (tuple(operands), tuple(results))
    for _ in range(2):  # the second round divides by what the first has learnt
        for side, tensors in zip(patterns, shapes, strict=True):
            if len(side) != len(tensors):
                raise ValueError(f"{name}: the rule speaks of {len(side)} tensors, there are {len(tensors)}")
            for axes, shape in zip(side, tensors, strict=True):
                _learn_sizes(name, axes, shape, known)
    checked = [
        tuple(_without_units(name, axes, shape, known) for axes, shape in zip(side, tensors, strict=True))
        for side, tensors in zip(patterns, shapes, strict=True)
    ]
    kinds = (tuple(reduce), tuple(normalized), tuple(fresh))
    return AxisRule(name, checked[0], checked[1], known, *kinds, combine, times, added, tuple(averaged))


def _parse_side(text: str) -> tuple[tuple[Pattern, ...], ...]:
    tensors = [part.strip() for part in text.split(",")]
    return tuple(
        tuple(Pattern.parse(axis) for axis in re.split(r"\s+", t) if axis) for t in tensors if t != "-"
    )


def _learn_sizes(name: str, axes: Sequence[Pattern], shape: Shape, known: dict[str, int]) -> None:
    if len(axes) != len(shape):
        raise ValueError(f"{name}: the rule gives {len(axes)} axes to a tensor of shape {shape}")
    for pattern, size in zip(axes, shape, strict=True):
        unknown = [f for f in pattern.factors if f not in known]
        if len(unknown) != 1:
            continue
        rest = [known[f] for f in pattern.factors if f in known]
        if pattern.joined == "concatenation":
            known[unknown[0]] = size - sum(rest)
        elif size == 1 and not rest:
            continue  # a broadcast axis says nothing about the factor
        else:
            span = 1
            for factor in rest:
                span *= factor
            known[unknown[0]] = size // span


def _without_units(
    name: str, axes: Sequence[Pattern], shape: Shape, known: Mapping[str, int]
) -> tuple[Pattern, ...]:
    result: list[Pattern] = []
    for at, (pattern, size) in enumerate(zip(axes, shape, strict=True)):
        sizes = [known.get(f, 1) for f in pattern.factors]
        total = sum(sizes) if pattern.joined == "concatenation" else _product(sizes)
        if size == 1:
            result.append(Pattern(()))
        elif total != size:
            raise ValueError(f"{name}: axis {at} has size {size}, its factors {pattern} give {total}")
        elif pattern.joined == "product":
            kept = tuple(f for f, s in zip(pattern.factors, sizes, strict=True) if s != 1)
            result.append(Pattern(kept, "product", pattern.fixed & frozenset(kept)))
        else:
            result.append(pattern)
    return tuple(result)


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _shape_text(shape: Sequence[Pattern]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
