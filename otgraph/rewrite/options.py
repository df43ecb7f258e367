"""Options of a pass as text: ``{keep=0.5 dims=inner names=[a,b]}`` ⇄ the fields of a frozen dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from typing import Any, cast

_BARE = re.compile(r"[^\s,={}\[\]\"]+")
"""A value that needs no quotes."""


@dataclasses.dataclass(frozen=True)
class Word:
    """One scalar as it was written; quotes make a text of what would otherwise be ``none``."""

    text: str
    quoted: bool = False

    def __str__(self) -> str:
        return f'"{self.text}"' if self.quoted else self.text


Written = Word | tuple[Word, ...]


def format_options(instance: Any) -> str:
    """``{a=1 b=[x,y]}`` with the fields that differ from their defaults, or nothing."""
    shown = [
        f"{name}={_format_value(getattr(instance, name.replace('-', '_')))}"
        for name in changed_options(instance)
    ]
    return "{" + " ".join(shown) + "}" if shown else ""


def changed_options(instance: Any) -> tuple[str, ...]:
    """The options of a pass that differ from their defaults, as they are written."""
    return tuple(
        field.name.replace("_", "-")
        for field in dataclasses.fields(instance)
        if getattr(instance, field.name) != _default(field)
    )


def default_options(kind: type) -> dict[str, str | None]:
    """Each option of a pass class with its default, both as they are written; None where it has none."""
    values = {field.name.replace("_", "-"): _default(field) for field in dataclasses.fields(kind)}
    return {
        name: None if value is dataclasses.MISSING else _format_value(value) for name, value in values.items()
    }


def option_names(kind: type) -> tuple[str, ...]:
    """The options of a pass class, as they are written."""
    return tuple(field.name.replace("_", "-") for field in dataclasses.fields(kind))


def required_options(kind: type) -> tuple[str, ...]:
    """The options that have no default."""
    return tuple(
        f.name.replace("_", "-") for f in dataclasses.fields(kind) if _default(f) is dataclasses.MISSING
    )


def read_option(kind: type, name: str, written: Written) -> Any:
    """The value of option ``name`` in the type that its field declares.

    Raises:
        ValueError: the text does not fit the type; the message says what would.
    """
    return _read(typing.get_type_hints(kind)[name.replace("-", "_")], written)


def describe_type(annotation: Any) -> str:
    """An option's type in words: ``a number``, ``one of all, inner``, ``a list of texts``."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if part is types.NoneType else describe_type(part) for part in parts)
    if origin is tuple:
        return f"a list, each {describe_type(parts[0])}"
    return _WORDS.get(annotation, str(annotation))


def suggest(word: str, known: typing.Iterable[str]) -> str:
    """``did you mean 'x'?`` or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"there is: {', '.join(names)}" if names else "it takes none"


_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _read(annotation: Any, written: Written) -> Any:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _read_union(annotation, parts, written)
    if origin is tuple:
        if isinstance(written, Word):
            raise ValueError(f"is {describe_type(annotation)}, written [a,b]; not {written}")
        return tuple(_read(parts[0], word) for word in written)
    if not isinstance(written, Word):
        raise ValueError(f"is {describe_type(annotation)}, not a list")
    if origin is typing.Literal:
        for choice in parts:
            if str(choice) == written.text:
                return choice
        raise ValueError(
            f"is {describe_type(annotation)}, not {written}; {suggest(written.text, map(str, parts))}"
        )
    return _read_scalar(annotation, written)


def _read_union(annotation: Any, parts: tuple[Any, ...], written: Written) -> Any:
    if types.NoneType in parts and written == Word("none"):
        return None
    for part in parts:
        if part is not types.NoneType:
            try:
                return _read(part, written)
            except ValueError:
                continue
    shown = "a list" if isinstance(written, tuple) else str(written)
    raise ValueError(f"is {describe_type(annotation)}, not {shown}")


def _read_scalar(annotation: Any, word: Word) -> Any:
    if annotation is str:
        return word.text
    if annotation is bool and word.text in ("true", "false") and not word.quoted:
        return word.text == "true"
    if annotation in (int, float) and not word.quoted:
        try:
            return annotation(word.text)
        except ValueError:
            pass
    raise ValueError(f"is {describe_type(annotation)}, not {word}")


def _format_value(value: Any) -> str:
    if isinstance(value, tuple):
        items = cast("tuple[Any, ...]", value)
        return "[" + ",".join(_format_value(item) for item in items) + "]"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _format_text(value)
    return repr(value)


def _format_text(text: str) -> str:
    if _BARE.fullmatch(text) and text != "none" and "\\" not in text:
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
