"""What a plan does without its inputs, or with few of them: passes that need none, repairs that judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from otgraph.data import Data
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.plan.budget import Budget
from otgraph.plan.calibration import CalibrationReference
from otgraph.plan.decision import DimDecision
from otgraph.plan.fingerprint import fingerprint_graph
from otgraph.plan.plan import Plan

PIPELINE = "reexpress-channels,prune-channels,repair-least-squares{ridge=0.1 strength=1.0}"


def made() -> tuple[Graph, Plan]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].bias[0] = 3.0  # or the activation might silence it
        net[0].weight[1], net[0].bias[1] = 2 * net[0].weight[0], 2 * net[0].bias[0]
    graph = capture(net.eval(), torch.randn(2, 3))
    dims = (DimDecision("0", 4, (0, 2, 3), (0, 0, 2, 3), {"2.weight": (1.0, 2.0, 1.0, 1.0)}),)
    reference = CalibrationReference("gone.npz", "0" * 16, 64)
    plan = Plan("m", fingerprint_graph(graph), Budget("keep", 0.75), PIPELINE, dims, calibration=reference)
    return graph, plan


def samples(graph: Graph, count: int) -> Data:
    x = np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)
    return Data.from_arrays({graph.signature.inputs[0].name: x})


def test_without_inputs_channels_are_re_routed_by_the_plan_s_own_factors() -> None:
    graph, plan = made()
    result = plan.apply_with_records(graph)
    assert [record.step for record in result.records] == ["reroute-channels", "prune-channels"]
    said = [str(remark) for remark in result.remarks]
    assert sum("left out: no file or folder gone.npz" in line for line in said) == 2
    x = torch.randn(5, 3)
    torch.testing.assert_close(result.graph(x)[0], graph(x)[0])  # the removed channel is twice a kept one
    assert not torch.allclose(replace(plan, pipeline="prune-channels").apply(graph)(x)[0], graph(x)[0])


def test_on_far_fewer_inputs_a_repair_judges_for_itself() -> None:
    graph, plan = made()
    few, enough = (plan.apply_with_records(graph, samples(graph, count)) for count in (24, 48))
    judged = [any("damage_at_0" in remark.metrics for remark in r.remarks) for r in (few, enough)]
    assert judged == [True, False]
    assert any("as was settled" in remark.message for remark in enough.remarks)
