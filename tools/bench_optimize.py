"""What ``otgraph optimize`` costs, what it gains and what it loses: two trees of the code side by side.

    git worktree add ../before COMMIT
    python tools/bench_optimize.py --old ../before --json tools/results/optimize.json
    python tools/bench_optimize.py --budgets 0.9x,0.75x,0.6x,0.45x --engines onnxruntime,openvino \\
        --networks digits_resnet20,digits_vit,efficientnet_lite0,ppocr_rec --json tools/results/budgets.json

For each network, engine and budget ``otgraph optimize`` runs in a process and with a cache of its own, on one
thread, the old tree (--old, at --old-budgets) and the new one (this tree, or --new) by turns; it is stopped
after --cpu-limit CPU seconds. What it made is then measured by this tree: a separate ``otgraph audit``
against the original, and the damage on the network's test inputs, which nothing was fitted on, with an
interval over them (photographs where inputs are crops of some).

A row is written as soon as it is known, and one that is there is not made again (--again makes it); what a
run leaves behind is kept under --work, so that only what is missing is made. Rows may thus come from other
days: each has its date, commit and load. CPU s is of plan and repair as ``optimize`` reports it, process CPU
s of all it did, loading and its own audit too. Damage is KL where the outputs are classes, else relative L2.
"off" is the separately audited ratio relative to the budget, in %, where that is a ratio.

A budget with a name is that option's: ``layers=0.75x`` is ``--layers 0.75x``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from bench_audit import audited, paid_back
from bench_damage import damage
from bench_networks import NETWORKS
from bench_output import show
from bench_rows import KEY, Row, add_options, leave_by_exception, networks, run_all, words
from bench_subject import Code, Job, read_document

COLUMNS = {
    "network": "",
    "code": "",
    "engine": "",
    "budget": "",
    "moves": "",
    "state": "",
    "CPU s": ".0f",
    "process CPU s": ".0f",
    "trials": "d",
    "ratio": ".3f",
    "interval": "",
    "off": "+.1f",
    "layers": "",
    "damage": ".4f",
    "damage interval": "",
    "agreement": ".3f",
    "accuracy": ".3f",
    "metric": ".4f",
    "pay-back": ",d",
    "peak MB": ".0f",
}
SUMMARY = {
    "network": "",
    "engine": "",
    "budget": "",
    "ms": ".2f",
    "CPU s old": ".0f",
    "CPU s new": ".0f",
    "CPU new/old": ".3f",
    "ratio old": ".3f",
    "ratio new": ".3f",
    "damage old": ".4f",
    "damage new": ".4f",
    "new at old's ratio": ".4f",
    "damage new/old": ".3f",
}


def main() -> None:
    options = _arguments()
    leave_by_exception()
    jobs = list(jobs_of(options))
    rows = run_all(jobs, options, lambda job, folder: measured(job, folder, options))
    names = {found.name for found in options.networks}
    shown = [row for key, row in rows.items() if key[0] in names]
    show("otgraph optimize", shown, {name: form for name, form in COLUMNS.items() if _told(name, shown)})
    if pairs := list(summary(shown)):
        show("old and new", pairs, SUMMARY)
        for line in means(pairs):
            print(line)
    for row in shown:
        if row.get("error"):
            print(f"{' '.join(str(row[name]) for name in KEY)}: {row['error']}")


def jobs_of(options: argparse.Namespace) -> Iterator[Job]:
    """All that were asked for; per network and engine old and new by turns, as a machine changes over
    hours."""
    new, old = Code("new", options.new), options.old and Code("old", options.old)
    for found, engine in product(options.networks, options.engines):
        sides = [
            [Job(code, found, engine, budget, moves) for budget, moves in product(budgets, options.moves)]
            for code, budgets in ((old, options.old_budgets), (new, options.budgets))
            if code is not None
        ]
        for turn in zip_longest(*sides):
            yield from (job for job in turn if job is not None)


def measured(job: Job, folder: Path, options: argparse.Namespace) -> Row:
    """The separate audit, the damage on inputs that nothing was fitted on, and the pay-back."""
    row = audited(job, options.root, folder, options.audits)
    place, network = job.network.place(options.root), job.network
    found = damage(place / network.model, folder / "model.onnx", place / network.test, network.metric)
    name = "KL" if "KL" in found else "relative L2"
    interval = f"[{found[f'{name} low']:.4f}, {found[f'{name} high']:.4f}]"
    spent = (read_document(folder / "optimize.json") or {})["cost"]["cpu_seconds"]
    return {**row, **found, "damage": found[name], "damage interval": interval, **paid_back(row, spent)}


def summary(rows: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Old beside new, where both have a row of the same budget."""
    sides = {code: [row for row in rows if row["code"] == code] for code in ("old", "new")}
    for old in sides["old"]:
        place = [old[name] for name in KEY if name not in ("code", "budget")]
        ours = [row for row in sides["new"] if [row[n] for n in KEY if n not in ("code", "budget")] == place]
        for new in ours:
            if new["budget"] == old["budget"]:
                yield _beside(old, new, ours)


def _beside(old: Mapping[str, Any], new: Mapping[str, Any], ours: Sequence[Mapping[str, Any]]) -> Row:
    """A stopped run's CPU seconds are those it had used: the quotient is then at most that."""
    spent = [row.get("CPU s", row.get("process CPU s")) for row in (old, new)]
    row: Row = {name: old[name] for name in ("network", "engine", "budget")}
    row |= {"CPU s old": spent[0], "CPU s new": spent[1], "ms": new.get("a_ms", old.get("a_ms"))}
    if None not in spent:
        row["CPU new/old"] = spent[1] / spent[0]
    for name, (side, found) in product(("ratio", "damage"), (("old", old), ("new", new))):
        row[f"{name} {side}"] = found.get(name)
    if old.get("ratio") is not None:
        row["new at old's ratio"] = damage_at(old["ratio"], ours)
        if row["new at old's ratio"] is not None and old["damage"] > 0:
            row["damage new/old"] = row["new at old's ratio"] / old["damage"]
    return row


def damage_at(ratio: float, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The damage at a ratio that none of ``rows`` has met exactly: its logarithm is drawn as a line between
    the neighbors, with no damage (as far as a figure shows) taken for 1e-6. None outside what was
    measured."""
    points = sorted((row["ratio"], max(row["damage"], 1e-6)) for row in rows if row.get("damage") is not None)
    if not points or not points[0][0] <= ratio <= points[-1][0]:
        return None
    ratios, damages = zip(*points, strict=True)
    return float(np.exp(np.interp(ratio, ratios, np.log(damages))))


def means(pairs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The geometric means of what the summary has quotients of."""
    for name in ("CPU new/old", "damage new/old"):
        values = [pair[name] for pair in pairs if pair.get(name)]
        if values:
            mean = math.exp(sum(map(math.log, values)) / len(values))
            yield f"{name}: {mean:.3f} on the geometric mean of {len(values)}"


def _told(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a column says anything: it is known of some row, and engine and moves are not all alike."""
    values = [row.get(name) for row in rows]
    return len(set(values)) > 1 if name in ("engine", "moves") else any(value is not None for value in values)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=networks, default=list(NETWORKS.values()), metavar="NAMES")
    parser.add_argument("--budgets", type=words, default=["0.8x", "0.9x", "0.6x"], help="of the new tree")
    parser.add_argument("--old-budgets", type=words, default=["0.8x"], metavar="BUDGETS")
    add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
