"""Fitted maps of spans against what torch computes with them, against closed forms, and where they refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from otgraph.calibrate import observe as observing
from otgraph.calibrate import span_fit, span_sums
from otgraph.calibrate.span_fit import FitOptions, SpanFit, fit_collapses
from otgraph.calibrate.span_rows import Source
from otgraph.data import Data
from otgraph.errors import DataError
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse, Estimator, MapKind, Span
from otgraph.graph.span_maps import find_collapses
from otgraph.graph.spans import find_spans
from otgraph.transport.bures import Gaussian, gaussian_transport
from otgraph.window import Window


class Residual(nn.Module):
    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(2, 4, 1), nn.Sequential(*branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.branch(x)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 5)
        self.mlp = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 20), nn.GELU(), nn.Linear(20, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.mlp(x)


def graph_of(module: nn.Module, *shape: int) -> Graph:
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return capture(module.eval(), (torch.randn(*shape),))


def data_of(graph: Graph, count: int = 48, seed: int = 0) -> Data:
    shape = graph.example[0].shape[1:]
    values = np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
    return Data.from_arrays({graph.signature.inputs[0].name: values})


def span_with(graph: Graph, nodes: int, *, branch: bool = False) -> Span:
    spans = [span for span in find_spans(graph, analyze(graph)) if span.entry != "input_1"]
    return next(s for s in spans if len(s.nodes) == nodes and (s.branch is not None) == branch)


def values_of(graph: Graph, data: Data, *names: str) -> list[torch.Tensor]:
    """The named values for all of ``data``, by running the program directly."""
    seen: dict[str, torch.Tensor] = {}
    inputs = tuple(torch.from_numpy(np.array(a)) for a in data.chunks[0].arrays.values())
    observing.observe(graph, inputs, names, lambda name, value: seen.update({name: value.clone()}))
    return [seen[name] for name in names]


def fit_collapse(graph: Graph, data: Data, collapse: Collapse) -> SpanFit:
    return fit_collapses(graph, data, (collapse,))[collapse.name]


def applied(fit: SpanFit, entry: torch.Tensor) -> torch.Tensor:
    """What a network with the fit in the span's place computes there, by torch's own operators."""
    if fit.weight is None:
        made = torch.zeros_like(entry) if fit.collapse.span.branch else entry
    elif fit.axis == -1 and fit.weight.dim() == 1:
        made = entry * fit.weight + fit.bias
    elif fit.axis == -1:
        made = functional.linear(entry, fit.weight, fit.bias)
    else:
        window = fit.window
        pads = [amount for pair in reversed(window.padding) for amount in pair]
        made = functional.conv2d(
            functional.pad(entry, pads), fit.weight, fit.bias, window.stride, groups=window.groups
        )
    return made + entry if fit.collapse.span.branch else made


def error_of(fit: SpanFit, graph: Graph, data: Data) -> float:
    """The paired error by definition: over the branch's update, or over the exit less its channel means."""
    entry, exit_ = values_of(graph, data, fit.collapse.span.entry, fit.collapse.span.exit)
    entry, exit_ = entry.double(), exit_.double()
    wrong = applied(replace_dtype(fit), entry) - exit_
    if fit.collapse.span.branch is not None:
        goal = exit_ - entry
    else:
        axes = [axis for axis in range(exit_.dim()) if axis != fit.axis % exit_.dim()]
        goal = exit_ - exit_.mean(axes, keepdim=True)
    return float(wrong.square().sum() / goal.square().sum())


def replace_dtype(fit: SpanFit) -> SpanFit:
    if fit.weight is None or fit.bias is None:
        return fit
    return replace(fit, weight=fit.weight.double(), bias=fit.bias.double())


ALL = FitOptions(sampling=span_fit.Sampling(positions=10**6))
"""Every position of every input."""


def one(graph: Graph, span: Span, map_: MapKind, estimator: Estimator = "least-squares") -> Collapse:
    kernel = (3, 3) if map_ == "conv" else ()
    return Collapse(span, map_, kernel, estimator)


def test_a_span_that_is_one_convolution_is_found_exactly() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 6, 3, 2, padding=1), nn.Conv2d(6, 3, 1))
    graph = graph_of(net, 2, 2, 9, 9)
    data = data_of(graph)
    fit = fit_collapse(graph, data, one(graph, Span("conv2d", "conv2d_2", ("conv2d_1", "conv2d_2")), "conv"))
    assert fit.error < 1e-6 and fit.ridge == 1e-5
    assert fit.window == Window(4, 3, 1, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)) and fit.axis == 1
    assert fit.weight is not None and fit.weight.shape == (3, 4, 3, 3)
    assert error_of(fit, graph, data_of(graph, seed=5)) < 1e-6


