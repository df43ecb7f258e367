"""The passes and named pipelines that are installed, found by entry points and imported when used."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import cast

from otgraph.errors import PipelineError
from otgraph.rewrite.contract import Pass

PASSES = "otgraph.passes"
PIPELINES = "otgraph.pipelines"


class Catalog(Mapping[str, type[Pass]]):
    """Pass name → class. Holds ``module:Class`` texts and imports a class when it is first asked for."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> type[Pass]:
        return _import_pass(name, self._places[name])

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def load_catalog() -> Catalog:
    """Every installed pass, from the entry point group ``otgraph.passes``.

    Raises:
        PipelineError: two packages use one name, or an entry point does not import.
    """
    return Catalog(merge(_installed(PASSES)))


def load_pipelines() -> dict[str, str]:
    """Every named pipeline as text, from the entry point group ``otgraph.pipelines``."""
    return merge(_installed(PIPELINES))


def merge(sources: Iterable[tuple[str, Mapping[str, str]]]) -> dict[str, str]:
    """One mapping of several, each given with the name of who provides it; a name twice is an error."""
    merged: dict[str, str] = {}
    owner: dict[str, str] = {}
    for source, mapping in sources:
        for name, value in mapping.items():
            if name in merged:
                raise PipelineError(
                    f"'{name}' is provided by both {owner[name]} and {source}; uninstall one or rename it"
                )
            merged[name], owner[name] = value, source
    return merged


def _installed(group: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    for point in entry_points(group=group):
        try:
            yield point.value, point.load()
        except (ImportError, AttributeError) as error:
            raise PipelineError(f"entry point {point.value} of {group} does not load ({error})") from error


def _import_pass(name: str, place: str) -> type[Pass]:
    module, _, attribute = place.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PipelineError(f"pass {name}: {place} does not load ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Pass) and dataclasses.is_dataclass(found)):
        raise PipelineError(f"pass {name}: {place} is no frozen dataclass derived from Pass")
    kind = cast("type[Pass]", found)
    if kind.name != name:
        raise PipelineError(f"pass {name}: {place} calls itself {kind.name}; correct the catalog")
    return kind
