"""Who reads a dim, with moments and gains held to direct computation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn
from torch.nn import functional as F

from otgraph.calibrate.collect import collect
from otgraph.calibrate.readers import Reader, find_readers, gain, read_channels, slots
from otgraph.data import Data
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.transport.cost import Reading

SHAPE = (10, 3, 6, 6)


def readings(graph: Graph, x: torch.Tensor) -> dict[str, list[tuple[Reader, Reading]]]:
    """Name of the weight that writes a dim → its readers and what they read on ``x``."""
    axes = analyze(graph)
    groups = find_readers(graph, axes)
    name = graph.signature.inputs[0].name
    statistics = collect(graph, Data.from_arrays({name: x.numpy()}), slots(groups), batch_size=4)
    found: dict[str, list[tuple[Reader, Reading]]] = {}
    for dim in axes.prunable():
        writer = next(port.tensor for port in dim.ports if port.role == "writes")
        found[writer] = [(r, read_channels(graph, r, statistics)) for r in groups[dim.name]]
    return found


def captured(*layers: nn.Module) -> tuple[nn.Sequential, Graph, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(*layers).eval()
    x = torch.randn(SHAPE)
    return net, capture(net, (x[:2],)), x


def moment(rows: torch.Tensor) -> np.ndarray:
    """E[x xᵀ] of (n, observations)."""
    return (rows.double() @ rows.double().T / rows.shape[1]).detach().numpy()


def channels(value: torch.Tensor) -> torch.Tensor:
    return value.movedim(1, 0).reshape(value.shape[1], -1)


def gram(*weights: torch.Tensor) -> np.ndarray:
    """Σ WᵀW over weights (out, in)."""
    return sum((w.double().T @ w.double()).detach().numpy() for w in weights)


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_convolution_sums_over_its_taps() -> None:
    net, graph, x = captured(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2))
    ((reader, reading),) = readings(graph, x)["0.weight"]
    assert reader.name == "2.weight" and reader.columns.tolist() == [list(range(8))]
    rows = channels(net[:2](x))
    close(reading.moment, moment(rows))
    close(reading.mean, rows.double().mean(1).detach().numpy())
    close(reading.gain, gram(*(net[2].weight[:, :, i, j] for i in range(3) for j in range(3))))


def test_a_flattened_dim_lies_at_many_columns() -> None:
    net, graph, x = captured(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7))
    ((reader, reading),) = readings(graph, x)["0.weight"]
    assert reader.columns.shape == (16, 5)
    assert reader.columns[1].tolist() == [1, 17, 33, 49, 65]
    close(reading.moment, moment(channels(net[:2](x))))
    close(reading.gain, gram(*net[3].weight.reshape(7, 5, 16).unbind(2)))


def test_a_grouped_convolution_sums_over_its_groups() -> None:
    net, graph, x = captured(
        *(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    )
    axes = analyze(graph)
    groups = find_readers(graph, axes)
    (within,) = (d for d in axes.prunable() if d.size == 4)
    (reader,) = groups[within.name]
    assert (reader.name, reader.slot.positions.tolist()) == ("2.weight", [[0, 1, 2, 3], [4, 5, 6, 7]])
    statistics = collect(graph, Data.from_arrays({"input_1": x.numpy()}), slots(groups))
    reading = read_channels(graph, reader, statistics)
    rows = channels(net[:2](x)).reshape(2, 4, -1)
    close(reading.moment, moment(torch.cat(list(rows), dim=1)))
    close(reading.gain, gram(*net[2].weight.permute(2, 3, 0, 1).reshape(9, 6, 4)))


def test_a_depthwise_convolution_is_passed_through() -> None:
    net, graph, x = captured(
        *(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))
    )
    ((reader, reading),) = readings(graph, x)["0.weight"]
    assert reader.name == "3.weight" and not reader.absorbs
    close(reading.moment, moment(channels(net[:3](x))))


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(10, 2, 3)
        self.d = nn.Conv2d(6, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = torch.relu(self.a(x)), torch.tanh(self.b(x))
        return self.c(torch.cat([a, b], 1)) + self.d(b)


def test_parts_of_a_concatenation_and_several_readers() -> None:
    torch.manual_seed(0)
    net, x = Concatenated().eval(), torch.randn(SHAPE)
    found = readings(capture(net, (x[:2],)), x)
    ((reader, reading),) = found["a.weight"]
    assert reader.columns.tolist() == [[0, 1, 2, 3]]
    close(reading.moment, moment(channels(torch.relu(net.a(x)))))
    both = found["b.weight"]
    assert {reader.name: reader.columns.tolist() for reader, _ in both} == {
        "c.weight": [[4, 5, 6, 7, 8, 9]],
        "d.weight": [[0, 1, 2, 3, 4, 5]],
    }
    weights = {"c.weight": net.c.weight[:, 4:], "d.weight": net.d.weight}
    for reader, reading in both:
        close(reading.moment, moment(channels(torch.tanh(net.b(x)))))
        close(reading.gain, gram(*weights[reader.name].flatten(2).unbind(2)))


ONNX = """<ir_version: 8, opset_import: ["" : 17]>
m (float[N,3,6,6] x) => (float[N,4] y) {
    c = Conv (x, w)
    g = GlobalAveragePool (c)
    f = Flatten (g)
    y = MatMul (f, u)
}"""


def test_a_product_reads_its_rows() -> None:
    rng = np.random.default_rng(0)
    model = parser.parse_model(ONNX)
    weights = {"w": rng.normal(size=(5, 3, 1, 1)), "u": rng.normal(size=(5, 4))}
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    x = torch.randn(SHAPE)
    ((reader, reading),) = readings(import_model(model), x)["w"]
    assert reader.name == "u" and not reader.absorbs
    means = F.conv2d(x, torch.from_numpy(weights["w"]).float()).mean((2, 3))
    close(reading.moment, moment(means.T))
    close(reading.gain, weights["u"] @ weights["u"].T)


class Scores(nn.Module):
    """The keys' and queries' width is contracted by scores, which have no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x)


