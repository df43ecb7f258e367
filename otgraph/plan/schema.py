"""The published JSON schema of ``plan.json``, and what it and the plan's own rules say against a document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from itertools import pairwise
from typing import Any, cast

import jsonschema

from otgraph.errors import PlanError

VERSION = 3
"""The format of new plans. Version 1 had no depth, version 2 did not know samples; both read as they are."""


def plan_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a plan file."""
    return json.loads(files("otgraph.plan").joinpath("plan.schema.json").read_text(encoding="utf-8"))


def validate(document: object, where: str) -> Mapping[str, Any]:
    """``document`` when it is a plan of this version.

    Raises:
        PlanError: opens with ``where`` and the path of the field that is wrong.
    """
    if not isinstance(document, dict):
        raise PlanError(f"{where}: is no plan; a plan is a JSON object")
    plan = cast("dict[str, Any]", document)
    _check_version(plan.get("version"), where)
    library: Any = jsonschema  # its types are partly unknown
    validator = library.Draft202012Validator(plan_schema())
    error = library.exceptions.best_match(validator.iter_errors(plan))
    if error is not None:
        raise PlanError(f"{where}: {_describe(error)}")
    for at, dim in enumerate(cast("list[dict[str, Any]]", plan["dims"])):
        _check_kept(dim["kept"], dim["size"], f"{where}: dims[{at}].kept")
    return plan


def check_target(target: Iterable[int], kept: Iterable[int], where: str) -> None:
    """Channels go to kept channels or nowhere (-1), and a kept channel stays where it is."""
    allowed = set(kept)
    for channel, goal in enumerate(target):
        if goal != -1 and goal not in allowed:
            raise PlanError(f"{where}: channel {channel} goes to {goal}, which is not kept")
        if channel in allowed and goal != channel:
            raise PlanError(f"{where}: channel {channel} is kept but goes to {goal}")


def _check_version(version: object, where: str) -> None:
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        raise PlanError(
            f"{where}: has version {version}, this otgraph reads up to {VERSION};"
            " update otgraph or make a new plan"
        )


def _check_kept(kept: list[int], size: int, where: str) -> None:
    beyond = [index for index in kept if index >= size]
    if beyond:
        noun = "an index" if len(beyond) == 1 else f"{len(beyond)} indices"
        raise PlanError(f"{where}: has {noun} beyond the dim's size {size}")
    if any(a >= b for a, b in pairwise(kept)):
        raise PlanError(f"{where}: must ascend without repetition")


def _describe(error: Any) -> str:
    """One schema violation with its path, in the words of a user."""
    path = _path(error.absolute_path)
    if error.validator == "additionalProperties" and error.validator_value is False:
        extra = sorted(set(error.instance) - set(error.schema["properties"]))
        return f"unknown field {extra[0]!r} at {path or 'the top'}; remove it or make a new plan"
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"field {missing[0]!r} is missing at {path or 'the top'}; make a new plan"
    return f"{path}: {error.message}; make a new plan"


def _path(parts: Iterable[str | int]) -> str:
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text
