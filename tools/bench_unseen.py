"""How a network that was cut on some photographs does on others: fitted, as it was printed, and unseen.

    python tools/bench_unseen.py --old ../before --json tools/results/unseen.json

EfficientNet-Lite0 is optimized on each calibration set at each budget, by each tree of code. Per result there
is a line for the calibration set itself ("fitted"), for what ``optimize`` printed about its own result, and
for each set that nothing was fitted on. Intervals are 95 %, over photographs. Sets are given as NAME=FILE,
FILE from --root.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from bench_audit import audited
from bench_damage import damage
from bench_networks import NETWORKS, Network
from bench_output import show
from bench_rows import KEY, Row, add_options, leave_by_exception, network, run_all, words
from bench_subject import Code, Job, read_document

CALIBRATIONS = "photographs=efficientnet_lite0/calib.npz,varied=varied_photographs/calib.npz"
UNSEEN = (
    "wheel=efficientnet_lite0/test.npz,wall=varied_photographs/wall.npz,"
    "examples=varied_photographs/examples.npz"
)
FIGURES = ("agreement", "KL", "relative L2")
COLUMNS = {
    "calibrated on": "",
    "budget": "",
    "code": "",
    "ratio": ".3f",
    "layers": "",
    "judged on": "",
    "inputs": "d",
    "pictures": "d",
    "agreement": ".3f",
    "agreement in": "",
    "KL": ".3f",
    "KL in": "",
    "relative L2": ".3f",
}


def main() -> None:
    options = _arguments()
    leave_by_exception()
    jobs = list(jobs_of(options))
    rows = run_all(jobs, options, lambda job, folder: measured(job, folder, options))
    lines = [line for job in jobs for line in lines_of(rows[job.key])]
    show(f"{options.network.name}, cut on some photographs and judged on others", lines, COLUMNS)
    for job in jobs:
        if rows[job.key].get("error"):
            print(f"{' '.join(job.key)}: {rows[job.key]['error']}")


def jobs_of(options: argparse.Namespace) -> Iterator[Job]:
    """All that were asked for, the trees of code by turns."""
    trees = (("old", options.old), ("new", options.new))
    codes = [Code(name, tree) for name, tree in trees if tree is not None]
    for budget, (label, file) in product(options.budgets, options.calibrations.items()):
        found = calibrated(options.network, label, options.root / file, options.samples)
        for engine, moves, code in product(options.engines, options.moves, codes):
            yield Job(code, found, engine, budget, moves)


def calibrated(found: Network, label: str, file: Path, samples: int | None) -> Network:
    """The same network with another calibration set, under a name of its own."""
    return replace(found, name=f"{found.name}@{label}", calibration=str(file), samples=samples)


def measured(job: Job, folder: Path, options: argparse.Namespace) -> Row:
    """The separate audit, and the figures on every set, in the order of the table."""
    place = job.network.place(options.root)
    sets = {"fitted": Path(job.network.calibration)}
    sets |= {name: options.root / file for name, file in options.unseen.items()}
    models = (place / job.network.model, folder / "model.onnx")
    found = {name: damage(*models, data) for name, data in sets.items()}
    return {
        **audited(job, options.root, folder, options.audits),
        "sets": {"fitted": found.pop("fitted"), "printed": printed(folder), **found},
    }


def printed(folder: Path) -> Row:
    """What ``optimize`` said of its own result, of whatever inputs it took for that."""
    document = read_document(folder / "optimize.json") or {}
    fidelity = document["audit"]["fidelity"]
    row = {"inputs": fidelity["samples"]}
    row["relative L2"] = max(output["relative_l2"] or 0.0 for output in fidelity["outputs"])
    classes = fidelity["classification"]
    return row if classes is None else {**row, "KL": classes["kl"], "agreement": classes["top1_agreement"]}


def lines_of(row: Mapping[str, Any]) -> Iterator[Row]:
    """One line per set; of a row without figures one that says its state."""
    named = dict(zip(KEY, (row[name] for name in KEY), strict=True))
    first = {
        "calibrated on": row["network"].partition("@")[2],
        "budget": named["budget"],
        "code": row["code"],
    }
    if "sets" not in row:
        yield {**first, "judged on": row["state"]}
    for name, found in row.get("sets", {}).items():
        line = {**first, "ratio": row["ratio"], "layers": row["layers"], "judged on": name}
        line |= {"inputs": found["inputs"], "pictures": found.get("groups")}
        for figure in FIGURES:
            line[figure] = found.get(figure)
            if found.get(f"{figure} low") is not None:
                line[f"{figure} in"] = f"[{found[f'{figure} low']:.3f}, {found[f'{figure} high']:.3f}]"
        yield line


def _sets(text: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in words(text)]
    if wrong := [name for name, _, file in pairs if not file]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r}: write NAME=FILE")
    return {name: file for name, _, file in pairs}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", type=network, default=NETWORKS["efficientnet_lite0"], metavar="NAME")
    parser.add_argument("--calibrations", type=_sets, default=_sets(CALIBRATIONS), metavar="SETS")
    parser.add_argument("--unseen", type=_sets, default=_sets(UNSEEN), metavar="SETS")
    parser.add_argument("--samples", type=int, metavar="N", help="calibration inputs to use; all by default")
    parser.add_argument("--budgets", type=words, default=["0.9x", "0.8x", "0.7x"])
    add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
