"""No network is handed on that computes NaN or infinities where the original did not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from otgraph.calibrate.feeds import feeds
from otgraph.data import Data
from otgraph.errors import PassError
from otgraph.graph.graph import Graph

Outputs = tuple[torch.Tensor, ...]
_BATCH = 16


def check_finite(
    original: Graph, graph: Graph, data: Data | None, probes: Iterable[tuple[torch.Tensor, ...]]
) -> None:
    """Accept ``graph`` where its outputs are finite wherever those of ``original`` are: on ``data``, the
    calibration inputs, and where there are none on ``probes``.

    Raises:
        PassError: names the output, how many of its values are not, and the input that shows it.
    """
    start = 0
    for inputs in probes if data is None else feeds(original, data, _BATCH):
        new = graph(*inputs)
        if not all(map(_is_finite, new)):
            names = [port.name for port in original.signature.outputs]
            where = "probe inputs" if data is None else f"calibration inputs from {start} on"
            _compare(original, names, original(*inputs), new, where)
        start += len(inputs[0]) if inputs and inputs[0].dim() else 1


def _compare(original: Graph, names: Sequence[str], old: Outputs, new: Outputs, where: str) -> None:
    for name, before, after in zip(names, old, new, strict=True):
        if _is_finite(after) or (before.shape != after.shape and not _is_finite(before)):
            continue
        broken = ~after.isfinite()
        if before.shape == after.shape:
            broken &= before.isfinite()
        count = int(broken.sum())
        if count:
            raise PassError(
                f"{original.name}: {count} of {after.numel()} values of output {name} are not finite on"
                f" {where}, where the original's are; nothing is handed on: leave out or mend the pass that"
                " does it"
            )


def _is_finite(value: torch.Tensor) -> bool:
    return bool(value.isfinite().all())
