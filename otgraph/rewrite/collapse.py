"""The one edit of depth: a span gives way to the map that was fitted to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import fx

from otgraph.calibrate.span_fit import SpanFit
from otgraph.graph.graph import label
from otgraph.graph.notes import FITTED_ON, KEPT, STANDS_FOR, kept_of, original_name
from otgraph.graph.span import Collapse
from otgraph.rewrite.region import Region, cut_elsewhere, find_region, left_of
from otgraph.rewrite.rewriter import Rewriter
from otgraph.rewrite.shapes import ValueInfo, value_infos
from otgraph.rewrite.stand_in import Numbers, make_stand_in


def collapse_span(
    rewriter: Rewriter,
    collapse: Collapse,
    fit: SpanFit | None,
    infos: Mapping[fx.Node, ValueInfo] | None = None,
) -> fx.Node | str:
    """Let a span give way to its map.

    The identity makes the readers of the exit read the entry. Any other map takes the place of the exit, or
    of the branch where the span has one (then the addition stays). What nothing reads any more is erased. The
    new node notes (``graph.notes``) the node that it replaces as ``STANDS_FOR``, the span's entry as
    ``FITTED_ON``, and carries the ``KEPT`` of the node that it replaces. Where channels of the entry or
    of the replaced node were cut since the fit, which is the original's, its numbers are restricted to those
    that are left.

    Args:
        fit: the numbers; the identity needs none.
        infos: shapes of the graph before the first of several edits, to spare a run of it.

    Returns:
        The node that now has the exit's value; or, in words, why nothing was edited.
    """
    infos = value_infos(rewriter.graph) if infos is None else infos
    region = find_region(rewriter.graph, collapse.span, infos)
    if isinstance(region, str):
        return region
    if collapse.map == "identity":
        return _delete(rewriter, region)
    if fit is None or fit.weight is None or fit.bias is None:
        return "its map was not fitted"
    numbers = _restricted(fit, region)
    if isinstance(numbers, str):
        return numbers
    return _put(rewriter, region, numbers, collapse.span.entry)


def collapse_spans(
    rewriter: Rewriter, collapses: Iterable[Collapse], fits: Mapping[str, SpanFit]
) -> tuple[Collapse, ...]:
    """``collapse_span`` for each, the last first, so that one span still finds the exit of another as its
    entry. What was done, or not and why, is remarked.

    Args:
        fits: by the names of the collapses.

    Returns:
        Those that were carried out.
    """
    place = {node.name: number for number, node in enumerate(rewriter.graph.module.graph.nodes)}
    infos = value_infos(rewriter.graph)
    done: list[Collapse] = []
    for collapse in sorted(collapses, key=lambda c: place.get(c.span.exit, -1), reverse=True):
        fit = fits.get(collapse.name)
        found = collapse_span(rewriter, collapse, fit, infos)
        if isinstance(found, str):
            rewriter.remark("missed", collapse.span.name, found)
            continue
        figures: dict[str, float | int | str] = {"nodes": len(collapse.span.nodes)}
        if fit is not None and math.isfinite(fit.error):
            figures["held_out_error"] = round(fit.error, 8)
        rewriter.remark("applied", collapse.span.name, describe(collapse), **figures)
        done.append(collapse)
    return tuple(done)


def describe(collapse: Collapse) -> str:
    """What the span becomes, in words."""
    if collapse.map == "identity":
        return "deleted"
    size = "×".join(map(str, collapse.kernel))
    kind = f"a {size} convolution" if collapse.map == "conv" else _KINDS[collapse.map]
    return f"became {kind} ({collapse.estimator})"


_KINDS = {"affine": "a factor and a shift per channel", "linear": "a linear map per position"}


def _delete(rewriter: Rewriter, region: Region) -> fx.Node | str:
    if region.before != region.after:
        return f"its entry has shape {list(region.before)} and its exit {list(region.after)}"
    if not region.same_channels():
        return "its entry and its exit have kept different channels"
    rewriter.replace(region.exit, region.entry)
    _erase(rewriter, region.exit, region.entry)
    return region.entry


def _restricted(fit: SpanFit, region: Region) -> Numbers | str:
    """The numbers of ``fit`` for the channels that are left, or why they do not fit."""
    assert fit.weight is not None and fit.bias is not None
    if len(region.before) != len(region.after):
        return f"its entry has {len(region.before)} axes and its exit {len(region.after)}"
    axis = fit.axis % len(region.before)
    for node in (region.entry, region.replaced):
        other = cut_elsewhere(node, axis)
        if other is not None:
            return f"{label(node)} was also cut along axis {other}"
    weight, bias, window = fit.weight.detach(), fit.bias.detach(), fit.window
    columns, rows = left_of(region.entry, axis), left_of(region.replaced, axis)
    if fit.collapse.map == "affine":
        if not region.same_channels():
            return "its entry and its exit have kept different channels, which one factor each cannot join"
        if rows is not None:
            window = replace(window, inputs=len(rows), groups=len(rows))
    elif columns is not None:
        if window.groups != 1:
            return "its entry was cut and its map has groups"
        weight, window = weight.index_select(1, columns), replace(window, inputs=len(columns))
    if rows is not None:
        weight, bias = weight.index_select(0, rows), bias.index_select(0, rows)
        window = replace(window, outputs=len(rows))
    numbers = Numbers(weight, bias, window)
    made = numbers.shape(region.before)
    if made == region.after:
        return numbers
    given = "takes no entry of" if made is None else f"gives {list(made)} for an entry of"
    return f"its map {given} {list(region.before)}, and {list(region.after)} is wanted"


def _put(rewriter: Rewriter, region: Region, numbers: Numbers, fitted_on: str) -> fx.Node:
    replaced = region.replaced
    new = make_stand_in(rewriter, numbers, region.entry, replaced, region.dtype)
    rewriter.annotate(new, STANDS_FOR, original_name(replaced))
    rewriter.annotate(new, FITTED_ON, fitted_on)
    if kept_of(replaced):
        rewriter.annotate(new, KEPT, dict(kept_of(replaced)))
    rewriter.replace(replaced, new)
    _erase(rewriter, replaced, region.entry)
    return new if region.exit is replaced else region.exit


def _erase(rewriter: Rewriter, node: fx.Node, entry: fx.Node) -> None:
    """Erase ``node`` and all that was there only for it."""
    waiting = [node]
    while waiting:
        dead = waiting.pop()
        if dead is not entry and dead.op in ("call_function", "call_module", "get_attr") and not dead.users:
            sources = list(dead.all_input_nodes)
            rewriter.erase(dead)
            waiting += [source for source in sources if source not in waiting]
