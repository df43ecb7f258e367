"""``prune-channels``: cut dims to the channels that were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from otgraph.calibrate.width import WIDTH, Width
from otgraph.errors import PipelineError
from otgraph.graph.axes.axis_map import AxisMap, Dim
from otgraph.graph.axes.legal import legalize
from otgraph.graph.axes.name_pattern import allowed
from otgraph.graph.half import half_weight
from otgraph.graph.quantized import real_values
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.options import option_names
from otgraph.rewrite.planned import planned_couplings, refuse_choices
from otgraph.rewrite.rewriter import Rewriter


@final
@dataclass(frozen=True)
class PruneChannels(TransformPass):
    """Remove channels from every tensor they run through, and bring every repeated size up to date.

    What it does
        Cuts the dims that the plan names to the channels it keeps. Without a plan every prunable dim is cut
        to the fraction ``keep``, to the channels that ``annotate-width`` found most worth keeping, or those
        with the largest weights where nothing is annotated.

    When it applies
        To dims that the axis analysis finds prunable. Model inputs and outputs, integers that anything but a
        quantizer reads, and whatever an unknown operator touches stay whole. A network with weights in
        float16 is refused.

    Exactness
        Masked: the result equals the original with every stored value at a removed index zeroed. A dim for
        which that is found not to hold is left whole, and the rest is cut.

    Before and after
        >>> graph = capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), example(3, 4))
        >>> print(program_text(rewrite("prune-channels{keep=0.5 dims=inner}", graph)))
        input input_1
        linear = aten.linear(input_1, 0.weight[4, 4], 0.bias[4])
        relu = aten.relu(linear)
        linear_1 = aten.linear(relu, 2.weight[2, 4], 2.bias[2])
        return linear_1

    Remarks
        *applied* per dim: channels before and after. *missed* per dim that is blocked, with the operator that
        blocks it, and once where neither a plan nor the options say what to cut.

    Options
        ``keep``: the fraction of every dim that stays when there is no plan. ``dims``: ``all``, or ``inner``
        to leave out dims that run through an addition of two computed values. ``multiple``: widths are
        rounded to it where a dim is larger. ``normalized``: also cut dims whose cut changes the statistics of
        a layer or group norm; the law then holds with statistics of what is kept. ``include``, ``exclude``:
        patterns of dim names (``*`` and ``?``); a name with brackets is written in quotes.
    """

    name: ClassVar[str] = "prune-channels"
    exactness: ClassVar[Exactness] = Exactness.MASKED

    keep: float = 1.0
    dims: str = "all"
    multiple: int = 1
    normalized: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def run(self, rewriter: Rewriter, context: Context) -> None:
        half = half_weight(rewriter.graph)
        if half is not None:
            raise PipelineError(
                f"{self.name}: weight {half} is in float16, whose rounding hides what a cut does; cut the"
                " float32 network, and run to-fp16 after it"
            )
        axes = context.axes_of(rewriter.graph)
        if context.couplings:
            refuse_choices(self, *option_names(type(self)))
            planned = planned_couplings(rewriter, context, axes)
            wanted = {name: coupling.mask() for name, coupling in planned.items()}
        else:
            wanted = self._by_fraction(rewriter, axes)
            if not context.collapses and not context.spared:  # a plan may cut depth alone
                self._explain(rewriter, axes, wanted)
        keep = legalize(axes, {name: mask for name, mask in wanted.items() if name not in context.spared})
        keep = {name: mask for name, mask in keep.items() if not mask.all()}
        if keep:
            cut_channels(rewriter, axes, keep)
        for name, mask in keep.items():
            rewriter.remark("applied", name, f"{len(mask)} → {int(mask.sum())} channels")
        for dim in axes.dims.values():
            if dim.blocked is not None and dim.size > 1:
                rewriter.remark("missed", dim.name, f"blocked by {dim.blocked}", channels=dim.size)

    def _explain(
        self,
        rewriter: Rewriter,
        axes: AxisMap,
        wanted: Mapping[str, np.ndarray[tuple[int], np.dtype[np.bool_]]],
    ) -> None:
        """Say why nothing is cut, where that is not because every dim is blocked."""
        if axes.prunable() and not wanted:
            rewriter.remark("missed", rewriter.graph.name, "the options leave no dim to cut")
        elif wanted and all(mask.all() for mask in wanted.values()):
            why = f"no plan was given, and keep={self.keep:g} leaves every dim whole; see otgraph plan"
            rewriter.remark("missed", rewriter.graph.name, why)

    def _by_fraction(
        self, rewriter: Rewriter, axes: AxisMap
    ) -> dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        widths = annotated_widths(rewriter)
        masks: dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}
        for dim in axes.prunable():
            if (dim.normalized and not self.normalized) or not selected(
                dim, self.dims, self.include, self.exclude
            ):
                continue
            k = kept_count(dim.size, self.keep, self.multiple)
            mask = np.zeros(dim.size, bool)
            width = widths.get(dim.name)
            mask[width.choose(k) if width is not None else _largest(rewriter, dim, k)] = True
            masks[dim.name] = mask
        return masks


def annotated_widths(rewriter: Rewriter) -> dict[str, Width]:
    """What ``annotate-width`` left on the nodes."""
    found: dict[str, Width] = {}
    for node in rewriter.graph.module.graph.nodes:
        found |= WIDTH.of(node) or {}
    return found


def selected(dim: Dim, dims: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    """Whether the rules of the user let this dim be cut."""
    if dims == "inner" and dim.residual:
        return False
    return allowed(dim.name, include, exclude)


def kept_count(size: int, fraction: float, multiple: int) -> int:
    """``fraction`` of ``size``, at least one, rounded to ``multiple`` where the dim is larger than that."""
    k = max(1, round(size * fraction))
    if multiple > 1 and size > multiple:
        k = min(size, max(multiple, multiple * round(k / multiple)))
    return k


_AT_ONCE = 2**24
"""How many elements of a weight are looked at together."""


def _largest(rewriter: Rewriter, dim: Dim, k: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The k channels whose stored weights have the largest norm."""
    energy = np.zeros(dim.size)
    for port in dim.ports:
        tensor = real_values(rewriter.graph, port.tensor)
        if tensor.shape[port.axis] == dim.size and tensor.dim() > 1:
            across = 1 if port.axis == 0 else 0
            rows = max(1, _AT_ONCE * tensor.shape[across] // max(tensor.numel(), 1))
            for part in tensor.split(rows, across):  # of a large weight no whole copy in double is made
                flat = part.double().movedim(port.axis, 0).reshape(dim.size, -1)
                energy += flat.square().sum(1).numpy()
    return np.sort(np.argsort(-energy, kind="stable")[:k])
