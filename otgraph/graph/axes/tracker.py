"""``Tracker``: applies axis rules to the ATen calls of one execution; remembers every tensor's axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from otgraph.graph.axes import outline
from otgraph.graph.axes.algebra import (
    Axis,
    as_product,
    block,
    concatenation,
    cut,
    mark,
    product,
    resolve,
    unify,
)
from otgraph.graph.axes.axis_map import Role
from otgraph.graph.axes.call import Builder, Call
from otgraph.graph.axes.rule import AxisRule, Pattern
from otgraph.graph.axes.rules.elementwise import is_pointwise, pointwise

_RESHAPES_IN_PLACE = frozenset({"squeeze_", "unsqueeze_", "t_", "transpose_"})
"""Their operand has its new shape when they have run. torch makes a product with a vector of the first."""


@dataclass(frozen=True)
class Integers:
    """What is known of integers: the axes that stay whole as soon as something reads them, and why.

    ``steps``: they are those of a quantizer, and stand for numbers; a quantizer may read them, and no axis
    then stays whole. The one that stands for zero is ``zero`` (None: 0), or one per index of ``axis``.
    """

    why: str
    axes: tuple[Axis, ...]
    steps: bool = False
    zero: torch.Tensor | None = None
    axis: int = 0


@dataclass
class Tracked:
    """What is known of one tensor.

    Its axes; per axis whether a removed index may hold something other than zero (of a quantizer's integers:
    than what stands for it) when its weights are zeroed; whether it depends on the model's inputs; if not,
    the weights it was made of; of integers more.
    """

    axes: list[Axis]
    dirty: list[bool]
    computed: bool = False
    weights: frozenset[str] = frozenset()
    integers: Integers | None = None


@dataclass(frozen=True)
class Use:
    """A stored tensor took part in a call: the axis it did so along, and as what."""

    weights: frozenset[str]
    axis: Axis
    role: Role


@dataclass(frozen=True)
class Unknown:
    """A call without a rule: its operator, the node it belongs to, and the axes it blocks."""

    operator: str
    node: str
    axes: tuple[Axis, ...]


class Tracker(TorchDispatchMode):
    """Run a program under this mode; every call below it refines the axes of the tensors involved."""

    def __init__(self, rules: dict[str, Builder]) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]  (its one parameter has no annotation)
        self.rules = rules
        self.where = "input"
        self.rescales = False  # whether the operator of the program that runs now can be given a factor
        self.uses: list[Use] = []
        self.unknown: list[Unknown] = []
        self._known: Any = WeakIdKeyDictionary()
        self._blank: dict[int, list[Tracked]] = {}
        self._zero_checks: dict[tuple[Any, ...], bool] = {}

    def tracked(self, tensor: torch.Tensor) -> Tracked:
        """The record of ``tensor``; one not seen before is a constant whose integer axes are fixed."""
        found = self._known.get(tensor)
        if found is None:
            found = Tracked([Axis(size) for size in tensor.shape], [True] * tensor.dim())
            self._known[tensor] = found
            self._fix_integers(tensor, found)
        return found

    def register(self, tensor: torch.Tensor, record: Tracked) -> None:
        """Declare a weight or an input."""
        self._known[tensor] = record
        if record.integers is None:
            self._fix_integers(tensor, record)

    def read(self, tensor: torch.Tensor) -> Tracked:
        """The record of ``tensor``, for something that reads it and is no quantizer: what becomes of integers
        when an axis is cut that they run along, or were computed along, is not known."""
        record = self.tracked(tensor)
        if record.integers is not None:
            for axis in record.integers.axes:
                block(axis, record.integers.why)
        return record

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        read = self._before_reshape(args) if func.overloadpacket.__name__ in _RESHAPES_IN_PLACE else args
        out = self._returned(func, args, kwargs)
        results = _tensors(out)
        if results:
            self._apply(Call(func, read, kwargs, _tensors((read, kwargs)), results))
        return out

    def _before_reshape(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with the first, which is about to have another shape, as it is now."""
        record, kept = self.tracked(args[0]), args[0].detach()
        self._known[kept] = record
        return kept, *args[1:]

    def _returned(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the call returns; of what depends on the inputs the shape will do."""
        operands = _tensors((args, kwargs))
        records = [self._known.get(tensor) for tensor in operands]
        computed = any(record is not None and record.computed for record in records)
        if computed and not any(isinstance(tensor, FakeTensor) for tensor in operands):
            return outline.call(func, args, kwargs)
        return func(*args, **kwargs)

    def whole(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Apply the rule of a composite operator, which ran without this mode and returned ``out``."""
        self._apply(Call(func, args, kwargs, _tensors((args, kwargs)), _tensors(out)))

    def _apply(self, call: Call) -> None:
        builder = self.rules.get(call.name)
        if builder is None and is_pointwise(call.func):
            builder = pointwise
        try:
            rule = None if builder is None else builder(call)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError):
            rule = None  # a use of the operator that its rule has not foreseen
        self._forget_blank(call)
        if rule is None:
            self._opaque(call)
        else:
            self._unify(call, rule)
            if rule.combine == "never":
                self._blank[_storage(call.results[0])] = [self.tracked(call.results[0])]

    def _forget_blank(self, call: Call) -> None:
        """Zeros that are written into, if only through a view, are zeros no more."""
        schema = call.func._schema  # pyright: ignore[reportPrivateUsage]  (where torch says it)
        if schema.is_mutable and call.operands:
            for record in self._blank.pop(_storage(call.operands[0]), []):
                record.dirty = [True] * len(record.dirty)

    def opaque(
        self, operator: str, operands: Iterable[torch.Tensor], results: Iterable[torch.Tensor]
    ) -> None:
        """Declare that nothing is known of what lies between ``operands`` and ``results``."""
        why = f"{operator} at {self.where}"
        touched = [axis for t in operands for axis in self.read(t).axes]
        fresh = [(t, [Axis(size, blocked=why) for size in t.shape]) for t in results]
        self.unknown.append(
            Unknown(operator, self.where, (*touched, *(a for _, axes in fresh for a in axes)))
        )
        for axis in touched:
            block(axis, why)
        for tensor, axes in fresh:
            self._known[tensor] = Tracked(axes, [True] * tensor.dim(), computed=True)

    def _opaque(self, call: Call) -> None:
        self.opaque(f"aten.{call.name}", call.operands, call.results)

    def _unify(self, call: Call, rule: AxisRule) -> None:
        places = _passed_on(call.results, [self.tracked(t) for t in call.operands])
        records = [self.tracked(t) if places else self.read(t) for t in call.operands]
        if not all(map(_fits, records, rule.operands, itertools.repeat(rule.sizes))):
            self._opaque(call)  # an operand that has changed its shape meanwhile
            return
        for tensor, record in zip(call.results, self.relate(call, rule, records), strict=True):
            if _is_integer(tensor):
                why = f"{_family(rule.name)} at {self.where}"
                self._known[tensor] = _integer_record(tensor, record, why, places)
                continue
            if rule.fresh and not record.computed and _holds_zeros(tensor):
                record.dirty = [False] * len(record.axes)
            self._known[tensor] = record
            if self._blank and (views := self._blank.get(_storage(tensor))) is not None:
                views.append(record)

    def relate(self, call: Call, rule: AxisRule, records: list[Tracked]) -> list[Tracked]:
        """Unify the axes of the operands as ``rule`` says, and give the records of the results."""
        bound: dict[str, Axis] = {}
        for record, patterns in zip(records, rule.operands, strict=True):
            for axis, pattern in zip(record.axes, patterns, strict=True):
                self._bind(axis, pattern, rule, bound)
        dirty = self.dirty_factors(call, rule, records)
        self._mark(call, rule, records, bound, dirty)
        computed = any(record.computed for record in records)
        weights = frozenset[str]().union(*(r.weights for r in records)) if not computed else frozenset[str]()
        return [
            Tracked(
                [self._make(pattern, rule, bound) for pattern in patterns],
                [any(dirty.get(f, False) for f in p.factors) for p in patterns],
                computed,
                weights,
            )
            for patterns in rule.results
        ]

    def _bind(self, axis: Axis, pattern: Pattern, rule: AxisRule, bound: dict[str, Axis]) -> None:
        sizes = [rule.sizes[f] for f in pattern.factors]
        if not sizes:
            return
        if pattern.joined == "concatenation":
            parts = cut(axis, list(itertools.accumulate(sizes))[:-1])
        else:
            parts = as_product(axis, sizes)
        for name, part in zip(pattern.factors, parts, strict=True):
            if name in pattern.fixed:
                block(part, f"{_family(rule.name)} at {self.where}")
            if name in bound:
                unify(bound[name], part)
            else:
                bound[name] = part

    def _make(self, pattern: Pattern, rule: AxisRule, bound: dict[str, Axis]) -> Axis:
        if not pattern.factors:
            return Axis(1)
        parts: list[Axis] = []
        for name in pattern.factors:
            if name not in bound:
                free = name in rule.fresh and name not in pattern.fixed
                bound[name] = Axis(
                    rule.sizes[name], blocked=None if free else f"{_family(rule.name)} at {self.where}"
                )
            parts.append(resolve(bound[name]))
        return concatenation(parts) if pattern.joined == "concatenation" else product(parts)

    def _mark(
        self,
        call: Call,
        rule: AxisRule,
        records: list[Tracked],
        bound: dict[str, Axis],
        dirty: dict[str, bool],
    ) -> None:
        for name in rule.normalized:
            if name in bound:
                mark(bound[name], "normalized")
        for name in (*rule.reduce, *rule.averaged):
            if name in bound and dirty.get(name, False):
                block(bound[name], f"{_family(rule.name)} at {self.where} sums entries that do not vanish")
        for name in rule.averaged:
            if name in bound and not self.rescales:
                block(bound[name], f"{_family(rule.name)} at {self.where}")
        if call.name in ("add", "add_", "sub", "sub_") and sum(r.computed for r in records) == 2:
            for axis in bound.values():
                mark(axis, "residual")
        held = [{f for p in patterns for f in p.factors} for patterns in rule.operands]
        fixed = {f for patterns in rule.operands for p in patterns for f in p.fixed}
        made = {f for patterns in rule.results for p in patterns for f in p.factors}
        data = set[str]().union(*(names for names, r in zip(held, records, strict=True) if r.computed))
        for names, record in zip(held, records, strict=True):
            if record.computed or not record.weights:
                continue
            for name in (names & bound.keys()) - fixed:
                contracted = name in rule.reduce and name not in made
                role: Role = "reads" if contracted else "carries" if name in data else "writes"
                if data or role == "reads":
                    self.uses.append(Use(record.weights, bound[name], role))

    def dirty_factors(self, call: Call, rule: AxisRule, records: list[Tracked]) -> dict[str, bool]:
        """Per factor whether the result (of ``reduce``: the sum) may hold more than zeros where it is cut."""
        seen: dict[str, list[bool]] = {}
        for record, patterns in zip(records, rule.operands, strict=True):
            for spot, pattern in zip(record.dirty, patterns, strict=True):
                for name in pattern.factors:
                    seen.setdefault(name, []).append(spot)
        if rule.combine == "always":
            made = {f for patterns in rule.results for p in patterns for f in p.factors}
            return dict.fromkeys(made | seen.keys(), True)
        if rule.combine == "never":
            return {}
        if rule.combine == "weights":
            return _dirty_weights(rule, records)
        if rule.combine == "numeric":
            return self._dirty_by_evaluation(call, rule, records)
        if rule.combine == "product":
            return _dirty_product(rule, records)
        return {name: any(spots) for name, spots in seen.items()} | dict.fromkeys(rule.fresh, True)

    def _dirty_by_evaluation(self, call: Call, rule: AxisRule, records: list[Tracked]) -> dict[str, bool]:
        result: dict[str, bool] = {}
        for name in {f for patterns in rule.results for p in patterns for f in p.factors}:
            clean = tuple(bool(spots) and not any(spots) for spots in _spots(name, rule, records))
            result[name] = not self._vanishes(call, clean)
        return result

    def _vanishes(self, call: Call, clean: tuple[bool, ...]) -> bool:
        """Whether an element-wise operator gives zero when the operands marked clean are zero."""
        if not any(clean):
            return False
        leaves, spec = pytree.tree_flatten((call.args, dict(call.kwargs)))
        scalars = tuple(repr(leaf) for leaf in leaves if not isinstance(leaf, torch.Tensor))
        key = (call.func, scalars, clean, tuple(str(t.dtype) for t in call.operands))
        if key not in self._zero_checks:
            self._zero_checks[key] = _evaluate_on_zeros(call, leaves, spec, clean)
        return self._zero_checks[key]

    def _fix_integers(self, tensor: torch.Tensor, record: Tracked) -> None:
        if _is_integer(tensor):
            record.dirty = [True] * tensor.dim()
            for axis in record.axes:
                block(axis, "an integer tensor")


