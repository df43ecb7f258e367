"""The ridge solver against direct least squares, and where a Gram is deficient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from otgraph.calibrate.normal import Normal, choose, solve, solve_rows, squared_error
from otgraph.calibrate.rows import Geometry, Sampling, gathered
from otgraph.graph.affine import affine_nodes, read_weight
from otgraph.graph.capture import capture

INF = float("inf")


def equations(rows: torch.Tensor, residuals: torch.Tensor) -> Normal:
    found = Normal.zero(rows.shape[0], rows.shape[2], residuals.shape[2])
    for r, t in zip(rows.split(7, 1), residuals.split(7, 1), strict=True):
        found = found.add(r, t)
    return found


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(2, 60, 5, dtype=torch.float64) * 3 + 1, torch.randn(2, 60, 3, dtype=torch.float64)


def test_a_tiny_ridge_is_least_squares_with_an_intercept() -> None:
    rows, residuals = problem()
    found = solve(equations(rows, residuals), (1e-12,), intercept=True)[0]
    wide = torch.cat([rows, torch.ones(2, 60, 1, dtype=torch.float64)], 2)
    direct = torch.linalg.lstsq(wide, residuals).solution
    torch.testing.assert_close(found.weight, direct[:, :5], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.bias, direct[:, 5], rtol=1e-8, atol=1e-9)


def test_without_an_intercept() -> None:
    rows, residuals = problem()
    found = solve(equations(rows, residuals), (1e-12,), intercept=False)[0]
    torch.testing.assert_close(
        found.weight, torch.linalg.lstsq(rows, residuals).solution, rtol=1e-8, atol=1e-9
    )
    assert not found.bias.any()


@pytest.mark.parametrize("intercept", [True, False])
def test_the_error_is_the_direct_one(intercept: bool) -> None:
    rows, residuals = problem()
    system = equations(rows, residuals)
    for correction in solve(system, (1e-6, 0.3, INF), intercept=intercept):
        left = residuals - rows @ correction.weight - correction.bias.unsqueeze(1)
        torch.testing.assert_close(squared_error(system, correction), left.square().sum(1), rtol=1e-9, atol=0)


def test_an_infinite_ridge_corrects_only_the_constant() -> None:
    rows, residuals = problem()
    with_, without = (solve(equations(rows, residuals), (INF,), intercept=i)[0] for i in (True, False))
    assert not with_.weight.any() and not without.weight.any() and not without.bias.any()
    torch.testing.assert_close(with_.bias, residuals.mean(1))


def test_the_scale_of_the_input_does_not_matter() -> None:
    rows, residuals = problem()
    a = solve(equations(rows, residuals), (0.1,), intercept=True)[0]
    b = solve(equations(rows * 1e4, residuals), (0.1,), intercept=True)[0]
    torch.testing.assert_close(a.weight, b.weight * 1e4, rtol=1e-9, atol=1e-12)


def test_dead_and_duplicate_channels_are_harmless() -> None:
    rows, residuals = problem()
    rows[..., 1] = 0
    rows[..., 3] = rows[..., 2]
    for correction in solve(equations(rows, residuals), (1e-8, 1e-2), intercept=True):
        assert torch.isfinite(correction.weight).all()
        assert not correction.weight[:, 1].any()
        torch.testing.assert_close(correction.weight[:, 2], correction.weight[:, 3], rtol=1e-4, atol=1e-8)


def test_a_channel_almost_silent_in_the_fit_cannot_take_any_weight() -> None:
    torch.manual_seed(0)
    rows = torch.randn(1, 40, 4, dtype=torch.float64)
    rows[..., 0] = 0
    rows[0, 0, 0] = 1e-3  # heard once, faintly
    residuals = torch.randn(1, 40, 1, dtype=torch.float64)
    found = solve(equations(rows, residuals), (1e-2,), intercept=False)[0]
    assert abs(float(found.weight[0, 0, 0])) < 1


def test_noise_keeps_the_old_weights_and_signal_does_not() -> None:
    torch.manual_seed(1)
    rows = torch.randn(1, 24, 20, dtype=torch.float64)
    noise = torch.randn(1, 24, 1, dtype=torch.float64)
    held_rows, held_noise = torch.randn(1, 200, 20).double(), torch.randn(1, 200, 1).double()
    one = torch.ones(1, 1, dtype=torch.float64)
    fit, held = equations(rows, noise), equations(held_rows, held_noise)
    small = choose(fit, held, (1e-8, 1e-4, 1e-2), one, 1.0, intercept=False)
    assert small.ridge is None and small.correction is None and small.after == small.before
    truth = torch.randn(1, 20, 1, dtype=torch.float64)
    fit, held = equations(rows, rows @ truth), equations(held_rows, held_rows @ truth)
    found = choose(fit, held, (1e-8, 1e-2, INF), one, 1.0, intercept=False)
    assert found.ridge == 1e-8 and found.after < 1e-9 * found.before


@given(
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 3),
)
@settings(max_examples=15, deadline=None)
def test_rows_times_columns_is_the_convolution(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias=False).double()
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    check_rows(conv, x)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 5), (2, 3, 2, 5)])
def test_rows_of_linear_layers(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check_rows(nn.Linear(5, 3, bias=False).double(), torch.randn(shape, dtype=torch.float64))


def test_rows_of_one_dimensional_same_padding() -> None:
    torch.manual_seed(0)
    check_rows(nn.Conv1d(4, 6, 4, padding="same", bias=False).double(), torch.randn(2, 4, 11).double())


def test_rows_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otgraph.calibrate.rows.BLOCK_BYTES", 2000)
    torch.manual_seed(0)
    assert check_rows(nn.Conv2d(4, 6, 3, bias=False).double(), torch.randn(3, 4, 9, 8).double()) == 3
    assert check_rows(nn.Linear(50, 3, bias=False).double(), torch.randn(20, 50).double()) > 3


def check_rows(layer: nn.Module, x: torch.Tensor) -> int:
    graph = capture(layer, (x,))
    affine = affine_nodes(graph)[0]
    weight = read_weight(graph, affine)
    geometry = Geometry(affine.window)
    wanted = layer(x).detach()
    assert geometry.shape(x) == tuple(wanted.shape)
    space = math.prod(geometry.space(x))
    blocks = list(geometry.blocks(x, gathered(wanted, affine.axis, torch.arange(space)), torch.arange(space)))
    for rows, target in blocks:
        torch.testing.assert_close(rows @ geometry.columns(weight), target, rtol=1e-10, atol=1e-10)
    assert sum(target.numel() for _, target in blocks) == wanted.numel()
    torch.testing.assert_close(geometry.weight(geometry.columns(weight), weight), weight)
    some = Sampling.pick(space, 3, batch=1)
    for rows, target in geometry.blocks(x, gathered(wanted, affine.axis, some), some):
        torch.testing.assert_close(rows @ geometry.columns(weight), target, rtol=1e-10, atol=1e-10)
    return len(blocks)


def test_a_shrunk_intercept_goes_to_nothing_as_the_ridge_grows() -> None:
    rows, residuals = torch.randn(1, 200, 4, dtype=torch.float64) + 2, torch.randn(1, 200, 3).double() + 5
    system = equations(rows, residuals)
    free, shrunk = (solve(system, (1e6,), intercept=True, shrunk=s)[0] for s in (False, True))
    assert torch.allclose(free.bias, residuals.mean(1), rtol=1e-3)
    assert shrunk.bias.abs().max() < 1e-4 * free.bias.abs().max()
    exact, near = (solve(system, (1e-9,), intercept=True, shrunk=s)[0] for s in (False, True))
    assert torch.allclose(exact.bias, near.bias, rtol=1e-6)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("count", [4, 60])
def test_the_dual_form_is_the_same_solution(intercept: bool, count: int) -> None:
    rows, residuals = problem()
    rows, residuals = rows[:, :count].clone(), residuals[:, :count]
    rows[0, :, 2] = 0.0  # a channel that is silent
    primal = solve(equations(rows, residuals), (0.1,), intercept=intercept, shrunk=True)[0]
    dual = solve_rows(rows, residuals, 0.1, intercept=intercept, shrunk=True)
    torch.testing.assert_close(dual.weight, primal.weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(dual.bias, primal.bias, rtol=1e-9, atol=1e-12)
    single = solve_rows(rows.float(), residuals.float(), 0.1, intercept=intercept, shrunk=True)
    torch.testing.assert_close(single.weight, primal.weight, rtol=1e-3, atol=1e-5)
