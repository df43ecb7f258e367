"""What a pass claimed about the graph it returns, checked on probe inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from otgraph.errors import OtgraphError, PassError
from otgraph.graph.graph import Graph
from otgraph.rewrite.contract import Exactness, Pass
from otgraph.rewrite.kept_statistics import keep_statistics
from otgraph.rewrite.masking import mask_graph, relative_error
from otgraph.rewrite.probes import Inputs
from otgraph.rewrite.rewriter import Cut

TOLERANCE = 1e-5
"""Largest ‖a − b‖ / ‖a‖ of an exact or masked pass; for half precisions, four of their rounding units. What
exceeds it in single precision is looked at again in double, and then held against what rounding does to the
network itself."""

OWN = 4.0
"""By how much a pass may exceed what rounding does to the network itself, which is drawn but a few times."""

CHAOS = 1e-3
"""Beyond this no rounding is an excuse: nothing could be said of a network that is as touchy as that."""

Outputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Check:
    """The figure of one claim: the relative error over all probes (None for an analysis), and its limit."""

    claim: str
    error: float | None = None
    limit: float | None = None


def run_probes(graph: Graph, probes: Sequence[Inputs]) -> tuple[Outputs, ...]:
    """The outputs of ``graph`` for every probe."""
    return tuple(tuple(graph(*inputs)) for inputs in probes)


def check_unchanged(step: Pass, edits: int, before: Graph, after: Graph) -> Check:
    """An analysis leaves the program alone; so does, whatever it is, a pass that reports no edit.

    Raises:
        PassError: it does not.
    """
    if edits:
        raise PassError(f"{step}: is an analysis pass but made {edits} edits; declare it a transform")
    if _program(before) != _program(after) or not _same_tensors(before.tensors(), after.tensors()):
        raise PassError(
            f"{step}: changed the program past its rewriter; make every edit through the rewriter"
        )
    return Check("unchanged")


def check_transform(
    step: Pass,
    graphs: tuple[Graph, Graph],
    cuts: Sequence[Cut],
    probes: Sequence[Inputs],
    outputs: tuple[Sequence[Outputs], Sequence[Outputs]],
) -> Check:
    """Hold a transform against its claim. ``graphs`` and ``outputs``: before and after it.

    Raises:
        PassError: the claim is broken; the message holds the figure.
    """
    (before, after), (old, new) = graphs, outputs
    for a, b in zip(old, new, strict=True):
        _check_signature(step, a, b)
    limit = _limit(old[0])
    if step.exactness is Exactness.APPROXIMATE:
        return Check("approximate", _worst(old, new))
    reference = before
    if step.exactness is Exactness.EXACT:
        error = _worst(old, new)
        claim = "the same outputs"
    else:
        if not cuts:
            raise PassError(f"{step}: claims the masking law but recorded no cut; call rewriter.record_cut")
        for cut in cuts:
            reference = mask_graph(reference, cut.axis_map, cut.keep)
            if any(cut.axis_map.dims[name].normalized for name in _removed(cut)):
                reference = keep_statistics(reference, cut.axis_map, cut.keep)
        error = _worst(run_probes(reference, probes), new)
        claim = "the outputs of the original with all that was cut at zero"
    if not error <= limit:
        error, own = _in_double(reference, after, probes, error)
        limit = max(limit, min(OWN * own, CHAOS))
    if not error <= limit:
        raise PassError(
            f"{step}: claims {claim} ({step.exactness.value}), but the relative error on probe inputs is "
            f"{error:.3g}, more than {limit:.3g}; report this pass as broken on {before.name}"
        )
    return Check(step.exactness.value, error, limit)


def _in_double(before: Graph, after: Graph, probes: Sequence[Inputs], error: float) -> tuple[float, float]:
    """``error`` as float64 arithmetic has it, and how far rounding moves ``before`` itself; ``error`` as it
    is and 0 where the program does not run in that.

    In a deep network the rounding of single precision alone may come to more than the limit, on both sides.
    What is left in double is what the pass did, the rounding of the weights that it stored included.
    """
    wide = [_doubled(inputs) for inputs in probes]
    try:
        old, new = (run_probes(_in_float64(graph), wide) for graph in (before, after))
        error = _worst(old, new)
        return error, _own_rounding(before, probes, wide, old)
    except (RuntimeError, TypeError, ValueError, OtgraphError):
        return error, 0.0


def _in_float64(graph: Graph) -> Graph:
    return replace(graph, module=graph.copy().module.double())


def _own_rounding(
    graph: Graph, probes: Sequence[Inputs], wide: Sequence[Inputs], exact: Sequence[Outputs]
) -> float:
    """The relative error that rounding alone makes in the outputs of ``graph``; ``exact``: in float64.

    The smaller one of two: what its own precision is off from float64, and how far float64 moves when every
    weight is off by half a unit of its precision, as those are that a pass stores. The former alone would
    excuse a wrong pass in a network whose *activations* round badly, which float64 has seen through.
    """
    stored = max(_worst(exact, run_probes(_rounded_otherwise(graph, seed), wide)) for seed in range(2))
    return min(stored, _worst(exact, run_probes(graph, probes)))


def _rounded_otherwise(graph: Graph, seed: int) -> Graph:
    """``graph`` in float64 with half a rounding unit more or less in every stored value."""
    wide, generator = _in_float64(graph), torch.Generator().manual_seed(seed)
    units = {name: torch.finfo(t.dtype).eps for name, t in graph.tensors().items() if t.is_floating_point()}
    with torch.no_grad():
        for name, tensor in wide.tensors().items():
            if name in units:
                sign = torch.randint(0, 2, tuple(tensor.shape), generator=generator).to(tensor) * 2 - 1
                tensor.data.mul_(1 + units[name] / 2 * sign)
    return wide


def _doubled(inputs: Inputs) -> Inputs:
    return tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)


def _program(graph: Graph) -> list[tuple[str, ...]]:
    return [(n.name, n.op, str(n.target), str(n.args), str(n.kwargs)) for n in graph.module.graph.nodes]


def _same_tensors(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> bool:
    return before.keys() == after.keys() and all(_same(before[name], after[name]) for name in before)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


def _removed(cut: Cut) -> list[str]:
    return [name for name, mask in cut.keep.items() if not mask.all()]


def _check_signature(step: Pass, before: Outputs, after: Outputs) -> None:
    if len(before) != len(after):
        raise PassError(f"{step}: {len(before)} outputs became {len(after)}; a pass keeps the signature")
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            raise PassError(
                f"{step}: output {i} was {_describe(a)} and became {_describe(b)}; a pass keeps the signature"
            )


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _limit(outputs: Outputs) -> float:
    halves = [torch.finfo(t.dtype).eps for t in outputs if t.dtype in (torch.float16, torch.bfloat16)]
    return max([TOLERANCE, *(4 * eps for eps in halves)])


def _worst(a: Sequence[Outputs], b: Sequence[Outputs]) -> float:
    return max(relative_error(x, y) for x, y in zip(a, b, strict=True))
