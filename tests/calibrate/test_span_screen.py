"""Bounds of candidates on real and on spoilt data, and the analysis that spends them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from otgraph import sample
from otgraph.calibrate.batches import split_batches
from otgraph.calibrate.depth import DepthAnalysis, DepthOptions, analyze_depth
from otgraph.calibrate.span_fit import FitOptions
from otgraph.calibrate.span_screen import Screened, screen
from otgraph.data import Data
from otgraph.data_sources import load_data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.span_maps import find_collapses
from otgraph.graph.spans import activation_nodes, find_spans
from otgraph.load import load_model

SAMPLE = Path(next(iter(sample.__path__)))


@pytest.fixture(scope="module")
def digits() -> Graph:
    return load_model(str(SAMPLE / "digits_resnet20.onnx"))


@pytest.fixture(scope="module")
def images() -> Data:
    return load_data(str(SAMPLE / "calibration.npz")).named(["image"]).take(64)


def screened(graph: Graph, data: Data, threshold: float = 1.0) -> dict[str, Screened]:
    axes = analyze(graph)
    collapses = find_collapses(graph, axes, find_spans(graph, axes))
    return screen(graph, axes, split_batches(graph, data, 1, limit=32), collapses, threshold)


def spoilt(data: Data, how: str) -> Data:
    (chunk,) = data.chunks
    image = np.array(chunk.arrays["image"])
    random = np.random.default_rng(0)
    if how == "skewed":
        image = np.exp(2 * image)
    elif how == "permuted":
        image = random.permuted(image.reshape(len(image), -1), axis=1).reshape(image.shape)
    elif how == "noise":
        image = random.gamma(0.3, size=image.shape)
    return Data.from_arrays({"image": image.astype(np.float32)})


@pytest.mark.parametrize("how", ["real", "skewed", "permuted", "noise"])
def test_every_bound_is_below_the_paired_error(digits: Graph, images: Data, how: str) -> None:
    found = screened(digits, spoilt(images, how), threshold=np.inf)
    identities = [one for one in found.values() if one.paired is not None]
    assert len(identities) > 20
    for one in identities:
        assert one.paired is not None and one.bounds is not None and one.bounds.max_sliced is not None
        assert 0 < one.bound <= one.paired * (1 + 1e-9) and not one.discarded


def test_half_of_the_hopeless_are_found_and_no_other(digits: Graph, images: Data) -> None:
    found = [one for one in screened(digits, images).values() if one.paired is not None]
    hopeless = [one for one in found if one.paired is not None and one.paired > 1]
    discarded = [one for one in found if one.discarded]
    assert len(hopeless) > 10 and set(discarded) <= set(hopeless)
    assert len(discarded) >= 0.4 * len(hopeless)


def test_a_linear_map_that_has_to_widen_is_bound_by_its_rank() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16))
    graph = capture(net.eval(), (torch.randn(2, 3),))
    with torch.no_grad():
        graph.tensor("2.weight").mul_(4)
    data = Data.from_arrays({"input_1": np.random.default_rng(0).standard_normal((64, 3), np.float32)})
    axes = analyze(graph)
    collapses = find_collapses(graph, axes, find_spans(graph, axes), gain=100)
    found = screen(graph, axes, split_batches(graph, data, 1), collapses)
    bound = found["relu..linear_2:linear:least-squares"].bound
    result = analyze_depth(graph, axes, data, DepthOptions(fit=FitOptions(folds=4)))
    fits = {name: fit for span in result.spans for name, fit in span.fits.items()}
    assert 0.01 < bound < fits["relu..linear_2:linear:least-squares"].effect


@pytest.fixture(scope="module")
def analysis(digits: Graph, images: Data) -> DepthAnalysis:
    return analyze_depth(digits, analyze(digits), images, DepthOptions(run=2))


def test_what_was_discarded_is_not_fitted(analysis: DepthAnalysis) -> None:
    assert 0 < analysis.discarded < analysis.candidates
    for span in analysis.spans:
        for collapse in span.collapses:
            assert (collapse.name in span.fits) != (collapse in span.discarded)
    assert analysis.seconds.keys() == {"screening", "fitting", "activations"}


def test_each_kind_of_map_has_its_best_fit(analysis: DepthAnalysis, digits: Graph) -> None:
    span = next(span for span in analysis.spans if span.span.branch is not None)
    errors = [fit.error for kind in ("identity", "affine", "linear", "conv") if (fit := span.best(kind))]
    assert errors[0] == pytest.approx(1) and errors == sorted(errors, reverse=True)
    document = span.to_json()
    assert [m["map"] for m in document["maps"]] == ["identity", "affine", "linear", "conv"]
    assert document["maps"][3]["kernel"] == [3, 3] and document["branch"] == span.span.branch
    assert len(analysis.activations) == len(activation_nodes(digits, analyze(digits))) == 19
