"""NVIDIA GPUs as ``nvidia-smi``, which comes with every driver, tells of them: names, clocks, temperature."""

from __future__ import annotations

import shutil
import subprocess

QUERY = {
    "clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "temperature_c": "temperature.gpu",
    "power_w": "power.draw",
}
SECONDS = 10


def gpu_names() -> tuple[str, ...]:
    """The GPUs that answer; empty without a driver."""
    return tuple(line.strip() for line in _ask("name").splitlines() if line.strip())


def gpu_state() -> dict[str, float]:
    """Of the first GPU: streaming-multiprocessor and memory clock in MHz, °C, and watts."""
    return read_state(_ask(",".join(QUERY.values())))


def read_state(text: str) -> dict[str, float]:
    """From the first line of ``nvidia-smi``'s answer to ``QUERY``; what it does not know is left out."""
    fields = (text.splitlines() or [""])[0].split(",")
    found: dict[str, float] = {}
    for name, field in zip(QUERY, fields, strict=False):
        try:
            found[name] = float(field.strip())
        except ValueError:
            continue  # "[N/A]" or "[Not Supported]"
    return found


def _ask(fields: str) -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        answer = subprocess.run(
            [command, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""
