"""How far a network is from the original on held-out inputs, by ONNX Runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from otgraph.audit.fidelity import Fidelity, fidelity
from otgraph.audit.metric import Metric, load_metric
from otgraph.data import Data
from otgraph.engines.catalog import get_engine
from otgraph.graph.graph import Graph


class Judge:
    """Fidelity of a graph to the original on all of ``data``, both in ONNX Runtime."""

    def __init__(self, original: Graph, data: Data, metric: str | None) -> None:
        self._metric: Metric | None = None if metric is None else load_metric(metric)
        self._name = metric or ""
        self._engine = get_engine("onnxruntime")
        self._folder = tempfile.TemporaryDirectory(prefix="otgraph-")
        self._original = self._session(original)
        self._data = data.named([spec.name for spec in self._original.inputs])

    def __call__(self, graph: Graph) -> Fidelity:
        return fidelity(self._original, self._session(graph), self._data, self._metric, self._name)

    def _session(self, graph: Graph) -> Any:
        path = Path(self._folder.name) / "model.onnx"
        graph.save(path)
        return self._engine.load(path)


def figures(found: Fidelity, *, side: str) -> dict[str, float | None]:
    """What is known of one side of a comparison; of the original (``a``) only accuracy and metric."""
    row: dict[str, float | None] = {}
    classes = found.classification
    if side == "b":
        row["relative L2"] = max(
            (o.relative_l2 for o in found.outputs if o.relative_l2 is not None), default=None
        )
        row["KL"] = None if classes is None else classes.kl
        row["agreement"] = None if classes is None else classes.top1_agreement
    row["accuracy"] = None if classes is None else getattr(classes, f"accuracy_{side}")
    row["metric"] = None if found.metric is None else getattr(found.metric, side)
    return row
