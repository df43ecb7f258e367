"""The audit as one self-contained HTML file: no script, no font, no image from elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

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
    shift_figures,
    task_line,
)
from otgraph.files import write_aside

if TYPE_CHECKING:
    from otgraph.audit.report import Audit

WIDTH = 640.0
MARGIN = 24.0


@dataclass(frozen=True)
class RatioPlot:
    """Horizontal positions, in SVG units, of the interval of the latency ratio on a logarithmic axis."""

    low: float
    high: float
    ratio: float
    one: float
    repeats: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]


def ratio_plot(ratio: float, low: float, high: float, repeats: tuple[float, ...]) -> RatioPlot:
    """Scale so that 1 and everything measured are in sight, with about five round ticks."""
    seen = (low, high, ratio, 1.0, *repeats)
    left, right = math.log(min(seen)), math.log(max(seen))
    pad = max(0.08 * (right - left), 0.01)
    left, right = left - pad, right + pad

    def place(value: float) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * (math.log(value) - left) / (right - left), 2)

    ticks = tuple((place(value), f"{value:g}") for value in round_ticks(math.exp(left), math.exp(right)))
    return RatioPlot(place(low), place(high), place(ratio), place(1.0), tuple(map(place, repeats)), ticks)


def round_ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 × 10^k inside [low, high], at most ``wanted``."""
    step = 10.0 ** math.floor(math.log10((high - low) / wanted))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= wanted)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1) if index > 0]


def render_html(audit: Audit) -> str:
    """The page as text."""
    text = files("otgraph.audit").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    latency = audit.latency
    ops = sorted({*audit.a.structure.ops, *audit.b.structure.ops})
    return environment.from_string(text).render(
        audit=audit,
        tone=_tone(audit),
        plot=ratio_plot(latency.ratio, latency.low, latency.high, latency.per_repeat),
        width=WIDTH,
        quantities=[
            (item, 100 * item.a / item.larger, 100 * item.b / item.larger) for item in quantities(audit)
        ],
        fidelity=fidelity_lines(audit.fidelity),
        fidelity_title=fidelity_title(audit.fidelity),
        compared=_compared(audit),
        gap_line=gap_line(audit),
        seen_line=seen_line(audit),
        ops=[(op, audit.a.structure.ops.get(op, 0), audit.b.structure.ops.get(op, 0)) for op in ops],
        conditions=conditions_line(audit),
        not_counted=not_counted_line(audit),
        changes=audit.changes,
        changes_lines=changes_lines(audit),
        task_line=task_line(audit),
        constant_line=constant_line(audit),
        shift_figures=shift_figures(audit),
    )


def _compared(audit: Audit) -> list[tuple[str, str, str]]:
    """Each figure on the inputs of the repair, and on unseen ones."""
    found = audit.generalization
    if found is None:
        return []
    unseen = dict(fidelity_lines(found.unseen))
    return [(label, value, unseen.get(label, "")) for label, value in fidelity_lines(found.fitted)]


def save_html(audit: Audit, path: Path) -> None:
    """Write the page; raises ``OutputError`` when ``path`` cannot be written."""
    text = render_html(audit)
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _tone(audit: Audit) -> str:
    if audit.latency.credible_loss:
        return "bad"
    return "good" if audit.latency.credible_gain else "unsure"
