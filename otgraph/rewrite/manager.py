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
from otgraph.rewrite.finite import check_finite
from otgraph.rewrite.instrument import Instrument
from otgraph.rewrite.probes import Inputs, probe_inputs
from otgraph.rewrite.rewriter import Rewriter
from otgraph.rewrite.sparing import dims_to_spare


@dataclass(frozen=True)
class Record:
    """What one pass did: its text, its edits, the seconds it took, its check, why it was undone, the dims
    that had to stay whole, how many of the CPU seconds the check took, and the dims that were cut."""

    step: str
    edits: int
    cpu_seconds: float
    wall_seconds: float
    check: Check | None
    undone: str | None = None
    spared: tuple[str, ...] = ()
    check_seconds: float = 0.0
    cut: tuple[str, ...] = ()


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

    @property
    def spared(self) -> tuple[str, ...]:
        """The dims that were left whole because cutting them broke the masking law."""
        return tuple(name for record in self.records for name in record.spared)


@dataclass(frozen=True)
class PassManager:
    """Runs ``passes`` in order.

    After each pass its claim is checked on the example and ``random_probes`` random inputs: an analysis
    changed nothing; a transform kept number, dtype and shape of the outputs; an ``EXACT`` one their values,
    a ``MASKED`` one those of the masked original (relative error ≤ 1e-5 in float32); of an ``APPROXIMATE``
    one the divergence is recorded. Where a ``MASKED`` pass breaks its claim, the dims that break it are left
    whole, the rest is cut again, and a remark of kind *failure* names them; where that does not help, and for
    the other claims, ``on_failure`` says: ``raise`` a ``PassError``, or ``undo`` the pass and go on. Not
    ``checked``: for networks that only a clock will see, and nobody keeps.
    """

    passes: Sequence[Pass]
    instruments: Sequence[Instrument] = ()
    on_failure: Literal["raise", "undo"] = "raise"
    random_probes: int = 2
    checked: bool = True

    def run(self, graph: Graph, context: Context | None = None) -> Result:
        """Run the passes on a copy of ``graph``.

        Raises:
            PassError: a pass crashed or broke its claim; names the pass, the claim and the figure. Or the
                outputs are no longer finite on the calibration inputs (see ``check_finite``).
        """
        context = context or Context()
        context = replace(context, original=context.original or graph)
        probes = probe_inputs(graph, self.random_probes, context.seed) if self.checked else ()
        state = _State(graph, run_probes(graph, probes))
        remarks: list[Remark] = []
        records: list[Record] = []
        for step in self.passes:
            state, said, record = self._step(step, state, probes, context)
            remarks.extend(said)
            records.append(record)
        if self.checked and any(record.edits for record in records):
            check_finite(graph, state.graph, context.data, probes)
        return Result(state.graph, tuple(remarks), tuple(records))

    def _step(
        self, step: Pass, state: _State, probes: Sequence[Inputs], context: Context
    ) -> tuple[_State, Sequence[Remark], Record]:
        for instrument in self.instruments:
            instrument.before(step, state.graph)
        start = (time.process_time(), time.perf_counter())
        attempt = _Attempt(step, state, probes, context)
        undone: PassError | None = None
        spared: tuple[str, ...] = ()
        try:
            attempt.run()
        except OtgraphError as error:
            for instrument in self.instruments:
                instrument.failed(step, state.graph, error)
            better = _spare(attempt) if isinstance(error, PassError) else None
            if better is not None:
                attempt, spared = better
            elif self.on_failure == "raise" or not isinstance(error, PassError):
                raise
            else:
                undone = error
        spent = (time.process_time() - start[0], time.perf_counter() - start[1])
        if undone is not None:
            said = [*attempt.rewriter.remarks, Remark("failure", step.name, "pass", f"undone: {undone}")]
            return state, said, Record(str(step), 0, *spent, attempt.check, str(undone))
        for instrument in self.instruments:
            instrument.after(step, attempt.after.graph)
        said = [*_with_divergence(step, attempt.rewriter.remarks, attempt.check), *_left_whole(step, spared)]
        record = Record(
            str(step),
            attempt.rewriter.edits,
            *spent,
            attempt.check,
            None,
            spared,
            attempt.check_seconds,
            tuple(_narrowed(attempt)),
        )
        return attempt.after, said, record


@dataclass(frozen=True)
class _State:
    graph: Graph
    outputs: Sequence[Outputs]


class _Attempt:
    """One run of a pass on a copy of the graph, and the check of its claim."""

    def __init__(self, step: Pass, before: _State, probes: Sequence[Inputs], context: Context) -> None:
        self.step, self.before, self.probes, self.context = step, before, probes, context
        self.rewriter = Rewriter(before.graph.copy(), step.name)
        self.after = before
        self.check: Check | None = None
        self.check_seconds = 0.0

    def run(self) -> None:
        """Raises ``PassError`` where the pass crashes or breaks its claim."""
        step, rewriter = self.step, self.rewriter
        try:
            step.run(rewriter, self.context)
            start = time.process_time()
            if step.kind == "analysis" or rewriter.edits == 0:
                self.check = check_unchanged(step, rewriter.edits, self.before.graph, rewriter.graph)
                self.after = _State(rewriter.graph, self.before.outputs)
                return
            graph = rewriter.finish()
            outputs = run_probes(graph, self.probes)
        except OtgraphError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise PassError(
                f"{step}: crashed on {self.before.graph.name} with {type(error).__name__}"
                f"{f' ({reason[0]})' if reason else ''}; report it with the model"
            ) from error
        if not self.probes:
            self.after = _State(graph, ())
            return
        graphs, both = (self.before.graph, graph), (self.before.outputs, outputs)
        self.check = check_transform(step, graphs, rewriter.cuts, self.probes, both)
        self.after = _State(graph, outputs)
        self.check_seconds = time.process_time() - start

    def without(self, spared: frozenset[str]) -> _Attempt:
        """The same again, with these dims left whole."""
        return _Attempt(self.step, self.before, self.probes, replace(self.context, spared=spared))


def _spare(broken: _Attempt) -> tuple[_Attempt, tuple[str, ...]] | None:
    """The attempt that leaves whole what breaks the law, and those dims; None where that does not help."""
    if broken.step.exactness is not Exactness.MASKED or not broken.rewriter.cuts:
        return None
    dims = _narrowed(broken)

    def attempt(cut: frozenset[str]) -> _Attempt | None:
        another = broken.without(frozenset(dims) - cut)
        try:
            another.run()
        except PassError:
            return None
        return another

    if attempt(frozenset()) is None:
        return None  # it breaks whatever it is told to leave alone
    spared = dims_to_spare(dims, lambda cut: attempt(cut) is not None)
    best = attempt(frozenset(dims) - frozenset(spared))
    return None if best is None else (best, spared)


def _narrowed(attempt: _Attempt) -> list[str]:
    """The dims that were cut, in order."""
    return [name for cut in attempt.rewriter.cuts for name, mask in cut.keep.items() if not mask.all()]


def _left_whole(step: Pass, spared: Sequence[str]) -> list[Remark]:
    why = "left whole: the outputs are not those of the original with it zeroed; report it with the model"
    return [Remark("failure", step.name, name, why) for name in spared]


def _with_divergence(step: Pass, remarks: Sequence[Remark], check: Check | None) -> list[Remark]:
    if check is None or check.claim != Exactness.APPROXIMATE.value or check.error is None:
        return list(remarks)
    figure = {"relative_error": check.error}
    return [*remarks, Remark("analysis", step.name, "outputs", "differ from before on probe inputs", figure)]
