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
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from bench_damage import damage
from bench_networks import NETWORKS, REPOSITORY, Network
from bench_output import save, show
from bench_subject import ERROR_CHARACTERS, Code, Job, optimise

KEY = ("network", "code", "engine", "budget", "moves")
AUDIT_INPUTS = 8
"""Rows that the audit is given: it times the first and compares the others, which ``damage`` does on all."""

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

Row = dict[str, Any]


def main() -> None:
    options = _arguments()
    jobs = list(jobs_of(options))
    for network in {job.network.name: job.network for job in jobs}.values():
        if missing := network.missing(options.root):
            sys.exit(f"{missing[0]} is missing; tools/README.md says what makes it")
    rows = read_rows(options.json)
    for job in jobs:
        done = rows.get(job.key)
        if done is not None and done["state"] != "failed" and not options.again:
            continue
        _say(f"{' '.join(job.key)}")
        rows[job.key] = run(job, options)
        save(options.json, {"command": command(), "rows": list(rows.values())})
        _say(brief(rows[job.key]))
    shown = [row for key, row in rows.items() if key[0] in options.networks]
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
    for name, engine in product(options.networks, options.engines):
        sides = [
            [
                Job(code, NETWORKS[name], engine, budget, moves)
                for budget, moves in product(budgets, options.moves)
            ]
            for code, budgets in ((old, options.old_budgets), (new, options.budgets))
            if code is not None
        ]
        for turn in zip_longest(*sides):
            yield from (job for job in turn if job is not None)


def run(job: Job, options: argparse.Namespace) -> Row:
    """The row of one job; whatever fails is said in it, and the others go on."""
    folder: Path = options.work / "-".join(job.key)
    row: Row = dict(zip(KEY, job.key, strict=True))
    record = folder / "run.json"
    if options.again:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        row |= optimise(job, options.root, folder, options.cpu_limit)
        if row["state"] == "failed":
            record.unlink()  # so that a later run tries again
        if row["state"] == "done":
            row |= audited(job, options.root, folder, options.audits)
            row |= judged(job.network, options.root, folder)
            row |= paid_back(row)
    except Exception as error:  # noqa: BLE001  (a row that cannot be measured must not end the run)
        row |= {"state": "failed", "error": f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]}
    return row


