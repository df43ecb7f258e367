"""Means in one pass against the definition, over unequal batches, replicas and two axes of one value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from otgraph.calibrate.means import collect_means
from otgraph.calibrate.slot import Slot, whole
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph


def net() -> Graph:
    torch.manual_seed(0)
    return capture(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval(), (torch.randn(2, 3, 5, 6),))


def test_they_are_means_over_everything_but_the_channel() -> None:
    graph = net()
    name = next(n.name for n in graph.module.graph.nodes if "relu" in n.name)
    replicas = Slot(name, 3, np.array([[0, 1, 2], [3, 4, 5]]))
    batches = [torch.randn(count, 3, 5, 6) for count in (4, 1)]
    found = collect_means(graph, [(batch,) for batch in batches], [whole(name, 1, 4), replicas])
    value = graph(torch.cat(batches))[0].detach().double().numpy()
    np.testing.assert_allclose(found[0], value.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found[1], value.mean((0, 1, 2)).reshape(2, 3).mean(0), rtol=1e-6)


def test_a_value_that_is_not_computed_is_an_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        collect_means(net(), [(torch.randn(1, 3, 5, 6),)], [whole("nowhere", 1, 4)])
