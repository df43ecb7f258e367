"""Every axis rule against its operator: the cutting law, what vanishes, its golden line, planted errors."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from otgraph.graph.axes.algebra import Axis
from otgraph.graph.axes.call import Call
from otgraph.graph.axes.rule import AxisRule, Pattern
from otgraph.graph.axes.rules import FAMILIES, RULES
from otgraph.graph.axes.rules.elementwise import pointwise
from otgraph.graph.axes.tracker import Tracked, Tracker

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).with_name("rules.golden.txt")
SEEDS = (1, 2, 3)
NEW = {"new_zeros", "new_ones", "new_full"}


def _tool(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


cases = _tool("axis_rule_cases")
BY_NAME = {case.name: case for case in cases.CASES}


def rule_of(call: Call) -> AxisRule:
    rule = RULES.get(call.name, pointwise)(call)
    assert rule is not None, f"{call.name} has no rule for this use"
    return rule


# the cutting law


class Cut:
    """Random halves of the free factors of one rule."""

    def __init__(self, rule: AxisRule, random: np.random.Generator, only: set[str] | None = None) -> None:
        self.rule = rule
        patterns = [p for side in (rule.operands, rule.results) for tensor in side for p in tensor]
        fixed = {f for p in patterns for f in p.fixed} | set(rule.normalized)
        names = {f for p in patterns for f in p.factors}
        self.keep = {}
        for name in sorted(names):
            size = rule.sizes[name]
            self.keep[name] = np.ones(size, bool)
            if name not in fixed and size > 1 and (only is None or name in only):
                self.keep[name][random.permutation(size)[: size // 2]] = False

    @property
    def removes(self) -> bool:
        return any(not mask.all() for mask in self.keep.values())

    def mask(self, pattern: Pattern, names: set[str] | None = None) -> np.ndarray:
        """Which positions of an axis stay; with ``names``, only those factors are cut."""
        masks = [
            self.keep[f] if names is None or f in names else np.ones(self.rule.sizes[f], bool)
            for f in pattern.factors
        ]
        if pattern.joined == "concatenation":
            return np.concatenate(masks)
        mask = np.ones(1, bool)
        for factor in masks:
            mask = np.outer(mask, factor).ravel()
        return mask

    def tensor(self, tensor: torch.Tensor, patterns: tuple[Pattern, ...]) -> torch.Tensor:
        for axis, pattern in enumerate(patterns):
            tensor = tensor.index_select(axis, torch.from_numpy(np.flatnonzero(self.mask(pattern))))
        return tensor

    def zeroed(self, tensor: torch.Tensor, patterns: tuple[Pattern, ...], names: set[str]) -> torch.Tensor:
        tensor = tensor.clone()
        for axis, pattern in enumerate(patterns):
            removed = torch.from_numpy(np.flatnonzero(~self.mask(pattern, names)))
            tensor.index_fill_(axis, removed, 0)
        return tensor

    def shape(self, result: int = 0) -> list[int]:
        return [int(self.mask(p).sum()) for p in self.rule.results[result]]

    def left(self, name: str) -> int:
        return int(self.keep[name].sum()) if name in self.keep else self.rule.sizes.get(name, 1)


def _new_arguments(
    call: Call, cut: Cut, operands: list[torch.Tensor]
) -> tuple[Any, list[Any], dict[str, Any]]:
    """The call on cut operands: sizes that an argument repeats are brought up to date."""
    func, given = call.func, iter(operands)
    args, kwargs = pytree.tree_map(
        lambda leaf: next(given) if isinstance(leaf, torch.Tensor) else leaf,
        (list(call.args), dict(call.kwargs)),
    )
    name, aten = call.name, torch.ops.aten
    if name in {"view", "_unsafe_view", "reshape", "view_copy", "expand", "broadcast_to"} or name in NEW:
        args[1] = cut.shape()
    elif name in {"zeros", "ones", "full"}:
        args[0] = cut.shape()
    elif name.endswith("channel_shuffle"):
        args[1] = cut.left("g")
    elif name == "unflatten":
        args[2] = cut.shape()[1:]
    elif name == "_reshape_alias":
        args[1:] = [cut.shape(), [cut.shape()[1], 1]]
    elif name in {"split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes"}:
        func = aten.split_with_sizes.default
        args[1] = [cut.shape(k)[args[2]] for k in range(len(call.results))]
    elif name == "slice" and "part" in cut.rule.sizes:
        start = cut.left("before") if cut.rule.sizes["before"] else 0
        args[2:4] = [start, start + cut.left("part")]
    elif name == "convolution":
        args[8] = cut.left("g") if cut.rule.sizes["g"] > 1 else 1
    elif name == "native_layer_norm":
        args[1] = cut.shape()[2:]
    elif name == "native_group_norm":
        n, c, h, w = cut.shape()
        args[3:7] = [n, c, h * w, cut.left("g")]
    elif name.startswith("_scaled_dot_product"):  # the kernel wants one width for keys and values
        func, args = aten.scaled_dot_product_attention.default, args[:3]
        kwargs["enable_gqa"] = True
        kwargs["scale"] = 1 / math.sqrt(call.operands[0].shape[-1])
    return func, args, kwargs


def broken_law(call: Call, rule: AxisRule, cut: Cut) -> str | None:
    """What is wrong if cutting all operands and the result of the masked operands are not the same."""
    reduce = {*rule.reduce, *rule.averaged}
    counts = math.prod(cut.left(name) / rule.sizes[name] for name in rule.averaged)
    masked = [cut.zeroed(t, p, reduce) for t, p in zip(call.operands, rule.operands, strict=True)]
    whole = _run(*_new_arguments(call, _Nothing(rule, np.random.default_rng(0)), masked))
    shorter = [cut.tensor(t, p) for t, p in zip(call.operands, rule.operands, strict=True)]
    try:
        found = _run(*_new_arguments(call, cut, shorter))
    except (RuntimeError, IndexError) as error:
        return f"cannot be called after the cut: {error}"
    for number, (result, patterns) in enumerate(zip(whole, rule.results, strict=False)):
        if result.numel() == 0 or not result.dtype.is_floating_point:
            continue
        expected = cut.tensor(result, patterns)
        if expected.shape != found[number].shape:
            return f"result {number} has shape {tuple(found[number].shape)}, not {tuple(expected.shape)}"
        if not torch.allclose(expected, found[number] * counts, rtol=1e-9, atol=1e-11):
            return f"result {number} differs by {float((expected - found[number]).abs().max()):.2g}"
    return None


class _Nothing(Cut):
    """The cut that removes nothing."""

    def __init__(self, rule: AxisRule, random: np.random.Generator) -> None:
        super().__init__(rule, random, only=set())


def _run(func: Any, args: list[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    args, kwargs = pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, (args, kwargs))
    return [t for t in pytree.tree_leaves(func(*args, **kwargs)) if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("name", BY_NAME)
def test_the_cutting_law(name: str) -> None:
    for seed in SEEDS:
        call = BY_NAME[name].call(seed)
        rule = rule_of(call)
        cut = Cut(rule, np.random.default_rng(seed))
        assert broken_law(call, rule, cut) is None, str(rule)


def test_the_law_cuts_something_in_nearly_every_case() -> None:
    whole = {
        name
        for name, case in BY_NAME.items()
        if not Cut(rule_of(call := case.call(1)), np.random.default_rng(1)).removes and call.operands
    }
    assert whole == {"roll (flat)"}


# planted errors


def _conv_exchanged(call: Call) -> AxisRule:
    return call.rule("n g*i h0! h1!, i g*o k0! k1!, g*i -> n g*o y0! y1!", sizes={"g": 1}, reduce=("i",))


def _cat_reversed(call: Call) -> AxisRule:
    return call.rule("n a h, n b h, n c h -> n c+b+a h")


def _view_transposed(call: Call) -> AxisRule:
    sizes = dict(zip("bc", call.results[0].shape[1:3], strict=True))
    return call.rule("a c*b e -> a b c e", sizes=sizes)


def _softmax_free(call: Call) -> AxisRule:
    return call.rule("a b c -> a b c")


def _mean_reduced(call: Call) -> AxisRule:
    return call.rule("a b c -> a 1 1", reduce=("b", "c"))


def _norm_free(call: Call) -> AxisRule:
    return call.rule("n t c e, c e, c e -> n t c e, n t 1 1, n t 1 1")


def _groups_inside(call: Call) -> AxisRule:
    sizes = {"g": int(call.args[8])}
    return call.rule("n i*g h!, o*g i k! -> n o*g y!", sizes=sizes, reduce=("i",))


PLANTED = {
    "convolution": _conv_exchanged,
    "convolution (grouped)": _groups_inside,
    "cat": _cat_reversed,
    "view (split)": _view_transposed,
    "_softmax": _softmax_free,
    "mean": _mean_reduced,
    "native_layer_norm": _norm_free,
}


def _square(name: str) -> Call:
    """A call at sizes at which the planted rule fits the shapes."""
    draw = cases.Draw(0)
    if name == "convolution":
        ones = [1, 1]
        args = (
            draw.tensor(2, 4, 5, 5),
            draw.tensor(4, 4, 3, 3),
            draw.tensor(4),
            ones,
            ones,
            ones,
            False,
            [0, 0],
            1,
        )
    elif name == "convolution (grouped)":
        args = (draw.tensor(2, 8, 5), draw.tensor(8, 4, 3), None, [1], [1], [1], False, [0], 2)
    elif name == "cat":
        args = ([draw.tensor(2, 4, 3) for _ in range(3)], 1)
    elif name == "view (split)":
        args = (draw.tensor(2, 16, 3), [2, 4, 4, 3])
    elif name == "native_layer_norm":
        args = (draw.tensor(2, 2, 4, 4), [4, 4], draw.tensor(4, 4), draw.tensor(4, 4), 1e-5)
    else:
        args = (draw.tensor(4, 4, 4), *BY_NAME[name].make(draw)[1:])
    return cases.record(BY_NAME[name].func, args, {})


@pytest.mark.parametrize("name", PLANTED)
def test_the_law_catches_a_planted_rule(name: str) -> None:
    call = _square(name)
    wrong = PLANTED[name](call)
    found = [broken_law(call, wrong, Cut(wrong, np.random.default_rng(seed))) for seed in range(4)]
    assert any(found), str(wrong)
    right = rule_of(call)
    assert all(broken_law(call, right, Cut(right, np.random.default_rng(seed))) is None for seed in range(4))


def test_restriding_real_entries_is_not_understood() -> None:
    x = torch.randn(2, 3, 4, 5)
    call = cases.record(torch.ops.aten.as_strided_.default, (x, [2, 3, 4, 5], [60, 1, 15, 3]), {})
    assert RULES["as_strided_"](call) is None


@pytest.mark.parametrize(("heads", "understood"), [(2, True), (3, False), (4, True)])
def test_query_heads_must_be_a_multiple_of_key_heads(heads: int, understood: bool) -> None:
    q, k = torch.randn(1, 4, 3, 8), torch.randn(1, heads, 3, 8)
    func = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    call = Call(func, (q, k, k), {}, (q, k, k), (q,))
    assert (RULES[call.name](call) is not None) == understood


# what vanishes


def overclaims(call: Call, rule: AxisRule) -> list[str]:
    """Factors of which the tracker says that the result vanishes with given operands, and it does not."""
    wrong: list[str] = []
    names = {f for tensor in rule.results for p in tensor for f in p.factors}
    for name in sorted(n for n in names if rule.sizes[n] > 1):
        cut = Cut(rule, np.random.default_rng(0), only={name})
        if not cut.removes:
            continue
        holders = [
            k
            for k, (tensor, patterns) in enumerate(zip(call.operands, rule.operands, strict=True))
            if any(name in p.factors for p in patterns)
            and (tensor.is_floating_point() or tensor.dtype == torch.bool)
        ]
        for clean in _subsets(holders):
            if not _claims_zero(call, rule, name, clean):
                continue
            operands = [
                cut.zeroed(t, p, {name}) if k in clean else t
                for k, (t, p) in enumerate(zip(call.operands, rule.operands, strict=True))
            ]
            nothing = _Nothing(rule, np.random.default_rng(0))
            whole = _run(*_new_arguments(call, nothing, operands))
            results = list(zip(whole, rule.results, strict=False))
            if call.name.endswith("_norm") or "_norm_" in call.name:
                results = results[:1]  # nothing in an inference graph reads the saved statistics
            if not all(_vanishes(r, p, cut, name) for r, p in results):
                wrong.append(f"{name} with operands {sorted(clean)} at zero")
    return wrong


def _subsets(holders: list[int]) -> Iterator[set[int]]:
    """All of them; where there are very many, the large and the small ones."""
    for size in range(len(holders) + 1):
        if len(holders) <= 8 or size <= 1 or size >= len(holders) - 1:
            yield from map(set, itertools.combinations(holders, size))


def _vanishes(result: torch.Tensor, patterns: tuple[Pattern, ...], cut: Cut, name: str) -> bool:
    for axis, pattern in enumerate(patterns):
        if name in pattern.factors and result.numel() and result.dtype.is_floating_point:
            removed = torch.from_numpy(np.flatnonzero(~cut.mask(pattern)))
            if bool(result.index_select(axis, removed).any()):
                return False
    return True


def _claims_zero(call: Call, rule: AxisRule, name: str, clean: set[int]) -> bool:
    records = [
        Tracked([Axis(s) for s in t.shape], [not (k in clean and name in p.factors) for p in patterns])
        for k, (t, patterns) in enumerate(zip(call.operands, rule.operands, strict=True))
    ]
    return not Tracker(RULES).dirty_factors(call, rule, records).get(name, False)


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_said_to_vanish_does(name: str) -> None:
    for seed in SEEDS:
        call = BY_NAME[name].call(seed)
        assert overclaims(call, rule_of(call)) == []


@pytest.mark.parametrize(
    ("name", "zero", "factor"),
    [
        ("lstm", {1, 2, 3, 4, 5, 6}, "h"),
        ("gru", {0}, "i"),
        ("gru", {2}, "i"),
        ("convolution", {1, 2}, "o"),
        ("native_batch_norm", {1, 2, 3}, "c"),
        ("linear", {1, 2}, "o"),
        ("mm", {1}, "o"),
    ]
    + [("native_layer_norm", {1, 2}, "c1"), ("relu (no rule of its own)", {0}, "a1"), ("cat", {1}, "p1")],
)
def test_what_vanishes_is_known_to(name: str, zero: set[int], factor: str) -> None:
    call = BY_NAME[name].call(1)
    assert _claims_zero(call, rule_of(call), factor, zero)


def test_a_rule_that_forgets_its_bias_is_caught() -> None:
    call = BY_NAME["linear"].call(1)
    wrong = call.rule("a b i, o i, o -> a b o", reduce=("i",), combine="product")
    assert "o with operands [1] at zero" in overclaims(call, wrong)


@pytest.mark.parametrize("dirty", [1, 2, 3, 4, 5, 6])
def test_a_hidden_unit_vanishes_only_with_its_state_and_all_its_weights(dirty: int) -> None:
    call = BY_NAME["lstm"].call(1)
    assert not _claims_zero(call, rule_of(call), "h", {1, 2, 3, 4, 5, 6} - {dirty})


def test_signs_and_truth_values_decide_what_vanishes() -> None:
    """min(0, y) is zero for a positive y only, and ``where`` takes from either side."""
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    least = cases.record(torch.ops.aten.minimum.default, (x, y), {})
    choice = cases.record(torch.ops.aten.where.self, (x > 0, x, y), {})
    assert not _claims_zero(least, rule_of(least), "a1", {0})
    assert _claims_zero(least, rule_of(least), "a1", {0, 1})
    assert not _claims_zero(choice, rule_of(choice), "a1", {1})
    assert _claims_zero(choice, rule_of(choice), "a1", {1, 2})


# the table


def test_every_rule_is_called_or_says_why_not() -> None:
    called = {case.operator for case in cases.CASES}
    assert RULES.keys() - called == cases.NOT_CALLED.keys()


def test_families_do_not_clash() -> None:
    names = [name for rules in FAMILIES.values() for name in rules]
    assert sorted(names) == sorted(set(names))
    assert RULES.keys() == set(names)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_names_an_operator_of_torch(name: str) -> None:
    assert getattr(torch.ops.aten, name).overloads()


def golden() -> str:
    lines = [f"{case.name} | {rule_of(case.call(0))}" for case in cases.CASES]
    return "\n".join(sorted(lines)) + "\n"


@pytest.mark.parametrize("name", ["cat", "_softmax", "mean"])
def test_a_planted_rule_changes_its_golden_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong, only = RULES[name], PLANTED[name], BY_NAME[name]
    sizes = [t.shape for t in only.call(0).operands]

    def planted(call: Call) -> Any:
        return wrong(call) if [t.shape for t in call.operands] == sizes else right(call)

    monkeypatch.setitem(RULES, name, planted)
    before, after = GOLDEN.read_text(encoding="utf-8").splitlines(), golden().splitlines()
    changed = set(after) - set(before)
    assert len(changed) == 1 and changed.pop().startswith(f"{name} | ")


def test_golden_rules(request: pytest.FixtureRequest) -> None:
    text = golden()
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == text


def test_the_written_table_is_current() -> None:
    table = _tool("generate_axis_rules")
    assert table.TABLE.read_text(encoding="utf-8") == table.render(), (
        "run: python tools/generate_axis_rules.py"
    )


def test_a_rule_that_does_not_fit_is_refused() -> None:
    call = BY_NAME["mm"].call(1)
    with pytest.raises(ValueError, match=r"mm: the rule speaks of 1 tensors, there are 2"):
        call.rule("n i -> n i")
    with pytest.raises(ValueError, match=r"mm: the rule gives 3 axes to a tensor of shape"):
        call.rule("n i k, i o -> n o")
    with pytest.raises(ValueError, match=r"mm: axis 1 has size \d+, its factors i give 1"):
        call.rule("n i, i o -> n o", sizes={"i": 1})
