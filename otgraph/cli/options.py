"""Arguments and options that several commands share, and reading those that are small languages."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otgraph.cli.lazy import data_sources
from otgraph.errors import UsageError
from otgraph.files import check_writable, is_same
from otgraph.seed import MAX_SEED

if TYPE_CHECKING:
    from otgraph.data import Data
    from otgraph.optimize.settings import Moves

MODEL_HELP = (
    "An .onnx file, a .pt2 exported program, or package.module:callable returning (module, example_inputs) "
    "or (module, example_inputs, kwargs)."
)
DATA_HELP = (
    "An .npz file (one array per input, first axis = samples, optional 'labels'), a folder of them, or "
    "package.module:callable that yields batches."
)

BUDGET = "Budget (give one)"
CHANGE = "What may change"
ENGINE = "Engine"
DATA = "Data"
OUTPUT = "Output"
THRESHOLDS = "Thresholds (exit code 1 when missed)"
EXPERT = "Expert"
"""The groups that ``--help`` shows options in."""


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
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT)
]
Calibration = Annotated[
    str,
    typer.Option(
        "--calib",
        metavar="DATA",
        help=f"Unlabeled inputs. {DATA_HELP}",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="The .onnx file to write; through a link, what it leads to.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=SIZES",
        help="Sizes of an input's axes, such as image=1,3,224,224.",
        rich_help_panel=DATA,
    ),
]
TaskOption = Annotated[
    Task,
    typer.Option(
        "--task",
        help="How the outputs are read: class scores (KL), values (relative L2), or by their look.",
        rich_help_panel=DATA,
    ),
]
Engine = Annotated[
    str,
    typer.Option("--engine", help="Where the model will run; see `otgraph engines`.", rich_help_panel=ENGINE),
]
AnyEngine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="What runs .onnx files, by default onnxruntime; see `otgraph engines`.",
        rich_help_panel=ENGINE,
    ),
]
CudaGraph = Annotated[
    bool,
    typer.Option(
        "--cuda-graph",
        help="Replay a captured CUDA graph (TensorRT), as a server would.",
        rich_help_panel=ENGINE,
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", min=1, help="Threads of the engine.", rich_help_panel=ENGINE)
]
Seed = Annotated[
    int,
    typer.Option("--seed", min=0, max=MAX_SEED, help="Of every random choice.", rich_help_panel=EXPERT),
]
Latency = Annotated[
    str | None,
    typer.Option(
        "--latency",
        metavar="0.6x|8ms",
        help="The latency to reach, relative to the original or absolute.",
        rich_help_panel=BUDGET,
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="0.75x|12",
        help="At most so many convolutions and matrix products on the longest path, relative or absolute.",
        rich_help_panel=BUDGET,
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        help="The output divergence to allow: KL for classifiers, relative L2 otherwise.",
        rich_help_panel=BUDGET,
    ),
]
Keep = Annotated[
    float | None,
    typer.Option(
        "--keep",
        help="The fraction of every prunable dim to keep, instead of a budget.",
        rich_help_panel=BUDGET,
    ),
]
DimsOption = Annotated[
    Dims,
    typer.Option(
        "--dims",
        help="all, or inner: leave out dims that run through a residual addition.",
        rich_help_panel=CHANGE,
    ),
]
DepthOnly = Annotated[
    bool,
    typer.Option(
        "--depth-only", help="Only delete, merge and linearize layers; cut no widths.", rich_help_panel=CHANGE
    ),
]
WidthOnly = Annotated[
    bool,
    typer.Option(
        "--width-only", help="Only cut widths; delete, merge and linearize no layers.", rich_help_panel=CHANGE
    ),
]
Criterion = Annotated[
    str | None,
    typer.Option(
        "--criterion",
        help="How the cost of removing a channel is estimated: see `otgraph passes annotate-width`.",
        rich_help_panel=EXPERT,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="PATTERN",
        help="Only cut dims with such names; * and ? are special.",
        rich_help_panel=CHANGE,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="PATTERN",
        help="Never cut dims with such names: see inspect --dims.",
        rich_help_panel=CHANGE,
    ),
]
Multiple = Annotated[
    int, typer.Option("--multiple", min=1, help="Widths are multiples of this.", rich_help_panel=EXPERT)
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        min=1,
        help="Use so many of the inputs, drawn with --seed; all by default.",
        rich_help_panel=DATA,
    ),
]
Refit = Annotated[
    bool,
    typer.Option(
        "--refit-all",
        help="Write the plan refitted on all inputs, once the figures are taken without some.",
        rich_help_panel=EXPERT,
    ),
]
Remarks = Annotated[
    bool, typer.Option("--remarks", help="Print every remark of the passes.", rich_help_panel=OUTPUT)
]

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


def read_moves(*, depth_only: bool, width_only: bool, keep: float | None, layers: str | None = None) -> Moves:
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
    found = data_sources.load_data(spec)
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

    ``inputs``: what the command reads, by the name of its parameter; a folder stands for the files in it, a
    model for those beside it that hold its weights, what names no file (``package.module:callable``) for
    nothing. Likewise an output stands for the file beside it that weights may go to.

    Raises:
        UsageError: an output is an input, by whatever spelling or link, or another output.
        OutputError: one cannot be written.
    """
    given = [path for path in paths if path is not None]
    for path in given:
        for each in (path, *_beside(path)):
            for name, spec in inputs.items():
                if spec is not None:
                    _check_kept(each, name, Path(spec), because="" if each is path else str(path))
        check_writable(path)
    if len({_folded(path) for path in given}) < len(given):
        raise UsageError(f"{', '.join(map(str, given))}: is one file for two outputs; give each its own name")


def _check_kept(output: Path, name: str, source: Path, because: str) -> None:
    """Raise ``UsageError`` where writing ``output`` would replace ``source`` or a file that goes with it."""
    goes = because and f", which the weights of {because} may be written to"
    if is_same(output, source):
        what = "the model itself" if name == "model" else f"what {_spelled(name)} reads"
        raise UsageError(f"{output}: is {what}{goes}; give another name")
    if output.exists() and any(is_same(output, each) for each in _files_of(source)):
        raise UsageError(f"{output}: is what {_spelled(name)} reads{goes}; give another name")


def _files_of(source: Path) -> Iterable[Path]:
    """The files that go with ``source``: those in a folder, those with the weights of a model."""
    if source.is_dir():
        return (each for each in source.iterdir() if each.is_file())
    if source.suffix == ".onnx" and source.is_file():
        from otgraph.engines.onnx_file import external_files  # noqa: PLC0415  (reads ONNX: not for --help)

        return external_files(source)
    return _beside(source)


def _beside(path: Path) -> tuple[Path, ...]:
    """Where the weights of a model that is ``path`` may lie, if not in it."""
    if path.suffix == ".onnx":
        return (path.with_name(f"{path.name}.data"),)
    return (path.with_suffix(".bin"),) if path.suffix == ".xml" else ()


def _folded(path: Path) -> str:
    """One text for all spellings of ``path``: some file systems do not tell upper case from lower case, nor
    one way to write an accent from another."""
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()


def _spelled(name: str) -> str:
    """An argument in the help's capitals, an option with its dashes."""
    return {"a": "A", "b": "B", "model": "MODEL", "plan_file": "PLAN"}.get(
        name
    ) or f"--{name.replace('_', '-')}"
