"""NVIDIA GPUs as ``nvidia-smi``, which comes with every driver, tells of them: names, clocks, temperature."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

QUERY = {
    "clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "temperature_c": "temperature.gpu",
    "power_w": "power.draw",
}
SECONDS = 10


def gpu_names(gpu: str | None = None) -> tuple[str, ...]:
    """The GPUs that answer, or only ``gpu``; empty without a driver."""
    return _lines(_ask("name", gpu))


def gpu_state(gpu: str | None) -> dict[str, float]:
    """Of one GPU, by its place on the PCI bus or its UUID: streaming-multiprocessor and memory clock in MHz,
    °C, and watts. Empty for None: better nothing than what another GPU says."""
    return {} if gpu is None else read_state(_ask(",".join(QUERY.values()), gpu))


def first_visible(environ: Mapping[str, str] = os.environ) -> str | None:
    """The UUID of the GPU that CUDA counts as its first in this process, or None where that cannot be told:
    CUDA numbers GPUs by speed, unless told otherwise, and ``nvidia-smi`` by their place on the bus."""
    found = _lines(_ask("uuid"))
    chosen = environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if not chosen.isdigit():  # a UUID or the beginning of one; -1 and nothing at all hide all of them
        return next((uuid for uuid in found if chosen and uuid.startswith(chosen)), None)
    if len(found) == 1 or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return found[int(chosen)] if int(chosen) < len(found) else None
    return None


def read_state(text: str) -> dict[str, float]:
    """From ``nvidia-smi``'s answer to ``QUERY`` about one GPU; what it does not know is left out."""
    fields = (text.splitlines() or [""])[0].split(",")
    found: dict[str, float] = {}
    for name, field in zip(QUERY, fields, strict=False):
        try:
            found[name] = float(field.strip())
        except ValueError:
            continue  # "[N/A]" or "[Not Supported]"
    return found


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _ask(fields: str, gpu: str | None = None) -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    which = [] if gpu is None else [f"--id={gpu}"]
    try:
        answer = subprocess.run(
            [command, *which, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""
