"""The trained networks that ``bench_optimize.py`` measures, and where the scripts that make them put them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SAMPLE = "otgraph/sample"


@dataclass(frozen=True)
class Network:
    """A model, what it is calibrated on, and inputs that nothing is ever fitted on.

    ``samples``: of the calibration inputs, all where None; ``metric``: of the outputs and the labels of the
    test, as ``otgraph audit --metric`` takes it.
    """

    name: str
    folder: str
    model: str
    calibration: str = "calib.npz"
    test: str = "test.npz"
    samples: int | None = None
    metric: str | None = None

    def place(self, root: Path) -> Path:
        """The folder of its files: the embedded sample's is in the repository, others are under ``root``."""
        return REPOSITORY / self.folder if self.folder == SAMPLE else root / self.folder

    def missing(self, root: Path) -> list[Path]:
        """The files that have not been made."""
        files = (self.place(root) / name for name in (self.model, self.calibration, self.test))
        return [file for file in files if not file.is_file()]


NETWORKS: Mapping[str, Network] = {
    network.name: network
    for network in (
        Network("digits_resnet20", SAMPLE, "digits_resnet20.onnx", calibration="calibration.npz"),
        Network("digits_mobilenetv2", "digits_mobilenetv2", "digits_mobilenetv2.onnx"),
        Network("digits_vit", "digits_vit", "digits_vit.onnx"),
        Network("efficientnet_lite0", "efficientnet_lite0", "efficientnet_lite0.onnx", samples=144),
        Network(
            "ppocr_rec",
            "ppocr_rec",
            "ppocr_rec.onnx",
            samples=64,
            metric="tools.ppocr_metric:character_accuracy",
        ),
        Network("resnet50", "resnet50", "resnet50.onnx", samples=96),
    )
}
