"""Optimization profiles: which shapes an engine is built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from otgraph.engines.artifact import ShapeRange
from otgraph.engines.tensorrt.network import shape_of
from otgraph.errors import UsageError
from otgraph.remark import Remark

Sizes = Mapping[str, tuple[int, ...]]


def add_profile(
    builder: Any,
    config: Any,
    network: Any,
    shapes: Mapping[str, ShapeRange],
    names: Sequence[str],
    source: str,
) -> tuple[Remark, ...]:
    """One profile for all dynamic inputs. A dynamic first axis without a range is taken as a batch of one.

    ``names``: of the inputs as the model has them. Raises ``UsageError`` where a size is missing or wrong.
    """
    inputs = {each.name: shape_of(each) for each in map(network.get_input, range(network.num_inputs))}
    unknown = sorted(set(shapes) - set(names))
    if unknown:
        raise UsageError(f"shape of {unknown[0]!r}: the model has no such input (it has {', '.join(names)})")
    profile, said = builder.create_optimization_profile(), []
    for name, sizes in inputs.items():
        given = shapes.get(name)
        if given is not None:
            check_fit(name, sizes, given)
        if -1 not in sizes:
            continue
        span = given or batch_of_one(name, sizes)
        profile.set_shape(name, span.low, span.usual, span.high)
        if given is None:
            message = (
                "is dynamic and built for a batch of 1; say more with --min-shape, --opt-shape, --max-shape"
            )
            said.append(Remark("analysis", source, name, message))
    if any(-1 in sizes for sizes in inputs.values()):
        config.add_optimization_profile(profile)
    return tuple(said)


def batch_of_one(name: str, sizes: tuple[int, ...]) -> ShapeRange:
    """The only range that can be guessed: where just the first axis is dynamic.

    Raises:
        UsageError: others are dynamic too.
    """
    if -1 in sizes[1:]:
        shown = ",".join("?" if size < 0 else str(size) for size in sizes)
        raise UsageError(
            f"input {name!r}: is {shown}, with more dynamic axes than the first; give their sizes with"
            " --shape, or --min-shape, --opt-shape and --max-shape"
        )
    one = (1, *sizes[1:])
    return ShapeRange(one, one, one)


def check_fit(name: str, sizes: tuple[int, ...], given: ShapeRange) -> None:
    """Raise ``UsageError`` where the range contradicts the model's fixed axes."""
    for shape in (given.low, given.usual, given.high):
        fits = len(shape) == len(sizes) and all(
            want in (-1, have) for want, have in zip(sizes, shape, strict=True)
        )
        if not fits:
            shown = ",".join("?" if size < 0 else str(size) for size in sizes)
            text = ",".join(map(str, shape))
            raise UsageError(f"shape {name}={text}: does not fit the model's {shown}; mend the option")