def _dirty_product(rule: AxisRule, records: list[Tracked]) -> dict[str, bool]:
    """``combine="product"``: multiplied operands vanish alone, added ones must vanish too."""
    times = rule.times if rule.times is not None else tuple(range(len(records)))
    added = [k for k in rule.added if k < len(records)]
    made = {f for patterns in rule.results for p in patterns for f in p.factors}
    result: dict[str, bool] = {}
    for name in made | set(rule.reduce):
        clean = [
            bool(spots) and not any(spots) and not (k == 0 and name in rule.normalized)
            for k, spots in enumerate(_spots(name, rule, records))
        ]
        if name in rule.reduce:
            result[name] = not any(clean)
        else:
            vanishes = any(clean[k] for k in times if k not in added) and all(clean[k] for k in added)
            result[name] = not vanishes
    return result


def _dirty_weights(rule: AxisRule, records: list[Tracked]) -> dict[str, bool]:
    """``combine="weights"``: all stored operands together; of what is contracted, the first one suffices."""
    made = {f for patterns in rule.results for p in patterns for f in p.factors}
    result: dict[str, bool] = {}
    for name in made | set(rule.reduce):
        first, *rest = _spots(name, rule, records)
        held = [spots for spots in rest if spots]
        vanishes = bool(held) and not any(any(spots) for spots in held)
        if first:
            vanishes = name in rule.reduce and (vanishes or not any(first))
        result[name] = not vanishes
    return result


