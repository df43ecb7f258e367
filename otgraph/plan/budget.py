"""``Budget``: what the user asked for: a latency, a depth, a limit on the damage, or a fraction to keep."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from otgraph.errors import UsageError

Kind = Literal["ratio", "time", "layers", "damage", "keep"]

_LATENCY = re.compile(r"(?P<number>[0-9.eE+-]+) ?(?P<unit>x|us|ms|s)")
_LAYERS = re.compile(r"(?P<number>[0-9.eE+-]+) ?(?P<unit>x?)")
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_OPTION: dict[Kind, str] = {
    "ratio": "latency",
    "time": "latency",
    "layers": "layers",
    "damage": "max-drop",
    "keep": "keep",
}
_SUFFIX: dict[Kind, str] = {"ratio": "x", "time": "ms", "layers": "", "damage": "", "keep": ""}
_EXAMPLES = "latency (0.6x or 8ms), layers (0.75x or 12), max-drop (0.01) or keep (0.5)"


@dataclass(frozen=True)
class Budget:
    """One of five goals.

    ``kind`` says what ``value`` is: *ratio* a fraction of the original's measured latency, *time* a latency
    in milliseconds, *layers* how many compute layers (convolutions, matrix products and their like) the
    longest path may have, or where ``relative`` the fraction of the original's, *damage* the largest
    divergence of the output (KL for classifiers, relative L2 otherwise), *keep* the fraction of every
    prunable dim. ``str()`` gives the option and its text, and ``parse`` reads it back.
    """

    kind: Kind
    value: float
    relative: bool = False

    def __str__(self) -> str:
        suffix = "x" if self.relative else _SUFFIX[self.kind]
        return f"{_OPTION[self.kind]} {_shortest(self.value)}{suffix}"

    def ratio(self, original_ms: float) -> float | None:
        """The latency to reach as a fraction of ``original_ms``; None for a budget that states no latency."""
        if self.kind == "ratio":
            return self.value
        return self.value / original_ms if self.kind == "time" else None

    def layers(self, original: int) -> int | None:
        """How many compute layers the longest path may have, of the ``original`` number: the fraction rounded
        down, and one at least; None for a budget that states no layers."""
        if self.kind != "layers":
            return None
        return max(1, math.floor(self.value * original + 1e-9)) if self.relative else int(self.value)

    @staticmethod
    def parse(text: str) -> Budget:
        """Read what ``str()`` writes: ``latency 0.6x``, ``latency 8ms``, ``layers 0.75x``, ``layers 12``,
        ``max-drop 0.01`` or ``keep 0.5``.

        Raises:
            UsageError: the text is none of these.
        """
        option, _, value = text.partition(" ")
        match option:
            case "latency":
                return parse_latency(value)
            case "layers":
                return parse_layers(value)
            case "max-drop":
                return parse_max_drop(value)
            case "keep":
                return parse_keep(value)
            case _:
                raise UsageError(
                    f"budget {text!r}: write 'latency 0.6x', 'latency 8ms', 'layers 0.75x', 'layers 12',"
                    " 'max-drop 0.01' or 'keep 0.5'"
                )


def make_budget(
    latency: str | None = None,
    max_drop: float | str | None = None,
    keep: float | str | None = None,
    layers: str | int | None = None,
) -> Budget:
    """The budget of the options ``--latency``, ``--layers``, ``--max-drop`` and ``--keep``, of which exactly
    one is given.

    Raises:
        UsageError: none or several are given, or the value cannot be used.
    """
    given = {"latency": latency, "layers": layers, "max-drop": max_drop, "keep": keep}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        found = "none was given" if not named else f"{' and '.join(named)} were given"
        raise UsageError(f"budget: {found}; give exactly one of {_EXAMPLES}")
    if latency is not None:
        return parse_latency(latency)
    if layers is not None:
        return parse_layers(layers)
    return parse_max_drop(max_drop) if max_drop is not None else parse_keep(keep if keep is not None else "")


def parse_latency(text: str) -> Budget:
    """A latency: ``0.6x`` of the original's, or a time such as ``8ms`` (also ``us`` and ``s``)."""
    match = _LATENCY.fullmatch(text.strip())
    number = _number(match["number"]) if match else None
    if match is None or number is None:
        raise UsageError(f"latency {text!r}: write a ratio such as 0.6x or a time such as 8ms")
    if match["unit"] == "x":
        if not 0 < number <= 1:
            raise UsageError(
                f"latency {text!r}: the ratio is of the original's latency and lies between 0 and 1;"
                " write for example 0.6x"
            )
        return Budget("ratio", number)
    if number <= 0:
        raise UsageError(f"latency {text!r}: a time is more than zero; write for example 8ms")
    return Budget("time", number * _MILLISECONDS[match["unit"]])


def parse_layers(text: str | int) -> Budget:
    """Compute layers on the longest path: ``0.75x`` of the original's, or a number such as ``12``."""
    match = _LAYERS.fullmatch(str(text).strip())
    number = _number(match["number"]) if match else None
    if match is None or number is None:
        raise UsageError(f"layers {str(text)!r}: write a ratio such as 0.75x or a number such as 12")
    relative = match["unit"] == "x"
    if relative and not 0 < number <= 1:
        raise UsageError(
            f"layers {str(text)!r}: the ratio is of the original's layers and lies between 0 and 1;"
            " write for example 0.75x"
        )
    if not relative and (number < 1 or number != int(number)):
        raise UsageError(
            f"layers {str(text)!r}: a number of layers is whole and at least 1; write for example 12, or"
            " 0.75x for a ratio"
        )
    return Budget("layers", number, relative)


def parse_max_drop(text: float | str) -> Budget:
    """A limit on the damage, in units of output divergence."""
    number = _number(text)
    if number is None or number < 0:
        raise UsageError(
            f"max-drop {str(text)!r}: write the largest output divergence to allow as a number such as 0.01"
            " (KL for classifiers, relative L2 otherwise)"
        )
    return Budget("damage", number)


def parse_keep(text: float | str) -> Budget:
    """The fraction of every prunable dim to keep."""
    number = _number(text)
    if number is None or not 0 < number <= 1:
        raise UsageError(
            f"keep {str(text)!r}: write the fraction of channels to keep, between 0 and 1, such as 0.5"
        )
    return Budget("keep", number)


def _number(text: float | str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _shortest(value: float) -> str:
    """The shortest text that reads back as the same float, without a trailing ``.0``."""
    return repr(float(value)).removesuffix(".0")
