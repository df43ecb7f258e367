"""The scripts that build benchmark data: disjoint splits, reproducible data, the right preprocessing."""

from __future__ import annotations

import io
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


# the metric


def one_hot(steps: list[list[int]], classes: int = 5) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[np.array(steps)]


def test_greedy_ctc_merges_repeats_unless_a_blank_parts_them() -> None:
    metric = import_module("ppocr_metric")
    scores = one_hot([[0, 3, 3, 0, 3, 4], [0, 0, 0, 0, 0, 0], [1, 1, 2, 2, 1, 1]])
    assert metric.greedy_ctc(scores) == [[3, 3, 4], [], [1, 2, 1]]


def test_character_accuracy_counts_errors_per_character() -> None:
    accuracy = import_module("ppocr_metric").character_accuracy
    scores = one_hot([[1, 2, 3, 4], [1, 0, 1, 0]])
    assert accuracy(scores, [[1, 2, 3, 4], [1, 1, -1, -1]]) == 1
    assert accuracy({"y": scores}, [[1, 2, 4, 4], [1, 1, -1, -1]]) == pytest.approx((0.75 + 1) / 2)
    assert accuracy([scores], [[4, -1, -1, -1], [2, -1, -1, -1]]) == 0


@cache
def slow_distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """The definition, as an oracle."""
    if not a or not b:
        return len(a) + len(b)
    keep = slow_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(keep, slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1)


@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 3), max_size=6))
def test_edit_distance_is_levenshteins(a: list[int], b: list[int]) -> None:
    assert import_module("ppocr_metric").edit_distance(a, b) == slow_distance(tuple(a), tuple(b))


# photographs


def test_no_photograph_is_on_both_sides() -> None:
    photographs = import_module("photographs")
    names = [
        {photograph.file for photograph in side} for side in (photographs.CALIBRATION, photographs.HELD_OUT)
    ]
    assert [len(side) for side in names] == [24, 12]
    assert not names[0] & names[1]
    assert len([photograph for photograph in photographs.LABELED if photograph.package == "foolbox"]) == 20


def test_crops_repeat_for_a_seed_and_carry_the_labels_of_their_photograph() -> None:
    photographs = import_module("photographs")
    side = photographs.HELD_OUT[-5:-2]
    crops, labels = photographs.random_crops(side, 7, 3)
    again, _ = photographs.random_crops(side, 7, 3)
    other, _ = photographs.random_crops(side, 7, 4)
    assert crops.shape == (7, 3, 224, 224) and crops.dtype == np.float32
    assert -1 <= crops.min() < crops.max() <= 1
    assert np.array_equal(crops, again) and not np.array_equal(crops, other)
    assert labels.tolist()[:4] == [[281, 282, 285], [967, 968, 504], [-1, -1, -1], [281, 282, 285]]


def test_efficientnet_lite0_knows_foolboxs_photographs() -> None:
    photographs = import_module("photographs")
    side = tuple(photograph for photograph in photographs.LABELED if photograph.package == "foolbox")
    net = import_module("make_efficientnet_lite0").load_net()
    images = torch.from_numpy(photographs.center_crops(side))
    with torch.no_grad():
        best, best_of_bgr = net(images).argmax(1).numpy(), net(images.flip(1)).argmax(1).numpy()
    labels = photographs.label_rows(side)[:, 0]
    assert (best == labels).sum() >= 18
    assert (best_of_bgr == labels).sum() < 18


# text lines


def test_lines_repeat_for_a_seed_and_the_two_sides_share_no_face() -> None:
    lines = import_module("text_lines")
    assert not set(lines.CALIBRATION_FACES) & set(lines.TEST_FACES)
    first, again = (lines.render_lines(12, lines.TEST_FACES, 5) for _ in range(2))
    other = lines.render_lines(12, lines.TEST_FACES, 6)
    assert [line.text for line in first] == [line.text for line in again]
    assert all(a.image.tobytes() == b.image.tobytes() for a, b in zip(first, again, strict=True))
    assert [line.text for line in first] != [line.text for line in other]
    assert all(1 <= len(line.text) <= 22 for line in first)


def test_a_line_becomes_bgr_in_minus_one_to_one_with_zeros_to_its_right() -> None:
    tensor = import_module("text_lines").to_tensor(Image.new("RGB", (50, 24), (255, 0, 0)), 320)
    assert tensor.shape == (3, 48, 320)
    assert (tensor[2, :, :100] == 1).all() and (tensor[:2, :, :100] == -1).all()
    assert (tensor[:, :, 100:] == 0).all()


def test_the_recognizer_reads_rendered_lines_and_not_upside_down_ones() -> None:
    rec, lines = import_module("make_ppocr_rec"), import_module("text_lines")
    model = rec.package_folder("rapidocr_onnxruntime") / rec.MODEL
    characters = rec.dictionary(model)
    assert len(characters) == 6625
    drawn = lines.render_lines(20, lines.TEST_FACES, 11)
    labels = rec.label_rows(drawn, characters)
    assert "".join(characters[number] for number in labels[0] if number >= 0) == drawn[0].text
    x = np.stack([lines.to_tensor(line.image, rec.WIDTH) for line in drawn])
    assert rec.character_accuracy(rec.first_output(model, x), labels) > 0.9
    assert rec.character_accuracy(rec.first_output(model, x[:, :, ::-1, ::-1].copy()), labels) < 0.5


