"""The embedded sample is what its documentation says: names, shapes, batch norms, accuracy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from otgraph import sample
from otgraph.data import Data
from otgraph.data_sources import load_data


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(sample.model_path())


def test_the_files_fit_the_wheel() -> None:
    paths = (sample.model_path(), sample.calibration_path(), sample.test_path())
    assert all(path.is_file() for path in paths)
    assert sum(path.stat().st_size for path in paths) <= 2.5e6


def test_the_model_passes_the_checker_and_keeps_its_batch_norms(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds == {"Conv": 21, "BatchNormalization": 21, "Relu": 19, "Add": 9, "ReduceMean": 1, "Gemm": 1}


def test_the_models_signature_has_a_dynamic_batch(model: onnx.ModelProto) -> None:
    (given,), (result,) = model.graph.input, model.graph.output
    shapes = [
        [dim.dim_param or dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in (given, result)
    ]
    assert (given.name, result.name) == ("image", "logits")
    assert shapes == [["batch", 1, 28, 28], ["batch", 10]]


def test_the_model_carries_its_weights_and_nothing_of_the_machine_that_made_it(
    model: onnx.ModelProto,
) -> None:
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer) > 272_000
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_calibration_is_unlabeled_and_disjoint_from_the_test_set() -> None:
    calibration, test = load_data(str(sample.calibration_path())), load_data(str(sample.test_path()))
    images, held_out = _images(calibration), _images(test)
    assert images.shape == (256, 1, 28, 28) and held_out.shape == (1000, 1, 28, 28)
    assert images.dtype == held_out.dtype == np.float32
    assert images.min() == 0 and images.max() == 1
    assert calibration.chunks[0].labels is None
    assert np.bincount(np.asarray(test.chunks[0].labels)).tolist() == [100] * 10
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in held_out}


def test_the_model_is_as_accurate_as_documented() -> None:
    test = load_data(str(sample.test_path())).chunks[0]
    session = onnxruntime.InferenceSession(str(sample.model_path()), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], dict(test.arrays))
    accuracy = float((np.asarray(logits).argmax(1) == test.labels).mean())
    assert 0.98 <= accuracy < 1


def _images(data: Data) -> np.ndarray:
    (array,) = (chunk.arrays["image"] for chunk in data.chunks)
    return array
