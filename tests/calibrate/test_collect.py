"""Streaming moments: equal to the direct ones, additive, bounded, and honest about what they cannot do."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.calibrate import collect as collect_module
from otgraph.calibrate.collect import collect
from otgraph.calibrate.feeds import feeds
from otgraph.calibrate.moments import MomentSum, mean_variance
from otgraph.calibrate.observe import observe
from otgraph.calibrate.slot import Slot, whole
from otgraph.data import Chunk, Data
from otgraph.errors import DataError
from otgraph.graph.capture import capture


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x))).mean((2, 3))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def data(*sizes: int) -> Data:
    rng = np.random.default_rng(0)
    return Data(tuple(Chunk({"x": rng.normal(1, 2, (n, 3, 5, 5)).astype(np.float32)}) for n in sizes))


def stacked(source: Data) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([chunk.arrays["x"] for chunk in source.chunks]))


def node_of(graph, op: str) -> str:
    return next(n.name for n in graph.module.graph.nodes if n.op == "call_function" and op in str(n.target))


def test_streamed_moments_equal_the_direct_ones(net: Net) -> None:
    source = data(7, 4)
    graph = capture(net, torch.zeros(2, 3, 5, 5))
    slot = whole(node_of(graph, "relu"), 1, 6)
    found = collect(graph, source, [slot, whole(slot.node, 1, 6)], batch_size=3)
    rows = torch.relu(net.a(stacked(source))).detach().double().movedim(1, -1).reshape(-1, 6).numpy()
    moments = found.of(slot)
    assert len(found.moments) == 1 and found.samples == 11 and moments.count == 11 * 25
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.second, rows.T @ rows / len(rows), rtol=1e-6)
    np.testing.assert_allclose(moments.covariance(), np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "positions",
    [
        np.arange(6)[None],
        np.arange(2, 5)[None],  # a segment of a concatenation
        np.arange(6).reshape(2, 3),  # (outer * dim)
        np.arange(6).reshape(3, 2).T,  # (dim * inner)
        np.array([[4, 0, 3]]),  # an index class
    ],
)
def test_a_slot_sees_its_positions(positions: np.ndarray) -> None:
    value = torch.randn(2, 6, 4)
    slot = Slot("v", 1, positions)
    seen = slot.view(value)
    expected = torch.stack([value[:, positions[:, c]].reshape(-1) for c in range(slot.size)])
    assert seen.shape == expected.shape
    assert torch.equal(seen.sort(1).values, expected.sort(1).values)
    pairs = seen.double() @ seen.double().T
    direct = sum(value[:, row].movedim(1, 0).reshape(slot.size, -1).double() for row in positions[:1])
    if len(positions) == 1:
        torch.testing.assert_close(pairs, direct @ direct.T)  # columns of one replica stay paired


def test_replicas_stay_paired() -> None:
    value = torch.randn(3, 6)
    seen = Slot("v", 1, np.arange(6).reshape(3, 2).T).view(value).double()
    wide = value.reshape(3, 3, 2).double()  # dim outer, replica inner
    torch.testing.assert_close(seen @ seen.T, torch.einsum("ndr,ner->de", wide, wide))


def test_rounding_is_that_of_short_sums() -> None:
    rows = (torch.randn(3, 300_000) + 10).float()
    total = MomentSum(3)
    total.add(rows)
    direct = (rows.double() @ rows.double().T / rows.shape[1]).numpy()
    np.testing.assert_allclose(total.value().second, direct, rtol=2e-6)


def test_too_many_channels_are_refused(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "MAX_CHANNELS", 5)
    graph = capture(net, torch.zeros(2, 3, 5, 5))
    slot, small = whole(node_of(graph, "relu"), 1, 6), whole("x", 1, 3)
    found = collect(graph, data(2), [slot, small])
    assert slot not in found and small in found
    assert "6 channels would need a Gram" in found.remarks[0].message


def test_bad_data_is_an_error(net: Net) -> None:
    graph = capture(net, torch.zeros(2, 3, 5, 5))
    with pytest.raises(DataError, match="holds no complete batch"):
        collect(graph, Data(()), [])
    with pytest.raises(DataError, match="nowhere: no such value in the graph"):
        collect(graph, data(2), [whole("nowhere", 1, 6)])
    chunk = Chunk({"y": np.zeros((2, 3, 5, 5), np.float32), "z": np.zeros((2, 1), np.float32)})
    with pytest.raises(DataError, match=r"input 'x' of the model has no array \(there are: y, z\)"):
        list(feeds(graph, Data((chunk,))))


def test_batches_are_matched_and_cut(net: Net) -> None:
    graph = capture(net, torch.zeros(2, 3, 5, 5))
    assert [len(feed[0]) for feed in feeds(graph, data(5, 2), 2)] == [2, 2, 1, 2]


def test_values_are_freed_after_their_last_use() -> None:
    net = nn.Sequential(*[nn.ReLU() for _ in range(6)])
    graph = capture(net, torch.zeros(2, 3))
    names = [n.name for n in graph.module.graph.nodes if n.op == "call_function"]
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def look(_: str, value: torch.Tensor) -> None:
        nonlocal most
        gc.collect()
        alive.append(weakref.ref(value))
        most = max(most, sum(ref() is not None for ref in alive))

    observe(graph, (torch.randn(2, 3),), names, look)
    assert len(alive) == 6 and most <= 2


def test_mean_and_variance_merge_exactly() -> None:
    value = torch.randn(50, 3, 7) * 4 + 2
    parts = [mean_variance(part, 1) for part in value.split(13)]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    rows = value.double().movedim(1, 0).reshape(3, -1)
    np.testing.assert_allclose(merged.mean, rows.mean(1), rtol=1e-12)
    np.testing.assert_allclose(merged.variance, rows.var(1, correction=0), rtol=1e-12)