def audited(job: Job, root: Path, folder: Path, times: int) -> Row:
    """Ratio and layers, as separate processes of this tree measure them: of several the median one."""
    here, place = Code("judge", REPOSITORY), job.network.place(root)
    inputs = folder / "audit.npz"
    with np.load(place / job.network.test) as arrays:
        np.savez(inputs, **{name: arrays[name][:AUDIT_INPUTS] for name in arrays.files if name != "labels"})
    models = (str(place / job.network.model), str(folder / "model.onnx"))
    found: list[Row] = []
    for number in range(times):
        words = ["audit", *models, "--data", str(inputs), "--engine", job.engine, "--seed", str(number)]
        _, document = here.run(words, folder, "audit")
        if document is None:
            errors = (folder / "audit.stderr").read_text(errors="replace")
            raise RuntimeError(errors[-ERROR_CHARACTERS:].strip())
        found.append(from_audit(document, job.budget))
    inputs.unlink()
    found.sort(key=lambda row: row["ratio"])
    return found[(times - 1) // 2] | {"ratios": [row["ratio"] for row in found]}


def from_audit(found: Mapping[str, Any], budget: str) -> Row:
    """What the table shows of an audit."""
    latency = found["latency"]
    depths = [found[side]["compute_depth"] for side in ("a", "b")]
    row = {name: latency[name] for name in ("ratio", "low", "high", "a_ms", "b_ms", "clock")}
    return row | {
        "interval": f"[{latency['low']:.3f}, {latency['high']:.3f}]",
        "audit load": latency["conditions"]["load"],
        "off": off(latency["ratio"], budget),
        "depth": depths,
        "layers": f"{depths[0]} → {depths[1]}",
        "macs": [found[side]["macs"] for side in ("a", "b")],
    }


def off(ratio: float, budget: str) -> float | None:
    """By how many per cent the ratio is above the budget; None where that is no ratio of latencies."""
    if "=" in budget or not budget.endswith("x"):
        return None
    return 100 * (ratio / float(budget[:-1]) - 1)


def judged(network: Network, root: Path, folder: Path) -> Row:
    """The damage on inputs that nothing was fitted on."""
    place = network.place(root)
    found = damage(place / network.model, folder / "model.onnx", place / network.test, network.metric)
    name = "KL" if "KL" in found else "relative L2"
    interval = f"[{found[f'{name} low']:.4f}, {found[f'{name} high']:.4f}]"
    return {**found, "damage": found[name], "damage interval": interval}


def paid_back(row: Mapping[str, Any]) -> Row:
    """After how many inferences the CPU seconds are saved again; None where nothing is saved credibly."""
    saved = (row["a_ms"] - row["b_ms"]) / 1e3
    credible = row["high"] < 1 and saved > 0
    return {
        "pay-back": math.ceil(row["CPU s"] / (row["a_ms"] / 1e3 * (1 - row["ratio"]))) if credible else None
    }


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
    the neighbours, with no damage (as far as a figure shows) taken for 1e-6. None outside what was
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


def brief(row: Mapping[str, Any]) -> str:
    """One line on a row, for whoever watches."""
    parts = [str(row["state"])]
    for name in ("process CPU s", "CPU s", "ratio", "damage"):
        if row.get(name) is not None:
            parts.append(f"{name} {row[name]:.4g}")
    return ", ".join([*parts, *([row["error"]] if "error" in row else [])])


def read_rows(path: Path | None) -> dict[tuple[str, ...], Row]:
    """The rows of an earlier run, by their keys."""
    if path is None or not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {tuple(row[name] for name in KEY): row for row in rows}


def command() -> list[str]:
    """The command line, without where this machine keeps its files."""
    return [Path(word).name if word.startswith("/") else word for word in sys.argv]


def _told(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a column says anything: it is known of some row, and engine and moves are not all alike."""
    values = [row.get(name) for row in rows]
    return len(set(values)) > 1 if name in ("engine", "moves") else any(value is not None for value in values)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _networks(text: str) -> list[str]:
    names = _list(text)
    if wrong := [name for name in names if name not in NETWORKS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(NETWORKS)}")
    return names


def _checkout(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "otgraph" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of otgraph")
    return path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=_networks, default=list(NETWORKS), metavar="NAMES")
    parser.add_argument("--budgets", type=_list, default=["0.8x", "0.9x", "0.6x"], help="of the new tree")
    parser.add_argument("--old", type=_checkout, metavar="PATH", help="a checkout of the code as it was")
    parser.add_argument("--old-budgets", type=_list, default=["0.8x"], metavar="BUDGETS")
    parser.add_argument(
        "--new", type=_checkout, default=REPOSITORY, metavar="PATH", help="by default this one"
    )
    parser.add_argument("--engines", type=_list, default=["onnxruntime"])
    parser.add_argument("--moves", type=_list, default=["both"], help="both, width, depth")
    parser.add_argument("--cpu-limit", type=float, default=1200.0, metavar="SECONDS")
    parser.add_argument(
        "--root", type=_absolute, default=Path("data").resolve(), help="where the networks are"
    )
    parser.add_argument("--work", type=_absolute, default=Path("out/bench_optimize").resolve())
    parser.add_argument(
        "--audits", type=int, default=1, metavar="N", help="of each result; the median counts"
    )
    parser.add_argument("--again", action="store_true", help="make rows that are there once more")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def _absolute(text: str) -> Path:
    return Path(text).resolve()


if __name__ == "__main__":
    main()
