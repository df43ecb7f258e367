"""Copying a protobuf message but for some of its fields, whose data may be too large to hold twice."""

from __future__ import annotations

from typing import Any


def copy_fields(source: Any, target: Any, skip: set[str]) -> None:
    """Add to ``target`` what ``source``, a message of the same type, has, without the fields in ``skip``."""
    for field, value in source.ListFields():
        if field.name in skip:
            continue
        if field.is_repeated:
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
