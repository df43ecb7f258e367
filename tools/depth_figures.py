"""What ``bench_depth.py`` makes of its rows: estimators compared span by span, and rank correlations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, get_args

from bench_output import Row
from scipy.stats import spearmanr

from otgraph.graph.span import Estimator, MapKind

BASE: Estimator = "least-squares"
TINY = 1e-12

SUMMARY = {
    "spans": "",
    "map": "",
    "estimator": "",
    "n": "d",
    "damage": ".4f",
    "ratio": ".3f",
    "repaired": ".4f",
    "ratio repaired": ".3f",
    "wins": "d",
    "best of all": "d",
    "fit s": ".2f",
}

RANKS = {
    "spans": "",
    "map": "",
    "estimator": "",
    "n": "d",
    "error": ".2f",
    "effect": ".2f",
    "price": ".2f",
    "error, repaired": ".2f",
    "effect, repaired": ".2f",
    "price, repaired": ".2f",
    "damage, repaired": ".2f",
}

PICKED = {
    "by": "",
    "spans": "d",
    "damage": ".4f",
    "repaired": ".4f",
    "chosen spans": "d",
    "damage of chosen": ".5f",
    "repaired, chosen": ".5f",
}

FIGURES = ("error", "effect", "price")
"""What is known of a collapse before it is carried out."""


def damage(row: Row, suffix: str = "") -> float:
    """KL, or the squared relative L2 where there is none."""
    kl = row[f"KL{suffix}"]
    return max(row[f"L2{suffix}"] ** 2 if kl is None else kl, TINY)


def plausible(rows: Sequence[Row], limit: float) -> list[Row]:
    """The rows of spans that some map replaces within ``limit``, a relative L2 after the repair."""
    best: dict[str, float] = {}
    for row in rows:
        best[row["span"]] = min(best.get(row["span"], math.inf), row["L2 repaired"])
    return [row for row in rows if best[row["span"]] <= limit]


def summary(rows: Sequence[Row], limit: float) -> list[dict[str, Any]]:
    """Per map and estimator; ratios and wins among the estimators of one map of one span."""
    return [{"spans": name, **line} for name, some in _parts(rows, limit) for line in _summed_up(some)]


def _summed_up(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    base = {(r["span"], r["map"]): r for r in rows if r["estimator"] in (BASE, "-")}
    rivals: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        rivals.setdefault((row["span"], row["map"]), []).append(row)
    of_span: dict[str, list[Row]] = {}
    for row in rows:
        of_span.setdefault(row["span"], []).append(row)
    wins = [min(some, key=lambda r: damage(r, " repaired")) for some in rivals.values()]
    best = [min(some, key=lambda r: damage(r, " repaired")) for some in of_span.values()]
    for kind, estimator in _groups(rows):
        mine = [r for r in rows if (_kind(r), r["estimator"]) == (kind, estimator)]
        pairs = [(r, base[r["span"], r["map"]]) for r in mine]
        yield {
            "map": kind,
            "estimator": estimator,
            "n": len(mine),
            "damage": _geometric(damage(r) for r in mine),
            "ratio": _geometric(damage(r) / damage(b) for r, b in pairs),
            "repaired": _geometric(damage(r, " repaired") for r in mine),
            "ratio repaired": _geometric(damage(r, " repaired") / damage(b, " repaired") for r, b in pairs),
            "wins": sum((_kind(r), r["estimator"]) == (kind, estimator) for r in wins),
            "best of all": sum((_kind(r), r["estimator"]) == (kind, estimator) for r in best),
            "fit s": fmean(r["fit s"] for r in mine),
        }


def ranks(rows: Sequence[Row], limit: float) -> list[dict[str, Any]]:
    """Spearman's rank correlation of the layer-wise figures (and of the damage without repair) with the
    damage: of all, and of each map under each estimator."""
    lines: list[dict[str, Any]] = []
    for name, some in _parts(rows, limit):
        groups = [("all", "all"), *_groups(some)]
        for kind, estimator in groups:
            whole = kind == "all"
            mine = [r for r in some if whole or (_kind(r), r["estimator"]) == (kind, estimator)]
            bare, repaired = [damage(r) for r in mine], [damage(r, " repaired") for r in mine]
            line: dict[str, Any] = {"spans": name, "map": kind, "estimator": estimator, "n": len(mine)}
            for figure in FIGURES:
                values = [_known(r, figure) for r in mine]
                line[figure] = correlation(values, bare)
                line[f"{figure}, repaired"] = correlation(values, repaired)
            lines.append({**line, "damage, repaired": correlation(bare, repaired)})
    return lines


def picked(rows: Sequence[Row], share: float) -> list[dict[str, Any]]:
    """The damage where each figure chooses the map of every span, and of ``share`` of the spans the best; and
    what the damage after the repair itself would have chosen. Geometric means."""
    of_span: dict[str, list[Row]] = {}
    for row in rows:
        of_span.setdefault(row["span"], []).append(row)
    count = math.ceil(share * len(of_span))
    lines: list[dict[str, Any]] = []
    for figure in (*FIGURES, "damage repaired"):

        def cost(row: Row, by: str = figure) -> float:
            value = damage(row, " repaired") if by == "damage repaired" else _known(row, by)
            return math.inf if math.isnan(value) else value

        best = [min(some, key=cost) for some in of_span.values()]
        chosen = sorted(best, key=cost)[:count]
        lines.append(
            {
                "by": figure,
                "spans": len(best),
                "damage": _geometric(damage(r) for r in best),
                "repaired": _geometric(damage(r, " repaired") for r in best),
                "chosen spans": len(chosen),
                "damage of chosen": _geometric(damage(r) for r in chosen),
                "repaired, chosen": _geometric(damage(r, " repaired") for r in chosen),
            }
        )
    return lines


def _known(row: Row, figure: str) -> float:
    value = row.get(figure)
    return math.nan if value is None else float(value)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's; None where there are too few values, or all of a side are equal."""
    pairs = [pair for pair in zip(first, second, strict=True) if all(map(math.isfinite, pair))]
    if len(pairs) < 4 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return None
    found: Any = spearmanr([a for a, _ in pairs], [b for _, b in pairs])
    return float(found.statistic)


def _parts(rows: Sequence[Row], limit: float) -> list[tuple[str, Sequence[Row]]]:
    some = plausible(rows, limit)
    return [("all", rows)] if len(some) == len(rows) else [("all", rows), ("plausible", some)]


def _kind(row: Row) -> str:
    return str(row["map"]).split()[0]


def _groups(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Map and estimator of what there is, in the order of the maps' sizes."""
    order = get_args(MapKind)
    found = {(_kind(row), row["estimator"]) for row in rows}
    places = ("-", *get_args(Estimator))
    return sorted(found, key=lambda group: (order.index(group[0]), places.index(group[1])))


def _geometric(values: Iterator[float]) -> float:
    return math.exp(fmean(math.log(value) for value in values))
