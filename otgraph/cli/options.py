"""Arguments and options that several commands share, and reading those that are small languages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from otgraph.data import Data
from otgraph.data_sources import load_data
from otgraph.errors import UsageError
from otgraph.files import check_writable

MODEL_HELP = (
    "An .onnx file, a .pt2 exported program, or package.module:callable returning (module, example_inputs)."
)
DATA_HELP = (
    "An .npz file (one array per input, first axis = samples, optional 'labels'), a folder of them, or "
    "package.module:callable that yields batches."
)


class Dims(StrEnum):
    """Which dims may shrink."""

    ALL = "all"
    INNER = "inner"


class Task(StrEnum):
    """How the outputs are read."""

    AUTO = "auto"
    CLASSIFIER = "classifier"
    REGRESSION = "regression"


Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Calibration = Annotated[
    str, typer.Option("--calib", metavar="DATA", help=f"Unlabeled inputs. {DATA_HELP}", show_default=False)
]
Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="The .onnx file to write; through a link, what it leads to.",
        show_default=False,
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="NAME=SIZES", help="Sizes of an input's axes, such as image=1,3,224,224."
    ),
]
TaskOption = Annotated[
    Task,
    typer.Option(
        "--task", help="How the outputs are read: class scores (KL), values (relative L2), or by their look."
    ),
]
Engine = Annotated[str, typer.Option("--engine", help="Where the model will run; see `otgraph engines`.")]
AnyEngine = Annotated[
    str | None,
    typer.Option("--engine", help="What runs .onnx files, by default onnxruntime; see `otgraph engines`."),
]
CudaGraph = Annotated[
    bool, typer.Option("--cuda-graph", help="Replay a captured CUDA graph (TensorRT), as a server would.")
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of the engine.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
Latency = Annotated[
    str | None,
    typer.Option(
        "--latency", metavar="0.6x|8ms", help="The latency to reach, relative to the original or absolute."
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="0.75x|12",
        help="At most so many convolutions and matrix products on the longest path, relative or absolute.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop", help="The output divergence to allow: KL for classifiers, relative L2 otherwise."
    ),
]
Keep = Annotated[
    float | None,
    typer.Option("--keep", help="The fraction of every prunable dim to keep, instead of a budget."),
]
DimsOption = Annotated[
    Dims, typer.Option("--dims", help="all, or inner: leave out dims that run through a residual addition.")
]
DepthOnly = Annotated[
    bool, typer.Option("--depth-only", help="Only delete, merge and linearize layers; cut no widths.")
]
WidthOnly = Annotated[
    bool, typer.Option("--width-only", help="Only cut widths; delete, merge and linearize no layers.")
]
Criterion = Annotated[
    str | None,
    typer.Option(
        "--criterion",
        help="How the cost of removing a channel is estimated: see `otgraph passes annotate-width`.",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="PATTERN", help="Only cut dims with such names; * and ? are special."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="Never cut dims with such names: see inspect --dims."),
]
Multiple = Annotated[int, typer.Option("--multiple", min=1, help="Widths are multiples of this.")]
Samples = Annotated[
    int | None,
    typer.Option("--samples", min=1, help="Use so many of the inputs, drawn with --seed; all by default."),
]
Refit = Annotated[
    bool,
    typer.Option(
        "--refit-all", help="Write the plan refitted on all inputs, once the figures are taken without some."
    ),
]
Remarks = Annotated[bool, typer.Option("--remarks", help="Print every remark of the passes.")]

_SHAPE = re.compile(r"(?P<name>[^=]+)=(?P<sizes>[1-9][0-9]*(,[1-9][0-9]*)*)")


def read_shapes(texts: list[str] | None, flag: str = "--shape") -> dict[str, tuple[int, ...]]:
    """``["image=1,3,224,224"]`` → ``{"image": (1, 3, 224, 224)}``.

    Raises:
        UsageError: a text has another form, or an input is given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise UsageError(f"{flag} {text}: write the input's name and sizes, such as image=1,3,224,224")
        if match["name"] in shapes:
            raise UsageError(f"{flag} {text}: {match['name']} is given twice; keep one")
        shapes[match["name"]] = tuple(int(size) for size in match["sizes"].split(","))
    return shapes


def read_moves(*, depth_only: bool, width_only: bool, keep: float | None, layers: str | None = None) -> str:
    """What ``--depth-only`` and ``--width-only`` leave to the planner.

    Raises:
        UsageError: both are given, or --depth-only with --keep, or --width-only with --layers.
    """
    if depth_only and width_only:
        raise UsageError("--depth-only and --width-only: exclude each other; give one, or none to use both")
    if depth_only and keep is not None:
        raise UsageError(
            "--depth-only: a fraction to --keep says nothing of layers; give --latency, --layers or"
            " --max-drop instead"
        )
    if width_only and layers is not None:
        raise UsageError(
            "--width-only: narrower layers are not fewer; leave it out, or give --latency instead"
        )
    if depth_only:
        return "depth"
    return "width" if width_only else "both"


def read_calibration(spec: str, samples: int | None, seed: int) -> Data:
    """The inputs that ``spec`` names, or ``samples`` of them."""
    found = load_data(spec)
    return found if samples is None else found.take(samples, seed)


def check_model_output(path: Path, **inputs: str | Path | None) -> None:
    """``check_outputs`` of a file that a model is written to.

    Raises:
        UsageError: it is not called ``.onnx``. And as ``check_outputs``.
    """
    if path.suffix != ".onnx":
        raise UsageError(f"{path}: models are written as ONNX; give a name that ends in .onnx")
    check_outputs(path, **inputs)


def check_outputs(*paths: Path | None, **inputs: str | Path | None) -> None:
    """Refuse, before any work, what cannot be written, one file for two things, and what is read.

    ``inputs``: what the command reads, by the name of its parameter; a folder stands for the files in it,
    what names no file (``package.module:callable``) for nothing.

    Raises:
        UsageError: an output is an input, by whatever spelling or link, or another output.
        OutputError: one cannot be written.
    """
    given = [path for path in paths if path is not None]
    for path in given:
        for name, spec in inputs.items():
            if spec is not None and _is_read(path, Path(spec)):
                what = "the model itself" if name == "model" else f"what {_spelled(name)} reads"
                raise UsageError(f"{path}: is {what}; give another name")
        check_writable(path)
    if len({os.path.realpath(path) for path in given}) < len(given):
        raise UsageError(f"{', '.join(map(str, given))}: is one file for two outputs; give each its own name")


def _is_read(output: Path, source: Path) -> bool:
    """Whether writing ``output`` would replace ``source`` or, if that is a folder, a file in it."""
    try:
        if os.path.realpath(output) == os.path.realpath(source):
            return True
        if not (output.exists() and source.exists()):
            return False  # what is not there yet cannot be lost
        return any(output.samefile(each) for each in (source, *_children(source)))
    except OSError:
        return False  # it cannot be opened: who reads or writes it says so


def _children(folder: Path) -> Iterator[Path]:
    return (each for each in (folder.iterdir() if folder.is_dir() else ()) if each.is_file())


def _spelled(name: str) -> str:
    """An argument in the help's capitals, an option with its dashes."""
    return {"a": "A", "b": "B", "plan_file": "PLAN"}.get(name) or f"--{name.replace('_', '-')}"
