"""The manual page of a pass, read from its docstring."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from otgraph.rewrite.contract import Pass
from otgraph.rewrite.options import default_options, describe_type

SECTIONS = ("What it does", "When it applies", "Exactness", "Before and after", "Remarks", "Options")

_HEADING = re.compile(rf"^({'|'.join(SECTIONS)}):?$")


@dataclass(frozen=True)
class OptionPage:
    """One option: how it is written, its type in words, its default as text (None when it must be given)."""

    name: str
    type: str
    default: str | None


@dataclass(frozen=True)
class Page:
    """``sections`` maps each of ``SECTIONS`` that the docstring has to its text, indentation removed."""

    name: str
    kind: str
    exactness: str
    summary: str
    sections: Mapping[str, str]
    options: tuple[OptionPage, ...]


def manual_page(kind: type[Pass]) -> Page:
    """Read the page of a pass class."""
    lines = inspect.getdoc(kind)
    summary: list[str] = []
    sections: dict[str, list[str]] = {}
    into = summary
    for line in (lines or "").splitlines():
        heading = _HEADING.match(line.strip("*#` "))
        if heading is not None and not line.startswith(" "):
            into = sections.setdefault(heading.group(1), [])
        else:
            into.append(line)
    return Page(
        name=kind.name,
        kind=kind.kind,
        exactness=kind.exactness.value,
        summary=" ".join("\n".join(summary).split()),
        sections={
            title: inspect.cleandoc("\n" + "\n".join(text)).strip() for title, text in sections.items()
        },
        options=_options(kind),
    )


def _options(kind: type[Pass]) -> tuple[OptionPage, ...]:
    hints = typing.get_type_hints(kind)
    return tuple(
        OptionPage(name, describe_type(hints[name.replace("-", "_")]), default)
        for name, default in default_options(kind).items()
    )
