"""TensorRT's log, kept instead of printed, and joined to the ONNX nodes that it speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from otgraph.remark import Remark, RemarkKind

KINDS: dict[str, RemarkKind] = {
    "INTERNAL_ERROR": "failure",
    "ERROR": "failure",
    "WARNING": "missed",
    "INFO": "analysis",
}

TELLING = re.compile(
    r"Total (Host|Device) Persistent|Max Scratch|Total Activation|Total Weights|Engine generation completed"
)
"""What of the INFO lines says something of the engine; the others repeat the model's header."""

HARMLESS = re.compile(r"^Make sure (in|out)put \S+ has Int64 binding")
"""Warnings that are none: int64 inputs and outputs are fed and read as int64 here."""

_WHOSE = re.compile(r"^I\w+::\w+: (Error Code \d+: )?")
"""The method that speaks, as in ``IRuntime::deserializeCudaEngine: Error Code 1:``."""

_PLACE = re.compile(r"^\[?\S+\.(cpp|h|cc)(:{1,2}\S*)?\]?:?\s*")
_WORD = re.compile(r"[A-Za-z0-9_./:\-]+")


@dataclass(frozen=True)
class Line:
    """One message with the name of its severity."""

    severity: str
    text: str


def make_log(trt: Any) -> tuple[Any, list[Line]]:
    """The logger of ``trt`` and the list that it fills from now on.

    There is one logger per module: TensorRT goes on with the first that it was given while anything made with
    it is alive, and ignores the others.
    """
    logger = _logger(trt)
    logger.lines = []
    return logger, logger.lines


@cache
def _logger(trt: Any) -> Any:
    class Collect(trt.ILogger):
        lines: list[Line]

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(Line(getattr(severity, "name", str(severity)), message))

    return Collect()


def remarks(lines: Iterable[Line], nodes: Sequence[str], source: str) -> tuple[Remark, ...]:
    """What the log has to say, under the names of the nodes it speaks of; each thing once, and of the INFO
    lines only those that say something of the engine."""
    known = frozenset(nodes)
    found: dict[Remark, None] = {}
    for line in lines:
        text = clean(line.text)
        kind = "analysis" if HARMLESS.match(text) else KINDS.get(line.severity)
        where = next((word for word in _words(text) if word in known), "")
        if kind is None or not text or (kind == "analysis" and not where and not TELLING.search(text)):
            continue
        found[Remark(kind, source, where or "engine", text)] = None
    return tuple(found)


def errors(lines: Iterable[Line]) -> list[str]:
    """The messages of the errors, in one line each, the first first."""
    return [clean(line.text) for line in lines if KINDS.get(line.severity) == "failure"]


def clean(text: str) -> str:
    """In one line, without the place in TensorRT's sources and without the method that speaks."""
    return _WHOSE.sub("", _PLACE.sub("", " ".join(text.split())))


def named_nodes(text: str, nodes: Iterable[str]) -> list[str]:
    """The nodes whose names occur in ``text``."""
    known = frozenset(nodes)
    return [word for word in dict.fromkeys(_words(text)) if word in known]


def _words(text: str) -> list[str]:
    return [word.rstrip(".:") for word in _WORD.findall(text)]
