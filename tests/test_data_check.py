"""What is wrong with DATA, and how it is said."""

from __future__ import annotations

import numpy as np
import pytest

from otgraph.data import Chunk, Data
from otgraph.data_check import TensorSpec, check_data
from otgraph.errors import DataError

IMAGE = TensorSpec("x", np.dtype(np.float32), ("batch", 1, 28, 28))


def data(**arrays: np.ndarray) -> Data:
    return Data((Chunk(arrays),), "calib.npz")


def images(count: int = 3, dtype: type = np.float32, channels: int = 1) -> np.ndarray:
    return np.zeros((count, channels, 28, 28), dtype)


def test_good_data_passes() -> None:
    check_data(data(x=images(), extra=images()), [IMAGE])
    check_data(Data((Chunk({"x": images(2)}), Chunk({"x": images(5)}, np.arange(5)))), [IMAGE])


def test_dynamic_axes_take_any_size_and_the_first_axis_counts_samples() -> None:
    spec = TensorSpec("x", np.dtype(np.float32), (1, 3, "height", "?"))
    check_data(data(x=np.zeros((7, 3, 5, 9), np.float32)), [spec])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (data(y=images()), "calib.npz: no array for input 'x' (has: y); rename it"),
        (data(), "calib.npz: no array for input 'x' (has: nothing); rename it"),
        (
            data(x=images(channels=3)),
            "calib.npz: x: has shape (…, 3, 28, 28), the model wants (batch, 1, 28, 28); reshape it",
        ),
        (
            data(x=np.zeros((3, 28, 28), np.float32)),
            "calib.npz: x: has shape (…, 28, 28), the model wants (batch, 1, 28, 28); reshape it",
        ),
        (
            data(x=images(dtype=np.float64)),
            "calib.npz: x: float64, the model wants float32; convert it with .astype(np.float32)",
        ),
        (data(x=images(count=0)), "calib.npz: x: holds no samples; give at least one"),
        (
            data(x=np.array(1.0, np.float32)),
            "calib.npz: x: is a single value; give an array whose first axis counts samples",
        ),
        (Data((), "calib.npz"), "calib.npz: holds no samples; give at least one"),
        (
            Data((Chunk({"x": images(3)}, np.arange(2)),), "calib.npz"),
            "calib.npz: the number of samples differs: x has 3, labels has 2; store as many of each",
        ),
    ],
)
def test_bad_data_is_named(bad: Data, message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_data(bad, [IMAGE])
    assert str(caught.value) == message


def test_nan_and_infinity_are_found_with_their_sample_over_all_chunks() -> None:
    second = images(4)
    second[2, 0, 0, :3] = np.nan
    second[2, 0, 1, 0] = np.inf
    with pytest.raises(DataError) as caught:
        check_data(Data((Chunk({"x": images(3)}), Chunk({"x": second})), "folder"), [IMAGE])
    assert str(caught.value) == "folder: x: holds 3 NaN and 1 infinite values in sample 5; remove or mend it"


def test_inputs_must_have_equally_many_samples() -> None:
    other = TensorSpec("y", np.dtype(np.int64), ("batch", 4))
    with pytest.raises(DataError, match=r"the number of samples differs: x has 3, y has 2"):
        check_data(data(x=images(3), y=np.zeros((2, 4), np.int64)), [IMAGE, other])
