"""What a benchmark measures of a network that ``otgraph optimize`` has made: its latency, by separate
processes.

The audit that ``optimize`` ends with is of the process that has decided by such measurements; this one is
what a user would do afterwards. It is always this tree's, whatever code the network was made by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bench_networks import REPOSITORY
from bench_subject import ERROR_CHARACTERS, Code, Job

Row = dict[str, Any]

AUDIT_INPUTS = 8
"""Rows that the audit is given: it times the first, and what it says of the others is measured elsewhere."""


def audited(job: Job, root: Path, folder: Path, times: int) -> Row:
    """Ratio and layers, as separate processes measure them: of several the median one."""
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
    """What the tables show of an audit."""
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


def paid_back(row: Mapping[str, Any], cpu_seconds: float) -> Row:
    """After how many inferences the CPU seconds are saved again; None where nothing is saved credibly."""
    if row["high"] >= 1:
        return {"pay-back": None}
    return {"pay-back": math.ceil(cpu_seconds / (row["a_ms"] / 1e3 * (1 - row["ratio"])))}
