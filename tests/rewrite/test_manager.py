"""The pass manager, with a deliberately bad pass for each of its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import fx, nn

from otgraph.errors import DataError, PassError
from otgraph.graph.axes.axis_map import AxisMap, AxisPort, Dim
from otgraph.graph.axes.expression import Atom
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.rewrite.contract import Context, Exactness, Pass, TransformPass
from otgraph.rewrite.instrument import SaveFailing
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.masking import relative_error
from otgraph.rewrite.probes import probe_inputs
from otgraph.rewrite.rewriter import Rewriter
from passes.fuse_linear import FuseLinear

Action = Callable[[Rewriter, Context], None]


@dataclass(frozen=True)
class Scripted(TransformPass):
    """Does what the test says; each claim is a class of its own."""

    name: ClassVar[str] = "scripted"
    action: Action = lambda rewriter, context: None

    def run(self, rewriter: Rewriter, context: Context) -> None:
        self.action(rewriter, context)

    def __str__(self) -> str:
        return self.name


class Analysis(Scripted):
    kind: ClassVar[Literal["analysis", "transform"]] = "analysis"


class Masked(Scripted):
    exactness: ClassVar[Exactness] = Exactness.MASKED


class Approximate(Scripted):
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(0)
    return capture(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (torch.randn(2, 4),))


def node(rewriter: Rewriter, name: str) -> fx.Node:
    return next(n for n in rewriter.graph.module.graph.nodes if n.name == name)


def scale_weight(factor: float) -> Action:
    def act(rewriter: Rewriter, context: Context) -> None:
        rewriter.set_tensor("0.weight", rewriter.graph.tensor("0.weight") * factor)

    return act


def cut(keep: np.ndarray, *, normalized: bool = False, wrong: bool = False, silent: bool = False) -> Action:
    dim, free = Atom("c", 3), Atom(None, 4)
    tensors = {"0.weight": (dim, free), "0.bias": (dim,), "2.weight": (Atom(None, 2), dim)}
    ports = (AxisPort("0.weight", 0, "writes"), AxisPort("2.weight", 1, "reads"))
    axis_map = AxisMap({"c": Dim("c", 3, ports, normalized=normalized)}, {}, tensors)

    def act(rewriter: Rewriter, context: Context) -> None:
        index = torch.tensor(np.flatnonzero(keep))
        other = (index + 1) % 3 if wrong else index
        for name in ("0.weight", "0.bias"):
            rewriter.set_tensor(name, rewriter.graph.tensor(name)[index])
        rewriter.set_tensor("2.weight", rewriter.graph.tensor("2.weight")[:, other])
        if not silent:
            rewriter.record_cut({"c": keep}, axis_map)

    return act


def swap_output(rewriter: Rewriter, context: Context) -> None:
    last = node(rewriter, "linear_1")
    rewriter.replace(last, node(rewriter, "relu"))
    rewriter.erase(last)


def past_the_rewriter(rewriter: Rewriter, context: Context) -> None:
    rewriter.graph.tensor("0.weight").data.mul_(2)


def crash(rewriter: Rewriter, context: Context) -> None:
    rewriter.remark("applied", "half", "was done")
    raise KeyError("lost")


KEEP = np.array([True, False, True])


def test_a_transform_returns_a_new_graph_and_a_record(graph: Graph) -> None:
    before = graph.tensor("0.weight").clone()
    result = PassManager([Approximate(scale_weight(2.0)), Analysis()]).run(graph)
    assert torch.equal(graph.tensor("0.weight"), before)
    assert torch.equal(result.graph.tensor("0.weight"), before * 2)
    assert [record.edits for record in result.records] == [1, 0]
    assert [record.check.claim for record in result.records if record.check] == ["approximate", "unchanged"]
    assert all(record.wall_seconds > 0 for record in result.records)
    assert result.undone == ()


def test_an_approximate_pass_gets_its_divergence_recorded(graph: Graph) -> None:
    (remark,) = PassManager([Approximate(scale_weight(1.1))]).run(graph).remarks
    assert (remark.kind, remark.source, remark.where) == ("analysis", "scripted", "outputs")
    assert 0.001 < float(remark.metrics["relative_error"]) < 1


def test_an_exact_pass_within_rounding_holds(graph: Graph) -> None:
    (record,) = PassManager([Scripted(scale_weight(1 + 1e-7))]).run(graph).records
    assert record.check is not None and record.check.error is not None and record.check.error < 1e-5


def test_an_exact_pass_that_is_not_is_named_with_its_figure(graph: Graph) -> None:
    with pytest.raises(
        PassError,
        match=r"scripted: claims the same outputs \(exact\), but the relative error on "
        r"probe inputs is [\d.e-]+, more than 1e-05; report this pass as broken on model",
    ):
        PassManager([Scripted(scale_weight(1.001))]).run(graph)


def test_a_pass_exact_on_the_example_only_is_caught_by_random_probes(graph: Graph) -> None:
    zeros = graph.with_example((torch.zeros(2, 4),))
    PassManager([Scripted(scale_weight(2.0))], random_probes=0).run(zeros)
    with pytest.raises(PassError, match="claims the same outputs"):
        PassManager([Scripted(scale_weight(2.0))]).run(zeros)


def test_a_masked_pass_obeys_the_law(graph: Graph) -> None:
    (record,) = PassManager([Masked(cut(KEEP))]).run(graph).records
    assert record.check is not None and record.check.error is not None and record.check.error < 1e-5
    assert record.check.claim == "masked"


def test_a_masked_pass_that_keeps_the_wrong_columns(graph: Graph) -> None:
    with pytest.raises(
        PassError, match=r"the outputs of the original with all that was cut at zero \(masked\)"
    ):
        PassManager([Masked(cut(KEEP, wrong=True))]).run(graph)


def test_a_masked_pass_must_say_what_it_cut(graph: Graph) -> None:
    with pytest.raises(PassError, match="scripted: claims the masking law but recorded no cut"):
        PassManager([Masked(cut(KEEP, silent=True))]).run(graph)


def test_cutting_under_a_normalization_is_checked_as_well(graph: Graph) -> None:
    (record,) = PassManager([Masked(cut(KEEP, normalized=True))]).run(graph).records
    assert record.check is not None and record.check.claim == "masked"
    with pytest.raises(PassError, match="all that was cut at zero"):
        PassManager([Masked(cut(KEEP, normalized=True, wrong=True))]).run(graph)


def test_an_analysis_must_not_edit(graph: Graph) -> None:
    with pytest.raises(PassError, match="scripted: is an analysis pass but made 1 edits"):
        PassManager([Analysis(scale_weight(1.0))]).run(graph)


@pytest.mark.parametrize("kind", [Analysis, Scripted])
def test_edits_past_the_rewriter_are_caught(graph: Graph, kind: type[Scripted]) -> None:
    with pytest.raises(PassError, match="scripted: changed the program past its rewriter"):
        PassManager([kind(past_the_rewriter)]).run(graph)


def test_outputs_keep_their_shape(graph: Graph) -> None:
    with pytest.raises(PassError, match=r"output 0 was float32\[2, 2\] and became float32\[2, 3\]"):
        PassManager([Approximate(swap_output)]).run(graph)


def test_a_crash_names_the_pass_and_keeps_the_cause(graph: Graph) -> None:
    with pytest.raises(PassError, match=r"scripted: crashed on model with KeyError \('lost'\)") as caught:
        PassManager([Scripted(crash)]).run(graph)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_graph_that_does_not_run_is_the_fault_of_the_pass(graph: Graph) -> None:
    def shrink(rewriter: Rewriter, context: Context) -> None:
        rewriter.set_tensor("0.weight", torch.zeros(3, 7))

    with pytest.raises(PassError, match="scripted: crashed on model with RuntimeError"):
        PassManager([Scripted(shrink)]).run(graph)


@pytest.mark.parametrize("bad", [Scripted(scale_weight(2.0)), Scripted(crash), Analysis(scale_weight(1.0))])
def test_a_bad_pass_can_be_undone(graph: Graph, bad: Pass) -> None:
    manager = PassManager([bad, Approximate(scale_weight(3.0))], on_failure="undo")
    result = manager.run(graph)
    assert result.undone == ("scripted",)
    assert torch.equal(result.graph.tensor("0.weight"), graph.tensor("0.weight") * 3)
    failure = next(remark for remark in result.remarks if remark.kind == "failure")
    assert failure.message.startswith("undone: scripted: ")
    assert result.records[0].edits == 0 and result.records[0].undone


def test_an_error_about_the_input_is_not_the_fault_of_the_pass(graph: Graph) -> None:
    def refuse(rewriter: Rewriter, context: Context) -> None:
        raise DataError("calib.npz: is empty; give at least one sample")

    with pytest.raises(DataError, match=r"calib\.npz"):
        PassManager([Scripted(refuse)], on_failure="undo").run(graph)


def test_the_context_holds_the_graph_before_the_first_pass(graph: Graph) -> None:
    seen: list[Graph | None] = []

    def look(rewriter: Rewriter, context: Context) -> None:
        seen.append(context.original)

    PassManager([Approximate(scale_weight(2.0)), Analysis(look)]).run(graph)
    assert seen == [graph]


class Logger:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def before(self, step: Pass, graph: Graph) -> None:
        self.lines.append(f"before {step}")

    def after(self, step: Pass, graph: Graph) -> None:
        self.lines.append(f"after {step}")

    def failed(self, step: Pass, graph: Graph, error: Exception) -> None:
        self.lines.append(f"failed {step}: {type(error).__name__}")


def test_instruments_see_every_pass(graph: Graph) -> None:
    logger = Logger()
    PassManager([Analysis(), Scripted(crash)], [logger], on_failure="undo").run(graph)
    assert logger.lines == [
        "before scripted",
        "after scripted",
        "before scripted",
        "failed scripted: PassError",
    ]


def test_a_failure_can_be_kept_for_reproduction(graph: Graph, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Graph, "save", lambda self, path: Path(path).write_bytes(b"onnx"))
    with pytest.raises(PassError):
        PassManager([Scripted(crash)], [SaveFailing(tmp_path)]).run(graph)
    text = (tmp_path / "scripted.txt").read_text()
    assert "KeyError" in text and "linear_1 = aten.linear(relu, 2.weight[2, 3], 2.bias[2])" in text
    assert (tmp_path / "scripted.onnx").exists()


def test_probes_are_valid_and_reproducible() -> None:
    class Embed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return self.table(ids) + x

    graph = capture(Embed(), (torch.tensor([[0, 4], [3, 3]]), torch.full((2, 2, 3), 7.0)))
    first, second = probe_inputs(graph), probe_inputs(graph)
    assert len(first) == 3
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert set(a[0].flatten().tolist()) <= {0, 3, 4}
        graph(*a)
    assert 0.3 < first[1][1].std() < 3 and abs(first[1][1].mean() - 7) < 2
    assert not torch.equal(probe_inputs(graph, seed=1)[1][1], first[1][1])


class Cancels(nn.Module):
    """The difference of large numbers: rounding in single precision is far more than the limit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b((self.a(x) + 3e5) - 3e5)


def test_rounding_that_the_network_itself_does_is_not_held_against_a_pass() -> None:
    torch.manual_seed(0)
    graph = capture(Cancels(), (torch.randn(2, 4),))
    x = graph.example[0]
    wide = graph.copy()
    wide.module.double()
    assert relative_error(wide(x.double()), graph(x)) > 1e-4
    (record,) = PassManager([FuseLinear()]).run(graph).records
    assert record.edits and record.check is not None and record.check.error is not None
    assert record.check.error < 1e-6


def test_a_pass_that_is_not_exact_is_caught_in_such_a_network_too() -> None:
    torch.manual_seed(0)
    graph = capture(Cancels(), (torch.randn(2, 4),))

    def act(rewriter: Rewriter, context: Context) -> None:
        rewriter.set_tensor("b.weight", rewriter.graph.tensor("b.weight") * 1.001)

    with pytest.raises(PassError, match="claims the same outputs"):
        PassManager([Scripted(act)]).run(graph)
