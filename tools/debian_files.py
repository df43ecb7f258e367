"""Pictures that come in Debian packages: fetched with ``apt-get`` once and unpacked, never installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def unpacked(package: str, folder: Path) -> Path:
    """Where the files of ``package`` are, ``usr`` and all; fetched into ``folder`` where they are not yet."""
    place = folder / package
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="otgraph-") as aside:
            _run(["apt-get", "download", package], Path(aside), package)
            (archive,) = Path(aside).glob("*.deb")
            _run(["dpkg", "-x", str(archive), str(place)], Path(aside), package)
    return place


def _run(command: list[str], folder: Path, package: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        sys.exit(
            f"{package} cannot be fetched ({said.decode(errors='replace').strip().splitlines()[-1]}); "
            "this needs Debian or one of its kin, and apt-get update"
        )