def test_a_dim_that_no_weight_contracts_is_read_as_it_is() -> None:
    torch.manual_seed(0)
    net, x = Scores().eval(), torch.randn(10, 5, 6)
    graph = capture(net, (x[:2],))
    ((reader, reading),) = readings(graph, x)["q.weight"]
    assert reader.affine is None and reader.columns.shape == (0, 4)
    close(reading.gain, np.eye(4))
    assert reading.moment.shape == (4, 4)


BIASES: dict[str, tuple[Callable[[], tuple[nn.Module, ...]], bool]] = {
    "its own bias": (lambda: (nn.Conv2d(4, 2, 1),), True),
    "the batch norm after it": (lambda: (nn.Conv2d(4, 2, 1, bias=False), nn.BatchNorm2d(2)), True),
    "nothing": (lambda: (nn.Conv2d(4, 2, 1, bias=False), nn.ReLU(), nn.BatchNorm2d(2)), False),
}


@pytest.mark.parametrize("name", BIASES)
def test_what_absorbs_a_constant(name: str) -> None:
    after, absorbs = BIASES[name]
    _, graph, x = captured(nn.Conv2d(3, 4, 1), nn.ReLU(), *after())
    ((reader, reading),) = readings(graph, x)["0.weight"]
    assert reader.absorbs is reading.centered is absorbs


def test_the_gain_says_what_dropping_does() -> None:
    """Of a 1x1 convolution: the mean squared change of its output when channels are zeroed."""
    net, graph, x = captured(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))
    ((reader, reading),) = readings(graph, x)["0.weight"]
    hidden = net[:2](x)
    gone = [1, 4]
    masked = hidden.clone()
    masked[:, gone] = 0
    change = channels(net[2](hidden) - net[2](masked)).double().square().sum(0).mean()
    close(np.sum((gain(graph, reader) * reading.moment)[np.ix_(gone, gone)]), change.detach().numpy())
