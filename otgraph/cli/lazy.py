"""What commands are written against, imported when a command first uses it.

Torch takes seconds, numpy and onnx tenths of one, and ``--help`` needs none of them. Editors and type
checkers see the modules themselves.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Idle threads of torch sleep instead of spinning, unless the environment says otherwise: on a busy machine
spinning took four times the CPU time of the work itself (``otgraph demo`` beside two other processes)."""


class Lazy:
    """A module of ours that is imported when something in it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


if TYPE_CHECKING:
    from otgraph import api, data_digest, data_sources, device
    from otgraph.audit import quantities, report, text
    from otgraph.engines import artifact, catalog
    from otgraph.rewrite import catalog as pass_catalog
    from otgraph.rewrite import manual
    from otgraph.rewrite import options as pass_options
else:
    api = Lazy("otgraph.api")
    artifact = Lazy("otgraph.engines.artifact")
    catalog = Lazy("otgraph.engines.catalog")
    data_digest = Lazy("otgraph.data_digest")
    data_sources = Lazy("otgraph.data_sources")
    device = Lazy("otgraph.device")
    manual = Lazy("otgraph.rewrite.manual")
    pass_catalog = Lazy("otgraph.rewrite.catalog")
    pass_options = Lazy("otgraph.rewrite.options")
    quantities = Lazy("otgraph.audit.quantities")
    report = Lazy("otgraph.audit.report")
    text = Lazy("otgraph.audit.text")

__all__ = [
    "Lazy", "Measurer", "api", "artifact", "catalog", "data_digest", "data_sources", "device", "manual",
    "measurer_of", "pass_catalog", "pass_options", "quantities", "report", "text",
]  # fmt: skip


class Measurer(Protocol):
    """What ``otgraph.device`` and ``otgraph.api`` both can do with models that are named by a text."""

    def audit(self, a: str, b: str, data: data_sources.Data, **choices: Any) -> report.Audit: ...

    def bench_all(
        self,
        models: Sequence[str],
        data: data_sources.Data | None = None,
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
        engine: str | None = None,
        cuda_graph: bool = False,
        threads: int = 1,
        seed: int = 0,
    ) -> device.Bench: ...

    def build(
        self,
        model: str | Path,
        output: Path,
        *,
        engine: str = "onnxruntime",
        options: artifact.BuildOptions | None = None,
        precision: device.Precision = "fp32",
        calibration: data_sources.Data | None = None,
    ) -> artifact.Built: ...


def measurer_of(models: Sequence[str]) -> Measurer:
    """``otgraph.device`` where engines load all of ``models`` by themselves, which needs no torch, else the
    whole API."""
    return device if all(map(catalog.is_model_file, models)) else api
