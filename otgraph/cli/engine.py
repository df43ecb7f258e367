"""``otgraph engines``, ``build`` and ``bench``: what can run here, engine artifacts, and their latency."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from otgraph.cli import options as opt
from otgraph.cli.describe import describe_data
from otgraph.cli.lazy import artifact, catalog, data_sources, measurer_of, quantities
from otgraph.cli.output import Output, plain_table, progress
from otgraph.errors import UsageError
from otgraph.files import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from otgraph.engines.artifact import ShapeRange


class Precision(StrEnum):
    """What the artifact computes in."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    INT8 = "int8"


Artifact = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="The artifact to write.",
        show_default=False,
        rich_help_panel=opt.OUTPUT,
    ),
]
ModelOrArtifact = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...", help=f"{opt.MODEL_HELP} Or what `otgraph build` wrote.", show_default=False
    ),
]
Inputs = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Inputs to time with, the first sample; made up by default.",
        rich_help_panel=opt.DATA,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="fp32; tf32: products may be rounded as NVIDIA GPUs do it; fp16, best with "
        "--calib; int8, which needs it.",
        rich_help_panel=opt.ENGINE,
    ),
]
Capabilities = Annotated[
    str | None,
    typer.Option(
        "--compute-capability",
        metavar="86,89,120",
        help="GPUs to build for (tensorrt-rtx).",
        rich_help_panel=opt.ENGINE,
    ),
]
MinShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--min-shape",
        metavar="NAME=SIZES",
        help="The smallest sizes of a dynamic input.",
        rich_help_panel=opt.DATA,
    ),
]
OptShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--opt-shape", metavar="NAME=SIZES", help="The sizes to optimize for.", rich_help_panel=opt.DATA
    ),
]
MaxShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--max-shape",
        metavar="NAME=SIZES",
        help="The largest sizes of a dynamic input.",
        rich_help_panel=opt.DATA,
    ),
]
BuildCalibration = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="Unlabeled inputs: int8 finds ranges on them, fp16 what overflows. " + opt.DATA_HELP,
        rich_help_panel=opt.DATA,
    ),
]
TimingCache = Annotated[
    Path | None,
    typer.Option(
        "--timing-cache",
        metavar="FILE",
        help="Keep TensorRT's timings between builds.",
        rich_help_panel=opt.EXPERT,
    ),
]
Layers = Annotated[
    Path | None,
    typer.Option(
        "--layers",
        metavar="FILE",
        help="Also write the layers, with their ONNX nodes, as JSON.",
        rich_help_panel=opt.OUTPUT,
    ),
]


def engines(*, json: opt.Json = False) -> None:
    """List the engines, which of them run and build on this machine, and why the others do not.

    Example: otgraph engines
    """
    out = Output(json)
    found = catalog.survey()
    table = plain_table("engine", "runs here", "builds here", "")
    for each in found:
        version, device = each.device.get("version", ""), each.device.get("device", "")
        about = ", ".join(filter(None, (version, device))) if each.runs is None else each.runs
        table.add_row(each.name, _yes(each.runs), _yes(each.builds), Text(about))
    out.say(table)
    out.result({"command": "engines", "engines": [each.to_json() for each in found]})