@pytest.mark.parametrize("map_", ["identity", "affine", "linear", "conv"])
@pytest.mark.parametrize("branch", [True, False])
def test_the_errors_are_those_of_the_map_that_is_returned(map_: MapKind, branch: bool) -> None:
    module = Residual(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    graph = graph_of(nn.Sequential(module, nn.ReLU()), 2, 2, 6, 6)
    span = span_with(graph, 4, branch=True) if branch else span_with(graph, 5)
    data = data_of(graph, 60)
    collapse = one(graph, span, map_)
    fit = fit_collapses(graph, data, (collapse,), ALL)[collapse.name]
    held, rest = data.halves(0.25)  # fold 0 is the first stretch
    again = fit_collapses(graph, rest, (collapse,), replace(ALL, folds=2))[collapse.name]
    assert abs(error_of(fit, graph, data) - (fit.error + 3 * fit.fitted) / 4) < 0.05
    if map_ == "identity":
        assert fit.error == pytest.approx(error_of(fit, graph, held), rel=1e-5)
        assert fit.error == pytest.approx(1.0 if branch else fit.error)
    elif fit.ridge == again.ridge:
        # what is fitted on the rest alone is what the held-out error was taken of
        assert fit.error == pytest.approx(error_of(again, graph, held), rel=1e-4)
        assert fit.fitted == pytest.approx(error_of(again, graph, rest), rel=1e-4)


def test_larger_classes_of_maps_never_fit_worse() -> None:
    module = Residual(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    graph = graph_of(module, 2, 2, 6, 6)
    span = span_with(graph, 4, branch=True)
    kinds: tuple[MapKind, ...] = ("identity", "affine", "linear", "conv")
    fits = fit_collapses(graph, data_of(graph, 200), [one(graph, span, kind) for kind in kinds])
    errors = [fit.fitted for fit in fits.values()]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]
    effects = [fit.effect / fit.error for fit in fits.values()]
    assert np.ptp(effects) < 1e-9 and effects[0] > 0  # one ratio: update to exit


def test_moments_restore_what_least_squares_shrinks() -> None:
    module = Residual(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    graph = graph_of(module, 2, 2, 6, 6)
    span = span_with(graph, 4, branch=True)
    data = data_of(graph, 64)
    for map_ in ("affine", "linear", "conv"):
        pair = [one(graph, span, map_, estimator) for estimator in ("least-squares", "moments")]
        plain, restored = fit_collapses(graph, data, pair, ALL).values()
        entry, exit_ = values_of(graph, data, span.entry, span.exit)
        update = exit_ - entry
        wanted = update.var((0, 2, 3)), update.mean((0, 2, 3))
        made = [applied(fit, entry) - entry for fit in (plain, restored)]
        assert (made[0].var((0, 2, 3)) < 0.95 * wanted[0]).all()
        torch.testing.assert_close(made[1].var((0, 2, 3)), wanted[0], rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(made[1].mean((0, 2, 3)), wanted[1], rtol=1e-3, atol=1e-4)
        assert restored.error > plain.error


def test_the_gaussian_map_gives_the_exit_its_distribution() -> None:
    graph = graph_of(Tokens(), 2, 7, 8)
    span = span_with(graph, 5, branch=True)
    data = data_of(graph, 80)
    fit = fit_collapses(graph, data, [one(graph, span, "linear", "gaussian")], ALL).popitem()[1]
    entry, exit_ = (v.flatten(0, 1).double().numpy() for v in values_of(graph, data, span.entry, span.exit))
    assert fit.weight is not None and fit.axis == -1 and fit.window.kernel == fit.window.padding == ()
    expected = gaussian_transport(Gaussian.of(entry), Gaussian.of(exit_)) - np.eye(5)
    np.testing.assert_allclose(fit.weight.numpy(), expected, atol=1e-3)
    made = Gaussian.of(applied(fit, torch.from_numpy(entry).float()).double().numpy())
    np.testing.assert_allclose(made.mean, Gaussian.of(exit_).mean, atol=1e-3)
    np.testing.assert_allclose(
        made.covariance, Gaussian.of(exit_).covariance, atol=2e-3 * made.covariance.max()
    )


def test_the_gaussian_estimator_says_where_it_cannot() -> None:
    module = Residual(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    graph = graph_of(module, 2, 2, 6, 6)
    span = span_with(graph, 4, branch=True)
    fit = fit_collapse(graph, data_of(graph), one(graph, span, "conv", "gaussian"))
    assert fit.note == "no Gaussian map for a convolution; moments instead"
    moments = fit_collapse(graph, data_of(graph), one(graph, span, "conv", "moments"))
    torch.testing.assert_close(fit.weight, moments.weight)


def test_a_sequence_is_fitted_over_its_last_axis() -> None:
    graph = graph_of(Tokens(), 2, 7, 8)
    span = span_with(graph, 5, branch=True)
    data = data_of(graph, 80)
    kinds: tuple[MapKind, ...] = ("identity", "affine", "linear")
    fits = fit_collapses(graph, data, [one(graph, span, kind) for kind in kinds], ALL)
    for kind, shape in zip(kinds, (None, (5,), (5, 5)), strict=True):
        fit = next(f for f in fits.values() if f.collapse.map == kind)
        assert fit.axis == -1 and (None if fit.weight is None else tuple(fit.weight.shape)) == shape
        assert abs(error_of(fit, graph, data) - (fit.error + 3 * fit.fitted) / 4) < 0.05


def test_held_out_is_by_input() -> None:
    """Inputs whose positions all agree: a split by position would call any map perfect."""
    module = Residual(nn.Conv2d(4, 64, 1), nn.ReLU(), nn.Conv2d(64, 4, 1))
    graph = graph_of(module, 2, 2, 6, 6)
    flat = np.random.default_rng(0).standard_normal((6, 2, 1, 1)).astype(np.float32)
    data = Data.from_arrays({"x": np.broadcast_to(flat, (6, 2, 6, 6)).copy()})
    fit = fit_collapse(graph, data.named(["x"]), one(graph, span_with(graph, 4, branch=True), "linear"))
    assert fit.fitted < 0.05 < 10 * fit.fitted < fit.error


def test_one_run_for_all_and_more_only_where_memory_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [m for _ in range(4) for m in (nn.Linear(6, 6), nn.ReLU())]
    graph = graph_of(nn.Sequential(*blocks), 2, 6)
    axes, data = analyze(graph), data_of(graph, 32)
    collapses = find_collapses(graph, axes, find_spans(graph, axes))
    assert len(collapses) > 10
    runs: list[int] = []
    real = span_sums.observe
    monkeypatch.setattr(span_sums, "observe", lambda *args: (runs.append(1), real(*args))[1])
    whole = fit_collapses(graph, data, collapses)
    assert len(runs) == 4 and list(whole) == [c.name for c in collapses]  # 32 inputs in four folds
    small = fit_collapses(graph, data, collapses, FitOptions(memory=1), axes)
    assert len(runs) > 8
    for name, fit in whole.items():
        assert small[name].error == pytest.approx(fit.error, rel=1e-9)


def test_spans_with_one_entry_share_their_sums() -> None:
    blocks = [m for _ in range(4) for m in (nn.Linear(6, 6), nn.ReLU())]
    graph = graph_of(nn.Sequential(*blocks), 2, 6)
    spans = [s for s in find_spans(graph, analyze(graph)) if s.entry == "relu"]
    sites = [span_fit.site_of(graph, analyze(graph), span) for span in spans]
    assert len(spans) > 3 and len({Source.of(s, "relu", ()) for s in sites if s is not None}) == 1


def test_what_cannot_be_fitted_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, padding=1))
    graph = graph_of(net, 2, 2, 9, 9)
    span = Span("conv2d", "conv2d_1", ("relu", "conv2d_1"))
    unfit = [one(graph, span, "identity"), one(graph, span, "affine"), Collapse(span, "conv", (3,))]
    assert fit_collapses(graph, data_of(graph), unfit) == {}
    monkeypatch.setattr(span_fit, "MAX_WIDTH", 10)
    assert fit_collapses(graph, data_of(graph), [one(graph, span, "conv")]) == {}
    with pytest.raises(KeyError):
        fit_collapse(graph, data_of(graph), one(graph, span, "conv"))


def test_few_inputs_are_said_and_none_refused() -> None:
    layers = [m for _ in range(3) for m in (nn.Linear(3, 3), nn.ReLU())]
    graph = graph_of(nn.Sequential(*layers), 2, 3)
    collapse = one(graph, span_with(graph, 2), "linear")
    fit = fit_collapse(graph, data_of(graph, 1), collapse)
    assert fit.note == "too few inputs to hold any out; " and math.isfinite(fit.error)
    with pytest.raises(DataError, match="holds no complete batch"):
        fit_collapse(graph, data_of(graph, 1)._at(np.arange(0)), collapse)


def test_an_activation_is_a_span_too() -> None:
    graph = graph_of(nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), 2, 2, 5, 5)
    data = data_of(graph)
    collapse = Collapse(Span("conv2d", "relu", ("relu",)), "affine")
    fit = fit_collapses(graph, data, [collapse], ALL)[collapse.name]
    z, y = (v.movedim(1, 0).flatten(1).double() for v in values_of(graph, data, "conv2d", "relu"))
    slope = torch.stack(
        [torch.cov(torch.stack(pair))[0, 1] / pair[0].var() for pair in zip(z, y, strict=True)]
    )
    assert fit.weight is not None and fit.weight.shape == (4, 1, 1, 1) and fit.window.groups == 4
    torch.testing.assert_close(fit.weight.flatten().double(), slope, rtol=1e-4, atol=1e-5)
