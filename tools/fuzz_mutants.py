"""Damaged files, each made from a whole one by a kind of damage and a random generator."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Damage = Callable[[bytes, Random], bytes]

_NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    99,
    255,
    256,
    -(2**31),
    2**31 - 1,
    2**31,
    2**40,
    2**51,
    2**60,
    2**63 - 1,
    -(2**63),
)
_NAMES = (
    "",
    "image",
    "x",
    "w1",
    "w",
    "y",
    "logits",
    "Relu",
    "Conv",
    "If",
    "Loop",
    "a" * 5000,
    "é ✓",
    "a\nb",
    "..",
)
_FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e38, 1e-45, 0.5)
_ODD = "ODD_NAME_8f3a"
"""Stands in a string field for bytes that are not UTF-8, which protobuf does not take by itself."""


def flip_bits(data: bytes, rng: Random) -> bytes:
    """One to sixteen bits of the file are others."""
    damaged = bytearray(data)
    for _ in range(2 ** rng.randrange(5)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncate(data: bytes, rng: Random) -> bytes:
    """The file ends too early."""
    return data[: rng.randrange(len(data))]


def splice(data: bytes, rng: Random) -> bytes:
    """A piece of the file is repeated, gone, zeroed or noise elsewhere in it."""
    size = min(2 ** rng.randrange(12), len(data) // 2)
    source, target = (rng.randrange(len(data) - size) for _ in range(2))
    piece = data[source : source + size]
    how = rng.randrange(5)
    if how == 0:
        return data[:target] + piece + data[target:]
    if how == 1:
        return data[:target] + data[target + size :]
    filling = (piece, bytes(size), rng.randbytes(size))[how - 2]
    return data[:target] + filling + data[target + size :]


def edit_fields(data: bytes, rng: Random) -> bytes:
    """One to three fields of the protobuf message hold something else, and it is written again."""
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _edit(rng.choice(list(_messages(model))), rng)
    written = model.SerializeToString()
    return written.replace(_ODD.encode(), b"\xff\xfe\x80\xc3" + rng.randbytes(len(_ODD) - 4))


def edit_json(data: bytes, rng: Random) -> bytes:
    """One to three values of the JSON document are others, gone or twice there."""
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.choice([each for each in _places(document) if each])
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if rng.randrange(4) == 0:
            del place[key]
        elif isinstance(place, list) and rng.randrange(4) == 0:
            place.insert(key, deepcopy(place[key]))
        else:
            place[key] = _other_json(place[key], document, rng)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def edit_members(data: bytes, rng: Random) -> bytes:
    """One array of the ``.npz`` is damaged within a whole archive, or its name is."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    how = rng.randrange(5)
    if how == 0:
        members[rng.choice(("labels.npy", "x", "../x.npy", "image.npy", "é.npy"))] = members.pop(name)
    elif how == 1:
        del members[name]
    elif how == 2:  # the header: text that NumPy parses
        head = bytearray(members[name])
        for _ in range(rng.choice((1, 2, 4))):
            head[rng.randrange(6, min(len(head), 128))] = rng.randrange(256)
        members[name] = bytes(head)
    else:
        members[name] = rng.choice((flip_bits, truncate, splice))(members[name], rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    return stream.getvalue()


def _messages(message: Message) -> Iterator[Message]:
    """The message and all inside it that can be changed."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)


def _edit(message: Any, rng: Random) -> None:
    present = [field for field, _ in message.ListFields()]
    field = rng.choice(present if present and rng.randrange(5) else message.DESCRIPTOR.fields)
    if rng.randrange(5) == 0:
        message.ClearField(field.name)
    elif field.is_repeated:
        _edit_list(getattr(message, field.name), field, rng)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, field.name).SetInParent()
    else:
        _set(lambda value: setattr(message, field.name, value), getattr(message, field.name), field, rng)


def _edit_list(values: Any, field: FieldDescriptor, rng: Random) -> None:
    how = rng.randrange(4) if len(values) else 3
    at = rng.randrange(len(values)) if len(values) else 0
    if how == 0:
        del values[at]
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if how == 1:
            values.add().CopyFrom(values[at])
        elif how == 2:
            values[at].CopyFrom(values[rng.randrange(len(values))])
        else:
            values.add()
    elif how == 1:
        _set(lambda value: values.__setitem__(at, value), values[at], field, rng)
    else:
        _set(values.append, values[at] if len(values) else None, field, rng)


def _set(put: Callable[[Any], None], old: Any, field: FieldDescriptor, rng: Random) -> None:
    try:
        put(_other(old, field, rng))
    except (ValueError, TypeError):  # too large for the field, or no value of the enumeration: leave it
        return


def _other(old: Any, field: FieldDescriptor, rng: Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice((*_NAMES, _ODD, _ODD, _ODD, f"{old}0"))
    if field.type == FieldDescriptor.TYPE_BYTES:
        held = bytes(old or b"")
        return rng.choice((b"", held[:-1], held[: len(held) // 2], held + b"\0", held * 2, b"\xff\xfe"))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.randrange(25)
    return rng.choice((*_NUMBERS, (old or 0) + 1, (old or 0) - 1, -(old or 0), rng.randrange(30)))


def _places(value: Any) -> Iterator[Any]:
    """Every object and list of a JSON document."""
    if isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _places(inner)


def _other_json(old: Any, document: Any, rng: Random) -> Any:
    if rng.randrange(3) == 0:
        place = rng.choice([each for each in _places(document) if each])
        return deepcopy(rng.choice(list(place.values() if isinstance(place, dict) else place)))
    if isinstance(old, str) and rng.randrange(2):
        return rng.choice(
            (old[:-1], old + "x", "", "\ud800", *_NAMES, "1", "AAAA", "prune-channels{keep=0.5}")
        )
    if isinstance(old, (int, float)) and rng.randrange(2):
        return rng.choice((*_NUMBERS, *_FLOATS, old + 1, old - 1, -old, 10**400))
    return rng.choice((None, True, [], {}, "", "x", 0, -1, 1.5, [[]], [0], {"a": 1}, *_NUMBERS))


DAMAGES: dict[str, tuple[Damage, ...]] = {
    "onnx": (flip_bits, splice, truncate, edit_fields, edit_fields, edit_fields),
    "npz": (flip_bits, splice, truncate, edit_members, edit_members),
    "json": (flip_bits, splice, truncate, edit_json, edit_json, edit_json),
    "data": (flip_bits, splice, truncate),
}
"""Kind of file → what is done to it; one that is named twice is done twice as often."""
