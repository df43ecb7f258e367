"""Remarks: what an analysis or a pass has to say, as data. The library returns them and never prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RemarkKind = Literal["applied", "missed", "analysis", "failure"]


@dataclass(frozen=True)
class Remark:
    """One finding.

    ``kind``: *applied* (a rewrite was made), *missed* (it was not, and ``message`` says why), *analysis*
    (a fact), *failure* (a check failed: the edit was undone, or a file is not what one would expect).
    ``source`` is the pass or analysis, ``where`` the node, dim or tensor. ``metrics`` holds numbers in plain
    JSON types.
    """

    kind: RemarkKind
    source: str
    where: str
    message: str
    metrics: Mapping[str, float | int | str] = field(default_factory=dict[str, float | int | str], hash=False)

    def __str__(self) -> str:
        numbers = "".join(f" {key}={value}" for key, value in self.metrics.items())
        return f"{self.kind}: {self.source}: {self.where}: {self.message}{numbers}"

    def to_json(self) -> dict[str, Any]:
        """The remark as a JSON object with the fields' names as keys."""
        return {
            "kind": self.kind,
            "source": self.source,
            "where": self.where,
            "message": self.message,
            "metrics": dict(self.metrics),
        }
