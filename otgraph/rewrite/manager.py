"""``PassManager``: runs passes one after the other and checks what each claims."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from otgraph.errors import OtgraphError, PassError
from otgraph.graph.graph import Graph
from otgraph.remark import Remark
from otgraph.rewrite.claims import Check, Outputs, check_transform, check_unchanged, run_probes
from otgraph.rewrite.contract import Context, Exactness, Pass
from otgraph.rewrite.instrument import Instrument
from otgraph.rewrite.probes import Inputs, probe_inputs
from otgraph.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class Record:
    """What one pass did: its text, its edits, the seconds it took, its check, and why it was undone."""

    step: str
    edits: int
    cpu_seconds: float
    wall_seconds: float
    check: Check | None
    undone: str | None = None


@dataclass(frozen=True)
class Result:
    """The graph after the last pass, everything the passes said, and one record per pass."""

    graph: Graph
    remarks: tuple[Remark, ...]
    records: tuple[Record, ...]

    @property
    def undone(self) -> tuple[str, ...]:
        """The passes whose edits were taken back; a command that has any did not do all it was asked to."""
        return tuple(record.step for record in self.records if record.undone is not None)


@dataclass(frozen=True)
class PassManager:
    """Runs ``passes`` in order.

    After each pass its claim is checked on the example and ``random_probes`` random inputs: an analysis
    changed nothing; a transform kept number, dtype and shape of the outputs; an ``EXACT`` one their values,
    a ``MASKED`` one those of the masked original (relative error ≤ 1e-5 in float32); of an ``APPROXIMATE``
    one the divergence is recorded. ``on_failure``: ``raise`` a ``PassError``, or ``undo`` the pass and go on.
    """

    passes: Sequence[Pass]
    instruments: Sequence[Instrument] = ()
    on_failure: Literal["raise", "undo"] = "raise"
    random_probes: int = 2

    def run(self, graph: Graph, context: Context | None = None) -> Result:
        """Run the passes on a copy of ``graph``.

        Raises:
            PassError: a pass crashed or broke its claim; names the pass, the claim and the figure.
        """
        context = context or Context()
        context = replace(context, original=context.original or graph)
        probes = probe_inputs(graph, self.random_probes, context.seed)
        state = _State(graph, run_probes(graph, probes))
        remarks: list[Remark] = []
        records: list[Record] = []
        for step in self.passes:
            state, said, record = self._step(step, state, probes, context)
            remarks.extend(said)
            records.append(record)
        return Result(state.graph, tuple(remarks), tuple(records))

    def _step(
        self, step: Pass, state: _State, probes: Sequence[Inputs], context: Context
    ) -> tuple[_State, Sequence[Remark], Record]:
        for instrument in self.instruments:
            instrument.before(step, state.graph)
        rewriter = Rewriter(state.graph.copy(), step.name)
        start = (time.process_time(), time.perf_counter())
        undone: PassError | None = None
        check: Check | None = None
        after = state
        try:
            after, check = _run_and_check(step, rewriter, state, probes, context)
        except OtgraphError as error:
            for instrument in self.instruments:
                instrument.failed(step, state.graph, error)
            if self.on_failure == "raise" or not isinstance(error, PassError):
                raise
            undone = error
        spent = (time.process_time() - start[0], time.perf_counter() - start[1])
        if undone is not None:
            said = [*rewriter.remarks, Remark("failure", step.name, "pass", f"undone: {undone}")]
            return state, said, Record(str(step), 0, *spent, check, str(undone))
        for instrument in self.instruments:
            instrument.after(step, after.graph)
        return (
            after,
            _with_divergence(step, rewriter.remarks, check),
            Record(str(step), rewriter.edits, *spent, check),
        )


@dataclass(frozen=True)
class _State:
    graph: Graph
    outputs: Sequence[Outputs]


def _run_and_check(
    step: Pass, rewriter: Rewriter, state: _State, probes: Sequence[Inputs], context: Context
) -> tuple[_State, Check]:
    try:
        step.run(rewriter, context)
        if step.kind == "analysis" or rewriter.edits == 0:
            check = check_unchanged(step, rewriter.edits, state.graph, rewriter.graph)
            return _State(rewriter.graph, state.outputs), check
        graph = rewriter.finish()
        outputs = run_probes(graph, probes)
    except OtgraphError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise PassError(
            f"{step}: crashed on {state.graph.name} with {type(error).__name__}"
            f"{f' ({reason[0]})' if reason else ''}; report it with the model"
        ) from error
    graphs = state.graph, graph
    check = check_transform(step, graphs, rewriter.cuts, probes, (state.outputs, outputs))
    return _State(graph, outputs), check


def _with_divergence(step: Pass, remarks: Sequence[Remark], check: Check | None) -> list[Remark]:
    if check is None or check.claim != Exactness.APPROXIMATE.value or check.error is None:
        return list(remarks)
    figure = {"relative_error": check.error}
    return [*remarks, Remark("analysis", step.name, "outputs", "differ from before on probe inputs", figure)]