def _spots(name: str, rule: AxisRule, records: list[Tracked]) -> list[list[bool]]:
    """Per operand the dirt of the axes that hold the factor ``name``."""
    return [
        [spot for spot, pattern in zip(record.dirty, patterns, strict=True) if name in pattern.factors]
        for record, patterns in zip(records, rule.operands, strict=True)
    ]


_PROBES = (0.7, -1.3)


def _evaluate_on_zeros(call: Call, leaves: list[Any], spec: Any, clean: tuple[bool, ...]) -> bool:
    """Whether the operator gives zero on one element, for every sign of the operands that are not zero."""
    return all(
        _is_zero(call, leaves, spec, values)
        for values in itertools.product(*((0.0,) if c else _PROBES for c in clean))
    )


def _is_zero(call: Call, leaves: list[Any], spec: Any, values: tuple[float, ...]) -> bool:
    given = iter(values)
    with unset_fake_temporarily():
        tensors = [_element(leaf, next(given)) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(tensors, spec)
        try:
            out = call.func(*args, **kwargs)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False  # not evaluable on one element: assume the worst
        results = [t for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]
        return all(not bool(t.any()) for t in results)


def _element(like: torch.Tensor, value: float) -> torch.Tensor:
    """One element of the dtype and rank of ``like``; truth values alternate with the sign."""
    shape = [1] * like.dim()
    if like.dtype == torch.bool:
        return torch.full(shape, value > 0)
    return torch.full(shape, value, dtype=torch.float64).to(like.dtype)


def _tensors(tree: Any) -> tuple[torch.Tensor, ...]:
    return tuple(leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _holds_zeros(tensor: torch.Tensor) -> bool:
    """Whether a constant is known, and zero. Of most the first entry tells; to read them all is slow."""
    if isinstance(tensor, FakeTensor) or (tensor.numel() and bool(tensor[(0,) * tensor.dim()])):
        return False
    return not bool(tensor.any())


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]  (the key torch uses itself)


def _is_integer(tensor: torch.Tensor) -> bool:
    return not tensor.dtype.is_floating_point and tensor.dtype != torch.bool and not tensor.dtype.is_complex


def _fits(record: Tracked, patterns: Sequence[Pattern], sizes: Mapping[str, int]) -> bool:
    """Whether the axes have the sizes of ``patterns``."""
    if len(record.axes) != len(patterns):
        return False
    for axis, pattern in zip(record.axes, patterns, strict=True):
        parts = [sizes[factor] for factor in pattern.factors]
        whole = sum(parts) if pattern.joined == "concatenation" else math.prod(parts)
        if parts and axis.size != whole:
            return False
    return True


def _passed_on(results: Sequence[torch.Tensor], operands: Sequence[Tracked]) -> tuple[Integers, ...]:
    """The places and counts among ``operands``, where integers are all that is made of them: as the places of
    a maximum over one axis, which only lose an axis before nothing reads them."""
    known = tuple(record.integers for record in operands if record.integers is not None)
    only = all(map(_is_integer, results)) and not any(integers.steps for integers in known)
    return known if only else ()


def _integer_record(
    tensor: torch.Tensor, record: Tracked, why: str, places: Sequence[Integers] = ()
) -> Tracked:
    """Places and counts. They tie the axes they were computed along only where something reads them, as
    nothing does the places that come with a maximum."""
    axes = [Axis(size, blocked="an integer tensor") for size in tensor.shape]
    along = Integers(why, tuple(record.axes)) if record.computed else None
    if places:
        axes_before = tuple(axis for integers in places for axis in integers.axes)
        along = Integers(places[0].why, (*axes_before, *(along.axes if along else ())))
    return Tracked(axes, [True] * tensor.dim(), record.computed, record.weights, along)


def _family(name: str) -> str:
    return name.strip("_")