def test_the_classifier_tells_upright_from_turned() -> None:
    cls, lines = import_module("make_ppocr_cls"), import_module("text_lines")
    model = cls.package_folder("rapidocr_onnxruntime") / cls.MODEL
    x, labels = cls.oriented_lines(60, lines.TEST_FACES, 11)
    assert x.shape == (60, 3, 48, 192) and labels.sum() == 30
    assert (cls.first_output(model, x).argmax(1) == labels).mean() > 0.85


# files


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b" \n\t ",
        b"  \n both ends  \n",
        bytes(range(256)) * 30,
        b"a" * 4096,
        b" " * 4090 + b"b" * 10,
    ],
)
def test_magikas_features_are_those_of_its_package(content: bytes) -> None:
    reference: Any = import_module("magika").Magika
    seekable = import_module("magika.types").Seekable(io.BytesIO(content))
    extract = reference._extract_features_from_seekable  # the package has no public name for it
    expected = extract(seekable, 1024, 0, 1024, 256, 4096, False)
    assert import_module("make_magika").features(content).tolist() == expected.beg + expected.end


def test_magikas_types_are_known_to_its_model() -> None:
    script = import_module("make_magika")
    config = (script.package_folder("magika") / script.MODEL / "config.min.json").read_text()
    known = set(script.json.loads(config)["target_labels_space"])
    assert set(script.TYPES.values()) <= known


def test_a_package_that_is_missing_names_the_extra() -> None:
    with pytest.raises(
        SystemExit, match=r'no_such_package is not installed; run: pip install -e "\.\[examples\]"'
    ):
        import_module("wheel_files").package_folder("no_such_package")


# the sample


def test_shifts_move_each_image_by_at_most_two_pixels() -> None:
    script = import_module("train_sample")
    images = torch.zeros(200, 1, 28, 28)
    images[:, :, 14, 14] = 1
    moved = script.shift(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    places = {tuple(place) for place in moved[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(14 + y, 14 + x) for y in range(-2, 3) for x in range(-2, 3)}


def test_the_digits_are_split_by_class() -> None:
    train_x, train_y, test_x, test_y = import_module("train_sample").load_digits(0)
    assert train_x.shape == (4000, 1, 28, 28) and test_x.shape == (1000, 1, 28, 28)
    assert train_y.bincount().tolist() == [400] * 10 and test_y.bincount().tolist() == [100] * 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "kinds"),
    [
        ("mobilenetv2", 112_138, {"Conv": 26, "BatchNormalization": 26, "Clip": 18, "Add": 6}),
        ("vit", 305_034, {"Conv": 1, "LayerNormalization": 13, "Softmax": 6, "Gelu": 6, "Gemm": 1}),
    ],
)
def test_the_other_digit_nets_export_with_a_dynamic_batch(
    name: str, parameters: int, kinds: dict[str, int], tmp_path: Path
) -> None:
    script = import_module("train_sample")
    torch.manual_seed(0)
    net = script.NETS[name].make().eval()
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    path = tmp_path / "net.onnx"
    script.export(net, path)
    model = onnx.load(path)
    found = [node.op_type for node in model.graph.node]
    assert {kind: found.count(kind) for kind in kinds} == kinds
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    for batch in (1, 3):
        images = torch.rand(batch, 1, 28, 28)
        with torch.no_grad():
            wanted = net(images).numpy()
        exported = import_module("plain_onnxruntime").first_output(path, images.numpy())
        np.testing.assert_allclose(exported, wanted, rtol=1e-3, atol=1e-4)


def test_the_mobilenet_has_blocks_with_and_without_a_shortcut() -> None:
    blocks = import_module("train_sample").NETS["mobilenetv2"].make().blocks
    kinds = [(block.shortcut, block.depthwise[0].stride[0]) for block in blocks]
    assert (True, 1) in kinds and (False, 2) in kinds


def test_only_the_embedded_sample_goes_into_the_package() -> None:
    nets = import_module("train_sample").NETS
    assert nets["resnet20"].folder == "otgraph/sample" and nets["resnet20"].epochs == 8
    assert {recipe.folder for name, recipe in nets.items() if name != "resnet20"} == {
        "data/digits_mobilenetv2",
        "data/digits_vit",
    }


@pytest.mark.slow
def test_training_learns_and_the_export_keeps_every_batch_norm(tmp_path: Path) -> None:
    script = import_module("train_sample")
    torch.manual_seed(0)
    net = script.ResNet20(widths=(8, 16), blocks=1)
    train_x, train_y, test_x, test_y = script.load_digits(0)
    script.train(net, train_x, train_y, 2, 0)
    path = tmp_path / "net.onnx"
    script.export(net, path)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("BatchNormalization") == 6
    with torch.no_grad():
        logits = net(test_x)
    exported = import_module("plain_onnxruntime").first_output(path, test_x.numpy())
    np.testing.assert_allclose(exported, logits.numpy(), rtol=1e-4, atol=1e-5)
    learned = float((logits.argmax(1) == test_y).float().mean())
    assert learned > 0.4  # chance is 0.1
    assert script.accuracy(path, test_x, test_y) == pytest.approx(learned, abs=0.002)
