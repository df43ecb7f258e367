"""Which inputs judge: whole stretches that nothing else sees, or all in turn, and never kin on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from otgraph.data import Chunk, Data
from otgraph.data_check import TensorSpec
from otgraph.data_model import ModelData
from otgraph.errors import UsageError
from otgraph.optimize import verdict
from otgraph.optimize.settings import Settings
from otgraph.optimize.verdict import FEW, divide
from otgraph.plan.budget import Budget


def bound(x: np.ndarray, chunks: int = 1) -> ModelData:
    spec = TensorSpec("x", np.dtype(np.float32), ("n", *x.shape[1:]))
    parts = tuple(Chunk({"x": part}) for part in np.array_split(x.astype(np.float32), chunks))
    return ModelData.of(Data(parts), (spec,))


def numbered(count: int, chunks: int = 1) -> ModelData:
    """Each sample holds its number, which only its neighbors resemble, and all neighbors alike."""
    return bound(np.arange(count, dtype=np.float32)[:, None], chunks)


def numbers(data: ModelData) -> list[int]:
    return [int(value) for chunk in data.chunks for value in chunk.arrays["x"].reshape(len(chunk), -1)[:, 0]]


def photographs(groups: list[int]) -> ModelData:
    """Crops: the first pixel is the photograph, the rest tells photographs apart and crops less."""
    rng = np.random.default_rng(0)
    images: list[np.ndarray] = []
    for group, size in enumerate(groups):
        color = rng.uniform(-2, 2, size=(1, 3, 1, 1))
        crops = color + 0.3 * rng.normal(size=(size, 3, 1, 1)) * 0.3 + rng.normal(size=(size, 3, 8, 8)) * 0.5
        crops[:, 0, 0, 0] = group
        images.append(crops)
    return bound(np.concatenate(images))


def test_a_share_is_kept_in_stretches_over_all_of_the_data() -> None:
    parts = divide(numbered(1000), 0.2)
    assert parts.unseen is not None and parts.folds == ()
    judged, fitted = numbers(parts.unseen), numbers(parts.fit)
    assert sorted(judged + fitted) == list(range(1000)) and len(judged) == 200
    runs = np.split(judged, np.flatnonzero(np.diff(judged) != 1) + 1)
    assert [len(run) for run in runs] == [50] * 4 and judged[-1] == 999
    assert parts.stretches == ((0, 200), (250, 450), (500, 700), (750, 950))


def test_few_judge_in_turn() -> None:
    parts = divide(numbered(5 * FEW - 5), 0.2)
    assert parts.unseen is None and len(parts.fit) == 5 * FEW - 5 and len(parts.folds) == 4
    assert [number for _, fold in parts.folds for number in numbers(fold)] == numbers(parts.fit)
    for rest, fold in parts.folds:
        assert sorted(numbers(rest) + numbers(fold)) == numbers(parts.fit)
    assert divide(numbered(5 * FEW), 0.2).unseen is not None


@pytest.mark.parametrize(("count", "folds"), [(3, 0), (4, 2), (11, 2), (12, 3), (31, 3), (32, 4)])
def test_so_many_folds(count: int, folds: int) -> None:
    assert len(divide(numbered(count), 0.2).folds) == folds


def test_nothing_is_kept_where_that_is_not_wanted() -> None:
    assert divide(numbered(1000), 0.0).unseen is None and divide(numbered(100), 0.0).folds == ()
    assert divide(numbered(100), 0.2, in_turn=False).folds == ()
    assert divide(numbered(1000), 0.2, in_turn=False).unseen is not None


@pytest.mark.parametrize("sizes", [[16] * 24, [17, 29, 13, 31, 19] * 4], ids=["even", "uneven"])
def test_kin_lie_on_one_side(sizes: list[int]) -> None:
    parts = divide(photographs(sizes), 0.2)
    assert parts.unseen is not None
    assert 0.1 * sum(sizes) < len(parts.unseen) < 0.3 * sum(sizes)
    assert not set(numbers(parts.unseen)) & set(numbers(parts.fit))


def test_kin_lie_in_one_fold() -> None:
    parts = divide(photographs([12] * 16), 0.2)
    assert len(parts.folds) == 4
    for rest, fold in parts.folds:
        assert not set(numbers(rest)) & set(numbers(fold))


def test_without_the_search_for_seams_they_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "REACH", 0.0)
    parts = divide(photographs([17, 29, 13, 31, 19] * 4), 0.2)
    assert parts.unseen is not None and set(numbers(parts.unseen)) & set(numbers(parts.fit))


def test_files_are_kept_whole_where_their_ends_are_near() -> None:
    parts = divide(numbered(1000, chunks=20), 0.2)
    assert all(first % 50 == last % 50 == 0 for first, last in parts.stretches)


@pytest.mark.parametrize("count", [1000, 100])
def test_a_fixed_batch_is_never_torn(count: int) -> None:
    parts = divide(numbered(count), 0.2, batch=8)
    pieces = [piece for pair in parts.folds for piece in pair]
    pieces += [] if parts.unseen is None else [parts.unseen, parts.fit]
    assert pieces
    for piece in pieces:
        assert all(int(chunk.arrays["x"][0, 0]) % 8 == 0 for chunk in piece.chunks)


def test_words_and_flags_have_no_seams() -> None:
    spec = (TensorSpec("x", np.dtype(np.int64), ("n", 7)), TensorSpec("t", np.dtype("<U3"), ("n",)))
    arrays = {"x": np.random.default_rng(0).integers(0, 9, (400, 7)), "t": np.full(400, "abc")}
    parts = divide(ModelData.of(Data.from_arrays(arrays), spec), 0.2)
    assert parts.unseen is not None and len(parts.unseen) + len(parts.fit) == 400


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_a_share_that_cannot_be(share: float) -> None:
    with pytest.raises(
        UsageError, match=rf"verdict {share:g}: is the share of inputs that is kept to judge by"
    ):
        Settings(Budget("keep", 0.5), verdict=share)
