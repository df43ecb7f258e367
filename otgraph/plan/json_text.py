"""JSON that a person can review: what fits on a line is on one, and long lists of numbers are wrapped."""

from __future__ import annotations

import json
import textwrap
from typing import Any, cast

_WIDTH = 100


def dumps(value: Any, indent: str = "") -> str:
    """``value`` as JSON text; what fits on a line is on one line. NaN and infinities raise ``ValueError``."""
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(indent) + len(flat) <= _WIDTH or not isinstance(value, (dict, list)) or not value:
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        items = [
            f"{inner}{json.dumps(key, ensure_ascii=False)}: {dumps(item, inner)}"
            for key, item in cast("dict[str, Any]", value).items()
        ]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    entries = cast("list[Any]", value)
    if all(isinstance(entry, (int, float)) for entry in entries):
        lines = textwrap.wrap(flat[1:-1], _WIDTH, initial_indent=inner, subsequent_indent=inner)
        return "[\n" + "\n".join(lines) + f"\n{indent}]"
    return "[\n" + ",\n".join(inner + dumps(entry, inner) for entry in entries) + f"\n{indent}]"
