"""The audit as a table for the terminal: returned, never printed."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from otgraph.audit.quantities import (
    changes_lines,
    conditions_line,
    constant_line,
    fidelity_lines,
    fidelity_title,
    gap_line,
    not_counted_line,
    quantities,
    seen_line,
    shifts_line,
    task_line,
)
from otgraph.audit.report import Audit


def summary(audit: Audit) -> RenderableType:
    """Verdict, before and after, fidelity, thresholds, and how it was measured."""
    parts: list[RenderableType] = [
        Text(audit.verdict, style=_style(audit)),
        _before_after(audit),
        _fidelity(audit),
    ]
    parts += _trust(audit)
    parts += [Text(line) for line in changes_lines(audit)]
    parts += [Text(item.text, style="green" if item.met else "bold red") for item in audit.thresholds]
    if audit.break_even is not None:
        parts.append(Text(f"optimization paid back: {audit.break_even.text}"))
    notes = (f"measured: {conditions_line(audit)}", not_counted_line(audit), task_line(audit))
    parts += [Text(note, style="dim") for note in notes if note]
    return Group(*parts)


def _trust(audit: Audit) -> list[RenderableType]:
    """How far the figures of fidelity can be trusted."""
    said: list[RenderableType] = []
    seen = seen_line(audit)
    if seen:
        said.append(Text(seen, style="bold yellow"))
    found = audit.generalization
    if found is not None:
        said.append(Text(gap_line(audit), style="yellow" if found.large else ""))
        said += [Text(found.advice, style="bold yellow")] if found.advice else []
        said.append(Text(found.network_text, style="dim"))
    return said + [Text(line) for line in (shifts_line(audit), constant_line(audit)) if line]


def _style(audit: Audit) -> str:
    if audit.latency.credible_loss:
        return "bold red"
    return "bold green" if audit.latency.credible_gain else "bold yellow"


def _before_after(audit: Audit) -> Table:
    table = Table("", f"A {audit.a.name}", f"B {audit.b.name}", "change", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for item in quantities(audit):
        table.add_row(item.label, item.a_text, item.b_text, item.change)
    return table


def _fidelity(audit: Audit) -> Table:
    table = Table(fidelity_title(audit.fidelity), "", pad_edge=False)
    table.columns[1].justify = "right"
    for label, value in fidelity_lines(audit.fidelity):
        table.add_row(label, value)
    return table