def build(
    *,
    model: opt.Model,
    output: Artifact,
    engine: opt.Engine = "onnxruntime",
    precision: PrecisionOption = Precision.FP32,
    calib: BuildCalibration = None,
    samples: opt.Samples = None,
    compute_capability: Capabilities = None,
    shape: opt.Shapes = None,
    min_shape: MinShapes = None,
    opt_shape: OptShapes = None,
    max_shape: MaxShapes = None,
    timing_cache: TimingCache = None,
    layers: Layers = None,
    threads: opt.Threads = 1,
    remarks: opt.Remarks = False,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Write what ENGINE loads to run MODEL.

    Example: otgraph build net.onnx --engine tensorrt-rtx --precision fp16 --compute-capability 86,89 -o net.engine
    """  # noqa: E501  (help shows it as one line)
    opt.check_outputs(output, layers, timing_cache, model=model, calib=calib)
    options = artifact.BuildOptions(
        threads=threads,
        shapes=read_ranges(shape, min_shape, opt_shape, max_shape),
        compute_capabilities=read_capabilities(compute_capability),
        tf32=precision is Precision.TF32,
        timing_cache=timing_cache,
    )
    out = Output(json)
    calibration = None if calib is None else opt.read_calibration(calib, samples, seed)
    if calibration is not None:
        out.say(describe_data("calib", calibration, samples))
    weights = Precision.FP32 if precision is Precision.TF32 else precision
    with progress() as show:
        show(f"building for {engine}")
        built = measurer_of([model]).build(
            model,
            output,
            engine=engine,
            options=options,
            precision=weights.value,
            calibration=calibration,
        )
    if layers is not None:
        write_json(layers, built.tables())
    out.remarks(built.remarks if remarks else [each for each in built.remarks if each.kind != "analysis"])
    counted = f", {len(built.layers)} layers" if built.layers else ""
    out.say(f"wrote {output} ({quantities.amount(built.bytes, 'B')}{counted}) in {built.seconds:.1f} s")
    document = {"command": "build", "output": str(output), "engine": engine, "precision": precision.value}
    out.result({**document, **built.to_json()})


def bench(
    *,
    model: ModelOrArtifact,
    data: Inputs = None,
    engine: opt.AnyEngine = None,
    cuda_graph: opt.CudaGraph = False,
    threads: opt.Threads = 1,
    shape: opt.Shapes = None,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Measure latency, of several models in one go and in random order, each against the first.

    Example: otgraph bench net.onnx small.onnx --threads 2
    """
    shapes = opt.read_shapes(shape)
    out = Output(json)
    given = None if data is None else data_sources.load_data(data)
    choices: dict[str, Any] = {"engine": engine, "cuda_graph": cuda_graph, "threads": threads, "seed": seed}
    with progress() as show:
        show(f"measuring {', '.join(model)}")
        found = measurer_of(model).bench_all(model, given, shapes=shapes, **choices)
    document = found.to_json()
    _say_latencies(out, document)
    out.result({"command": "bench", **document})


def read_capabilities(text: str | None) -> tuple[int, ...]:
    """``"86,89"`` → ``(86, 89)``; also ``8.6`` is understood.

    Raises:
        UsageError: it is no list of such numbers.
    """
    if text is None:
        return ()
    parts = [part.strip().replace(".", "") for part in text.split(",")]
    if not all(part.isdigit() and len(part) >= 2 for part in parts):
        raise UsageError(f"--compute-capability {text}: give numbers such as 86,89,120")
    return tuple(dict.fromkeys(int(part) for part in parts))


def read_ranges(
    fixed: list[str] | None, low: list[str] | None, usual: list[str] | None, high: list[str] | None
) -> dict[str, ShapeRange]:
    """The range of each input that one of the options names; what is not given equals its neighbor.

    Raises:
        UsageError: a text has another form, an input is fixed and ranged, or sizes are not in order.
    """
    one = opt.read_shapes(fixed)
    lows, opts, highs = (
        opt.read_shapes(texts, flag)
        for texts, flag in ((low, "--min-shape"), (usual, "--opt-shape"), (high, "--max-shape"))
    )
    ranges = {name: artifact.ShapeRange(sizes, sizes, sizes) for name, sizes in one.items()}
    for name in {**lows, **opts, **highs}:
        if name in ranges:
            raise UsageError(f"--shape {name}: is given beside a range of it; keep one")
        middle = opts.get(name) or lows.get(name) or highs[name]
        ranges[name] = artifact.ShapeRange(lows.get(name, middle), middle, highs.get(name, middle))
    return ranges


def _say_latencies(out: Output, document: Mapping[str, Any]) -> None:
    artifacts = document["artifacts"]
    if len(artifacts) == 1:
        out.say(_sentence(artifacts[0]))
        return
    out.say(_table(document))


def _sentence(artifact: Mapping[str, Any]) -> str:
    found = artifact["latency"]
    clock = "" if found["clock"] == "wall" else f" ({found['clock']})"
    interval = f"[{found['low']:.3g}, {found['high']:.3g}]"
    threads = f"{found['threads']} thread{'s' * (found['threads'] > 1)}"
    return (
        f"{artifact['model']}: {found['ms']:.3g} ms {interval}{clock}, {artifact['run']['engine']}, {threads}"
    )


def _table(document: Mapping[str, Any]) -> Table:
    ratios = [None, *document["comparisons"]]
    clock = document["artifacts"][0]["latency"]["clock"]
    table = plain_table("model", "engine", f"ms ({clock})", "against the first")
    for entry, ratio in zip(document["artifacts"], ratios, strict=True):
        found = entry["latency"]
        shown = "" if ratio is None else f"{ratio['ratio']:.3f}x [{ratio['low']:.3f}, {ratio['high']:.3f}]"
        table.add_row(
            entry["model"],
            entry["run"]["engine"],
            f"{found['ms']:.3g} [{found['low']:.3g}, {found['high']:.3g}]",
            shown,
        )
    return table


def _yes(reason: str | None) -> str:
    return "yes" if reason is None else "no"
