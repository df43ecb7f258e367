"""``Plan``: everything that will be done to one model, decided before anything is edited."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from otgraph.data import Data
from otgraph.errors import PlanError
from otgraph.files import check_kept, kind_of, why_no_file, write_aside
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.plan.apply import carry_out
from otgraph.plan.budget import Budget
from otgraph.plan.calibration import CalibrationReference
from otgraph.plan.decision import DepthAction, DimDecision, Predictions
from otgraph.plan.document import read_document, write_document
from otgraph.plan.fingerprint import Fingerprint
from otgraph.plan.json_text import dumps
from otgraph.plan.schema import VERSION
from otgraph.plan.table import plan_table
from otgraph.remark import Remark
from otgraph.rewrite.manager import Result
from otgraph.transport.coupling import Coupling

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Plan:
    """What to remove from the model with this ``fingerprint``.

    ``dims`` and ``depth`` are the decisions (dims that vanish with a span are not among them), ``pipeline``
    the passes that carry them out. ``engine`` and ``device`` say where latency was measured, ``calibration``
    which inputs were used, ``created_by`` the versions of the software. ``data`` are those inputs where they
    are still in memory, ``origin`` is what error messages call the plan, and ``sources`` the file that it was
    read from; none is part of the file, nor of a comparison.
    """

    model: str
    fingerprint: Fingerprint
    budget: Budget
    pipeline: str
    dims: tuple[DimDecision, ...] = ()
    depth: tuple[DepthAction, ...] = ()
    predictions: Predictions = field(default_factory=Predictions)
    engine: str = "onnxruntime"
    device: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    criterion: str = "cholesky"
    seed: int = 0
    calibration: CalibrationReference | None = None
    created_by: Mapping[str, str] = field(default_factory=dict[str, str])
    version: int = VERSION
    data: Data | None = field(default=None, compare=False, repr=False)
    remarks: tuple[Remark, ...] = field(default=(), compare=False, repr=False)
    origin: str = field(default="plan", compare=False, repr=False)
    sources: tuple[Path, ...] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        return plan_table(self)

    def couplings(self) -> dict[str, Coupling]:
        """Dim name → where its mass goes, for the passes; dims that are kept whole are left out."""
        return {dim.name: dim.coupling() for dim in self.dims if len(dim.kept) < dim.size}

    def collapses(self) -> tuple[Collapse, ...]:
        """What becomes of spans, for the passes."""
        return tuple(action.collapse for action in self.depth)

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object that ``plan_schema()`` describes."""
        return write_document(self)

    @staticmethod
    def from_json(document: object, origin: str = "plan") -> Plan:
        """The plan of a JSON object.

        Raises:
            PlanError: opens with ``origin`` and says which field is wrong, and how.
        """
        return Plan(**read_document(document, origin), origin=origin)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the plan as a JSON file, whole or not at all.

        Args:
            overwrite: also over the file that the plan was read from, or its calibration inputs.

        Raises:
            OutputError: ``path`` cannot be written, or is one of those.
            PlanError: a figure of the plan is not finite.
        """
        inputs = () if self.calibration is None else (Path(self.calibration.source),)
        if not overwrite:
            check_kept(Path(path), (*self.sources, *inputs))
        try:
            text = dumps(self.to_json())
        except ValueError as error:
            raise PlanError(f"{self.origin}: holds a figure that is not finite; make a new plan") from error
        with write_aside(Path(path)) as aside:
            aside.write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a plan file. Nothing in it is executed.

        Raises:
            PlanError: there is no such file, it is no JSON, or no plan of a version that is known here.
        """
        if kind_of(Path(path)) is not None:
            raise PlanError(f"{path}: {why_no_file(Path(path))} that otgraph plan wrote")
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise PlanError(f"{path}: cannot be read ({error.strerror}); give a plan file") from error
        except UnicodeDecodeError as error:
            raise PlanError(f"{path}: is no text; a plan is a JSON file") from error
        try:
            document = json.loads(
                text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_repetition
            )
        except (ValueError, RecursionError) as error:
            raise PlanError(f"{path}: is no JSON ({error}); make a new plan") from error
        return replace(Plan.from_json(document, str(path)), sources=(Path(path).resolve(),))

    def apply(self, graph: Graph, data: Data | None = None) -> Graph:
        """A new graph with the plan carried out; what the passes said is in its ``remarks``.

        ``data``: calibration inputs for the repairs. Without them, those in memory or those that the plan
        names are used if they are still the same; else the repairs are left out, and a remark says so.

        Raises:
            PlanError: the plan was made for another model.
        """
        result = self.apply_with_records(graph, data)
        return replace(result.graph, remarks=(*graph.remarks, *result.remarks))

    def apply_with_records(self, graph: Graph, data: Data | None = None) -> Result:
        """As ``apply``, with one record per pass."""
        return carry_out(self, graph, data)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond what a number can be")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} is there twice in one object")
    return found
