"""What an engine is told when it builds an artifact, and what it says of the one that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otgraph.errors import UsageError
from otgraph.remark import Remark


@dataclass(frozen=True)
class ShapeRange:
    """The shapes an input may have: smallest, the one to optimize for, and largest; sizes of all axes."""

    low: tuple[int, ...]
    usual: tuple[int, ...]
    high: tuple[int, ...]

    def __post_init__(self) -> None:
        texts = [",".join(map(str, each)) for each in (self.low, self.usual, self.high)]
        if not len(self.low) == len(self.usual) == len(self.high):
            raise UsageError(f"shapes {' '.join(texts)}: have different numbers of axes; give them alike")
        if not all(a <= b <= c for a, b, c in zip(self.low, self.usual, self.high, strict=True)):
            raise UsageError(f"shapes {' '.join(texts)}: are not in ascending order; give min, opt, max")

    @property
    def fixed(self) -> bool:
        """There is but one shape."""
        return self.low == self.high


@dataclass(frozen=True)
class BuildOptions:
    """``shapes``: of inputs with dynamic axes, by name. ``compute_capabilities``: of the GPUs to build for,
    times ten (86). ``tf32``: float32 products may be rounded to 10 bits of mantissa. ``timing_cache``: a file
    that keeps the timings of a build for the next one. An engine refuses what it cannot follow."""

    threads: int = 1
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict[str, ShapeRange])
    compute_capabilities: tuple[int, ...] = ()
    tf32: bool = False
    timing_cache: Path | None = None

    def refuse(self, engine: str, *names: str) -> None:
        """Raise ``UsageError`` where one of the options ``names`` was given to an engine that has no use
        for it."""
        default = BuildOptions()
        for name in names:
            if getattr(self, name) != getattr(default, name):
                raise UsageError(f"engine '{engine}': has no use for {_FLAGS[name]}; leave it out")


_FLAGS = {
    "threads": "--threads",
    "shapes": "--shape, --min-shape, --opt-shape or --max-shape",
    "compute_capabilities": "--compute-capability",
    "tf32": "--precision tf32",
    "timing_cache": "--timing-cache",
}


@dataclass(frozen=True)
class Layer:
    """One layer as the engine sees it; ``nodes`` are the ONNX nodes that it was made of."""

    name: str
    kind: str
    nodes: tuple[str, ...] = ()
    dtype: str = ""
    shape: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return {**vars(self), "nodes": list(self.nodes), "shape": list(self.shape)}


@dataclass(frozen=True)
class Built:
    """``seconds`` the build took, ``files`` written (the first is the one to load), and what was remarked.

    ``layers``: those of the network that the engine read. ``engine_layers``: those it runs, after its own
    fusions, or None with a remark where they cannot be listed on this machine.
    """

    seconds: float
    files: tuple[Path, ...]
    layers: tuple[Layer, ...] = ()
    engine_layers: tuple[Layer, ...] | None = None
    remarks: tuple[Remark, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.stat().st_size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "seconds": self.seconds,
            "files": [str(file) for file in self.files],
            "bytes": self.bytes,
            "layers": len(self.layers) or None,
            "engine_layers": None if self.engine_layers is None else len(self.engine_layers),
            "remarks": [remark.to_json() for remark in self.remarks],
        }

    def tables(self) -> dict[str, Any]:
        """Both layer tables as plain JSON values."""
        engine = self.engine_layers
        return {
            "network": [layer.to_json() for layer in self.layers],
            "engine": None if engine is None else [layer.to_json() for layer in engine],
        }
