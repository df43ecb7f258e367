"""More photographs, and the network that only its size is wanted of."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


def test_random_weights_get_statistics_and_logits_that_differ() -> None:
    torch.manual_seed(1)
    images = torch.rand(12, 3, 32, 32)
    net = import_module("make_resnet50").make_net(images, 0, "resnet18")
    with torch.no_grad():
        logits = net(images)
    assert not net.training
    assert logits.mean(0).abs().max() < 1e-2 and torch.allclose(logits.std(0), torch.tensor(3.0), atol=1e-2)
    assert net.get_submodule("bn1").momentum == 0.1
    again = import_module("make_resnet50").make_net(images, 0, "resnet18")
    assert torch.equal(net.get_submodule("fc").weight, again.get_submodule("fc").weight)


def test_no_picture_calibrates_and_judges() -> None:
    varied = import_module("make_varied_photographs")
    judging, calibrating = {*varied.WALL, *varied.EXAMPLES}, {*varied.BACKGROUNDS, varied.STAMPS[0]}
    assert not judging & calibrating
    files = [file for listed in (varied.WALL, varied.EXAMPLES) for names in listed.values() for file in names]
    assert len(files) == len(set(files)) == 49


def stamp(side: int = 120) -> Image.Image:
    """A red square in the middle of nothing."""
    picture = Image.new("RGBA", (2 * side, 2 * side), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (side // 2, side // 2, side // 2 + side, side // 2 + side))
    return picture


def test_drawings_and_small_stamps_are_left_out_and_margins_cut(tmp_path: Path) -> None:
    for name in (
        "animals/cat.png",
        "animals/cartoon/cat.png",
        "animals/cat_mirror.png",
        "town/flags/red.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        stamp().save(tmp_path / name)
    stamp(40).save(tmp_path / "animals/fly.png")
    (found,) = import_module("make_varied_photographs").opened_stamps(tmp_path)
    assert found.size == (120, 120)


def test_stamps_lie_on_other_pictures_and_repeat_for_a_seed() -> None:
    varied = import_module("make_varied_photographs")
    blue = Image.new("RGB", (300, 300), (0, 0, 255))
    crops, sources = varied.stamped([stamp().crop((60, 60, 180, 180))] * 2, [blue], 5, 3)
    again, _ = varied.stamped([stamp().crop((60, 60, 180, 180))] * 2, [blue], 5, 3)
    other, _ = varied.stamped([stamp().crop((60, 60, 180, 180))] * 2, [blue], 5, 4)
    assert sources.tolist() == [0, 1, 0, 1, 0] and crops.shape == (5, 3, 224, 224)
    assert np.array_equal(crops, again) and not np.array_equal(crops, other)
    red = (crops[:, 0] > 0.9).mean((1, 2))
    assert ((red > 0.2) & (red < 0.95)).all()


def test_what_is_transparent_is_no_background(tmp_path: Path) -> None:
    stamp().save(tmp_path / "clear.png")
    Image.new("RGB", (3000, 20), (1, 2, 3)).save(tmp_path / "opaque.png")
    varied = import_module("make_varied_photographs")
    (only,) = varied.opened([tmp_path / "clear.png", tmp_path / "opaque.png"])
    assert only.mode == "RGB" and only.size[0] == varied.LARGEST


def test_crops_of_a_picture_lie_together_with_its_number_beside_them(tmp_path: Path) -> None:
    varied, groups = import_module("make_varied_photographs"), import_module("row_groups")
    crops = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)
    varied.save(tmp_path / "set.npz", [(crops, np.array([0, 1, 0, 1, 0])), (crops[:2], np.array([0, 1]))])
    with np.load(tmp_path / "set.npz") as found:
        assert found["image"].ravel().tolist() == [0, 2, 4, 1, 3, 0, 1]
    assert groups.groups_of(tmp_path / "set.npz", 7).tolist() == [0, 0, 0, 1, 1, 2, 3]
    assert groups.groups_of(tmp_path / "other.npz", 3).tolist() == [0, 1, 2]


def test_a_package_that_is_there_is_not_fetched_and_one_that_cannot_be_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = import_module("debian_files").unpacked
    (tmp_path / "there").mkdir()
    monkeypatch.setenv("PATH", "")
    assert unpacked("there", tmp_path) == tmp_path / "there"
    with pytest.raises(SystemExit, match="absent cannot be fetched"):
        unpacked("absent", tmp_path)
