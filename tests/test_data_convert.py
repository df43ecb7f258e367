"""Arrays of another type: converted where no value is lost, which is said, and refused where one is."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from otgraph.data import Chunk, Data
from otgraph.data_check import TensorSpec
from otgraph.data_convert import convert_data
from otgraph.data_model import ModelData
from otgraph.errors import DataConverted, DataError


def _spec(dtype: Any, shape: tuple[int | str, ...] = ("batch", 2)) -> TensorSpec:
    return TensorSpec("x", np.dtype(dtype), shape)


def _data(values: Any, dtype: Any) -> Data:
    return Data.from_arrays({"x": np.array(values, dtype)}, source="calib.npz")


EXACT = [
    ("float32", "float64", [[0.1, -1e38]]),
    ("float64", "float16", [[0.5, -1024]]),
    ("float16", "float32", [[0.1, 6e-8]]),
    ("int64", "int32", [[-(2**31), 2**31 - 1]]),
    ("uint8", "int64", [[0, 255]]),
    ("int64", "uint8", [[0, 255]]),
    (">f4", "float32", [[0.1, 2.0]]),
    (">i8", "int32", [[7, -7]]),
]


@pytest.mark.parametrize(("old", "new", "values"), EXACT)
def test_what_is_the_same_in_both_types_is_converted(old: str, new: str, values: Any) -> None:
    data = _data(values, old)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConverted)
        found = convert_data(data, [_spec(new)]).chunks[0].arrays["x"]
    assert found.dtype == np.dtype(new)
    np.testing.assert_array_equal(found, data.chunks[0].arrays["x"])


def test_float64_is_rounded_to_float32_and_said() -> None:
    values = np.random.default_rng(0).normal(size=(40, 2)) * np.logspace(-30, 30, 40)[:, None]
    values[0, 0] = 0.0
    with pytest.warns(DataConverted) as said:
        found = ModelData.of(_data(values, np.float64), [_spec(np.float32)])
    assert [str(each.message) for each in said] == [
        "calib.npz: x: float64, converted to float32 as the model wants it"
    ]
    array = found.chunks[0].arrays["x"]
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, values, rtol=float(np.finfo(np.float32).eps))


LOST = [
    ("float64", "float32", [[0.5, 1.0], [2.0, 1e39]], "1e+39 in sample 1 is float64, and no such number is"),
    ("float64", "float32", [[1e-60, 1.0]], "1e-60 in sample 0 is float64, and no such number is float32"),
    ("float64", "float32", [[1e-42, 1.0]], "1e-42 in sample 0"),
    ("float64", "float16", [[0.1, 0.5]], "0.1 in sample 0"),
    ("int64", "int32", [[0, 2**31]], "2147483648 in sample 0 is int64, and no such number is int32"),
    ("int64", "uint8", [[0, -1]], "-1 in sample 0"),
    ("uint64", "int64", [[0, 2**63]], "9223372036854775808 in sample 0"),
    ("int64", "uint64", [[0, -1]], "-1 in sample 0"),
]


@pytest.mark.parametrize(("old", "new", "values", "text"), LOST)
def test_a_value_that_would_be_lost_is_named(old: str, new: str, values: Any, text: str) -> None:
    with pytest.raises(DataError) as error:
        convert_data(_data(values, old), [_spec(new)])
    assert str(error.value).startswith(f"calib.npz: x: {text}")


@pytest.mark.parametrize(
    ("old", "new"), [("int32", "float32"), ("float32", "int32"), ("bool", "float32"), ("float32", "bool")]
)
def test_another_kind_of_number_is_refused(old: str, new: str) -> None:
    with pytest.raises(DataError, match=f"x: {old}, the model wants {new}; convert it with .astype"):
        ModelData.of(_data([[1, 0]], old), [_spec(new)])


def test_samples_are_counted_over_chunks() -> None:
    good, bad = np.ones((3, 2)), np.array([[1.0, 1.0], [1.0, 1e300]])
    data = Data((Chunk({"x": good}), Chunk({"x": bad})), "folder")
    with pytest.raises(DataError, match=r"folder: x: 1e\+300 in sample 4 is float64"):
        convert_data(data, [_spec(np.float32)])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_as_before(value: float) -> None:
    with (
        pytest.raises(DataError, match=r"in sample 0; remove or mend it"),
        pytest.warns(DataConverted),
    ):
        ModelData.of(_data([[value, 1.0]], np.float64), [_spec(np.float32)])


def test_arrays_of_the_right_type_are_taken_as_they_are() -> None:
    data = _data([[1, 2]], np.float32)
    found = ModelData.of(data, [_spec(np.float32)])
    assert found.chunks[0].arrays["x"] is data.chunks[0].arrays["x"]
