"""Composition and addition of maps: against torch on whole and broken borders, and against a plain loop."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from otgraph.graph import compose as composition
from otgraph.graph.compose import LinearMap, add, compose, linear_map, regroup
from otgraph.window import Window, add_windows, compose_windows, pointwise

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def run(m: LinearMap, x: torch.Tensor) -> torch.Tensor:
    """The map, by torch: pad explicitly (or crop) with the fill, then convolve without padding."""
    window = m.window
    flat = [amount for pair in reversed(window.padding) for amount in pair]
    inside = F.pad(torch.ones_like(x), flat)
    x = F.pad(x, flat) + (1 - inside) * m.fill.reshape(-1, *[1] * len(window.kernel))
    if not window.kernel:
        return F.linear(x, regroup(m.weight, window.groups, 1), m.bias)
    convolution = CONVOLUTIONS[len(window.kernel)]
    return convolution(x, m.weight, m.bias, window.stride, 0, window.dilation, window.groups)


def random_map(window: Window, *, bias: bool = True, fill: float = 0.0) -> LinearMap:
    weight = torch.randn(window.outputs, window.inputs // window.groups, *window.kernel)
    return linear_map(window, weight, torch.randn(window.outputs) if bias else None, fill)


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


@st.composite
def windows(draw: st.DrawFn, inputs: int, axes: int) -> Window:
    outputs = draw(st.sampled_from([2, 4, 6]))
    groups = draw(st.sampled_from([g for g in (1, 2, 4) if inputs % g == 0 and outputs % g == 0]))
    small = st.integers(1, 3)
    pad = st.tuples(st.integers(-1, 3), st.integers(-1, 3))
    return Window(
        inputs,
        outputs,
        groups,
        tuple(draw(small) for _ in range(axes)),
        tuple(draw(small) for _ in range(axes)),
        tuple(draw(st.one_of(st.just((0, 0)), pad)) for _ in range(axes)),
        tuple(draw(small) for _ in range(axes)),
    )


@st.composite
def pairs(draw: st.DrawFn) -> tuple[LinearMap, LinearMap]:
    axes = draw(st.sampled_from([1, 1, 2]))
    torch.manual_seed(draw(st.integers(0, 99)))
    first = draw(windows(4, axes))
    second = draw(windows(first.outputs, axes))
    biases = draw(st.tuples(st.booleans(), st.booleans()))
    return random_map(first, bias=biases[0]), random_map(second, bias=biases[1])


def forced(first: LinearMap, second: LinearMap) -> LinearMap:
    """The composition as it is where there is no border."""
    window = compose_windows(first.window, second.window)
    weight = composition._spread(first, second, window)
    return LinearMap(window, weight, second.on_constant(first.bias), first.fill)


def inputs_for(first: LinearMap, second: LinearMap) -> list[torch.Tensor]:
    """One input per remainder that the strides can leave, as small as the maps take and larger."""
    window = compose_windows(first.window, second.window)
    found = []
    for more in range(math.lcm(*window.stride, 2) + 1):
        sizes = []
        for a in range(len(window.kernel)):
            inner, pads = first.window, first.window.padding[a]
            least = (
                inner.extents[a]
                + 1
                - sum(pads)
                + inner.stride[a] * (second.window.extents[a] + max(0, -min(second.window.padding[a]) * 2))
            )
            sizes.append(max(least, 1, 1 - sum(min(p, 0) for p in pads)) + more)
        found.append(torch.randn(2, window.inputs, *sizes, dtype=torch.float64))
    return found


@given(pairs())
@settings(max_examples=300, deadline=None)
def test_composition_is_exact_at_interior_and_border_alike_or_refused(
    pair: tuple[LinearMap, LinearMap],
) -> None:
    """Both ways: what is composed equals the two in turn; what is refused would differ for some size."""
    first, second = pair
    composed = compose(first, second)
    candidate = forced(first, second) if isinstance(composed, str) else composed
    worst = 0.0
    for x in inputs_for(first, second):
        middle = run(first, x)
        assume(all(size > 0 for size in middle.shape))
        wanted = run(second, middle)
        worst = max(worst, error(run(candidate, x), wanted))
    if isinstance(composed, str):
        assert worst > 1e-6
    else:
        assert worst < 1e-12


def test_both_answers_are_common() -> None:
    """The property above is not about an empty set: of plain pairs a good part composes."""
    answers = []
    for k1, k2, p1, p2, s1, bias in itertools.product(
        (1, 3), (1, 3), (0, 1, 2), (0, 1), (1, 2), (False, True)
    ):
        first = random_map(Window(2, 2, 1, (k1,), (s1,), ((p1, p1),), (1,)), bias=bias)
        second = random_map(Window(2, 2, 1, (k2,), (1,), ((p2, p2),), (1,)))
        answers.append(isinstance(compose(first, second), LinearMap))
    assert 48 <= sum(answers) < len(answers) == 96


def test_against_a_plain_loop() -> None:
    """W[o, c, s1·d2·v + d1·u] = Σ_m W2[o, m, v] W1[m, c, u], written out."""
    first = random_map(Window(3, 4, 1, (3,), (2,), ((0, 0),), (2,)))
    second = random_map(Window(4, 2, 1, (2,), (1,), ((0, 0),), (3,)))
    composed = compose(first, second)
    assert isinstance(composed, LinearMap)
    wanted = torch.zeros(2, 3, 11, dtype=torch.float64)
    for o, c, m, u, v in itertools.product(range(2), range(3), range(4), range(3), range(2)):
        wanted[o, c, 2 * 3 * v + 2 * u] += second.weight[o, m, v] * first.weight[m, c, u]
    dense = torch.zeros_like(wanted)
    dense[..., :: composed.window.dilation[0]] = composed.weight
    assert composed.window.dilation == (2,) and composed.window.stride == (2,)
    torch.testing.assert_close(dense, wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("g1", "g2"), [(1, 1), (2, 4), (4, 2), (4, 6), (12, 4), (12, 1), (1, 12), (12, 12)])
def test_groups_follow_the_greatest_common_divisor(g1: int, g2: int) -> None:
    first = random_map(Window(12, 12, g1, (3, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)))
    second = random_map(Window(12, 24, g2, (2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)))
    composed = compose(first, second)
    assert isinstance(composed, LinearMap) and composed.window.groups == math.gcd(g1, g2)
    x = torch.randn(2, 12, 6, 5, dtype=torch.float64)
    assert error(run(composed, x), run(second, run(first, x))) < 1e-13


def test_products_and_three_axes() -> None:
    a, b = random_map(Window(5, 7, 1)), random_map(Window(7, 3, 1))
    composed = compose(a, b)
    assert isinstance(composed, LinearMap)
    x = torch.randn(4, 5, dtype=torch.float64)
    assert error(run(composed, x), run(b, run(a, x))) < 1e-14
    a = random_map(Window(2, 4, 2, (2, 1, 3), (1, 2, 1), ((1, 0), (0, 0), (2, 1)), (1, 1, 2)))
    b = random_map(Window(4, 4, 1, (1, 2, 2), (2, 1, 1), ((0, 0),) * 3, (1, 1, 1)))
    composed = compose(a, b)
    assert isinstance(composed, LinearMap)
    x = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)
    assert error(run(composed, x), run(b, run(a, x))) < 1e-13


def test_a_padding_that_holds_the_bias() -> None:
    """1×1 with a bias, then a convolution padded with that bias: exact; with zeros, or another value: not."""
    first = linear_map(
        Window(2, 3, 1, (1,), (1,), ((0, 0),), (1,)), torch.randn(3, 2, 1), torch.full((3,), 0.3)
    )
    window = Window(3, 2, 1, (3,), (1,), ((1, 1),), (1,))
    weight = torch.randn(2, 3, 3)
    equal = linear_map(window, weight, fill=float(torch.tensor(0.3)))
    composed = compose(first, equal)
    assert isinstance(composed, LinearMap)
    x = torch.randn(2, 2, 5, dtype=torch.float64)
    assert error(run(composed, x), run(equal, run(first, x))) < 1e-14
    for other in (0.0, 0.31):
        refused = compose(first, linear_map(window, weight, fill=other))
        assert refused == "the padding between them does not hold the bias of the first"


@st.composite
def parallels(draw: st.DrawFn) -> tuple[LinearMap, LinearMap]:
    axes = draw(st.sampled_from([1, 2]))
    torch.manual_seed(draw(st.integers(0, 99)))
    a = draw(windows(4, axes))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    dilation = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    extents = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    surplus = [sum(pads) - extent for pads, extent in zip(a.padding, a.extents, strict=True)]
    before = [draw(st.integers(-1, 3)) for _ in range(axes)]
    pads = tuple((b, s + e - b) for b, s, e in zip(before, surplus, extents, strict=True))
    groups = draw(st.sampled_from([g for g in (1, 2, 4) if a.outputs % g == 0]))
    b = Window(4, a.outputs, groups, kernel, a.stride, pads, dilation)
    return random_map(a, bias=draw(st.booleans())), random_map(b)


@given(parallels(), st.sampled_from([1.0, -1.0, 0.5]))
@settings(max_examples=150, deadline=None)
def test_sums_are_exact(pair: tuple[LinearMap, LinearMap], scale: float) -> None:
    a, b = pair
    total = add(a, b, scale)
    assert isinstance(total, LinearMap)
    for more in range(3):
        x = torch.randn(2, 4, *(9 + more for _ in a.window.kernel), dtype=torch.float64)
        assert error(run(total, x), run(a, x) + scale * run(b, x)) < 1e-12


def test_an_identity_goes_to_the_tap_at_the_padding() -> None:
    """Not to the middle: the two agree only where the padding keeps the size on both sides."""
    conv = random_map(Window(2, 2, 1, (3,), (1,), ((2, 0),), (1,)), bias=False)
    identity = linear_map(pointwise(2, 1), torch.ones(2, 1, 1))
    total = add(conv, identity)
    assert isinstance(total, LinearMap)
    assert torch.equal(total.weight - conv.weight, F.pad(torch.eye(2).double()[..., None], (2, 0)))


def test_sums_that_are_refused() -> None:
    plain = Window(4, 4, 1, (3,), (1,), ((1, 1),), (1,))
    assert (
        add_windows(plain, Window(4, 4, 1, (1,), (2,), ((0, 0),), (1,))) == "their strides differ (1 and 2)"
    )
    assert (
        add_windows(plain, Window(4, 4, 1, (3,), (1,), ((0, 0),), (1,)))
        == "their outputs have different sizes"
    )
    assert add_windows(plain, Window(4, 2, 1, (1,), (1,), ((0, 0),), (1,))) == "they have different channels"
    assert add(random_map(plain), random_map(plain, fill=1.0)) == "they pad with different values"


def test_numbers_that_do_not_fit_their_window() -> None:
    with pytest.raises(
        ValueError, match=r"the weight has shape \(4, 4, 2\), and its window is one of \(4, 4, 3\)"
    ):
        linear_map(Window(4, 4, 1, (3,), (1,), ((1, 1),), (1,)), torch.randn(4, 4, 2))


@pytest.mark.parametrize("wrong", ["flip", "center", "bias twice"])
def test_the_errors_of_others_are_noticed(wrong: str) -> None:
    """Deliberately broken compositions differ from the truth by far more than the tolerance."""
    first = random_map(Window(2, 3, 1, (3,), (1,), ((1, 1),), (1,)))
    second = random_map(Window(3, 2, 1, (3,), (1,), ((0, 0),), (1,)))
    composed = compose(first, second)
    assert isinstance(composed, LinearMap)
    weight, bias = composed.weight, composed.bias
    if wrong == "flip":  # a convolution where torch correlates
        weight = composed.weight.flip(-1)
    elif wrong == "center":  # the kernel cropped to the first's size
        weight = F.pad(composed.weight[..., 1:4], (1, 1))
    else:
        bias = bias + second.bias
    broken = LinearMap(composed.window, weight, bias, composed.fill)
    x = torch.randn(2, 2, 9, dtype=torch.float64)
    assert error(run(broken, x), run(second, run(first, x))) > 0.01
