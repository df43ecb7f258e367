"""Build engines of public networks and say how long it took and how large they are.

Nothing runs on a GPU: TensorRT for RTX builds ahead of time. Networks are torchvision's with random weights
(what a build does depends on shapes and operators) or ``.onnx`` files.

    python tools/build_engines.py --models resnet50,mobilenet_v2 --capabilities 86 89 120 86,89,120
    python tools/build_engines.py --files data/efficientnet_lite0/efficientnet_lite0.onnx small.onnx
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import torch
import torchvision

from otgraph.cli.engine import read_capabilities
from otgraph.device import build
from otgraph.engines.artifact import BuildOptions
from otgraph.errors import OtgraphError
from otgraph.precision.convert import check_precision

MODELS = ("resnet50", "mobilenet_v2", "vit_b_16", "swin_t", "convnext_tiny", "densenet121")
SIDE = 224


def export(name: str, path: Path) -> None:
    """A torchvision network with a dynamic batch, its weights random but seeded."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            (torch.zeros(2, 3, SIDE, SIDE),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
            input_names=["image"],
            output_names=["logits"],
        )
    if program is None:
        raise SystemExit(f"{name}: torch.onnx returned nothing")
    program.save(str(path))


def build_one(path: Path, engine: str, precision: str, capabilities: str, folder: Path) -> dict[str, object]:
    """One row: seconds and bytes, or why not."""
    output = folder / f"{path.stem}.engine"
    row: dict[str, object] = {"model": path.stem, "precision": precision, "capabilities": capabilities}
    options = BuildOptions(compute_capabilities=read_capabilities(capabilities))
    try:
        built = build(path, output, engine=engine, options=options, precision=check_precision(precision))
    except OtgraphError as error:
        return {**row, "error": str(error).replace(f"{folder}/", "")}
    size, layers = built.bytes, len(built.layers)
    output.unlink()
    return {**row, "seconds": round(built.seconds, 2), "bytes": size, "layers": layers}


def line(row: dict[str, object]) -> str:
    """A row as a line of a Markdown table."""
    if "error" in row:
        shown = [row["model"], row["precision"], row["capabilities"], "–", "–", row["error"]]
    else:
        megabytes = f"{int(str(row['bytes'])) / 1e6:.1f}"
        shown = [row[key] for key in ("model", "precision", "capabilities", "seconds")]
        shown += [megabytes, row["layers"]]
    return "| " + " | ".join(map(str, shown)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--models", default=",".join(MODELS), help="torchvision names, comma-separated, or ''"
    )
    parser.add_argument("--files", nargs="*", type=Path, default=[], help="ONNX files")
    parser.add_argument("--engine", default="tensorrt-rtx")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16"])
    parser.add_argument("--capabilities", nargs="+", default=["86", "89", "120", "86,89,120"])
    parser.add_argument("--json", type=Path, help="also write the rows there")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    print("| model | precision | compute capability | seconds | MB | layers read |")
    print("|---|---|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="otgraph-") as name:
        folder = Path(name)
        files = list(arguments.files)
        for model in filter(None, arguments.models.split(",")):
            files.append(folder / f"{model}.onnx")
            export(model, files[-1])
        for path in files:
            for precision in arguments.precisions:
                for capabilities in arguments.capabilities:
                    rows.append(build_one(path, arguments.engine, precision, capabilities, folder))
                    print(line(rows[-1]), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
