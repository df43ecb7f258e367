"""Samples are known again: whole data, parts of them, and data that they are a part of; others are not."""

from __future__ import annotations

import numpy as np
import pytest

from otgraph.data import Chunk, Data
from otgraph.data_check import TensorSpec
from otgraph.data_digest import BYTES, KEPT, Sketch
from otgraph.data_model import ModelData

SPEC = (TensorSpec("x", np.dtype(np.float32), ("n", 3)),)


def data(count: int, seed: int = 0, **more: np.ndarray) -> ModelData:
    x = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    return ModelData.of(Data.from_arrays({"x": x, **more}), SPEC)


def joined(*parts: ModelData) -> ModelData:
    return ModelData(tuple(chunk for part in parts for chunk in part.chunks), "joined", SPEC)


def test_a_part_and_a_whole_are_known_and_others_are_not() -> None:
    fitted, other = data(200), data(100, seed=1)
    sketch = Sketch.of(fitted)
    assert sketch.seen(fitted) == 200
    assert sketch.seen(fitted.take(50, seed=3)) == 50
    assert sketch.seen(joined(fitted.take(30), other)) == 30
    assert sketch.seen(joined(other, fitted)) == 200
    assert sketch.seen(other) == 0


def test_order_chunks_labels_and_further_arrays_do_not_count() -> None:
    fitted = data(20)
    x = fitted.chunks[0].arrays["x"]
    again = Data((Chunk({"x": x[10:]}, np.arange(10)), Chunk({"x": x[:10]}, np.arange(10))))
    assert Sketch.of(fitted).seen(ModelData.of(again, SPEC)) == 20
    assert Sketch.of(fitted) == Sketch.of(data(20, other=np.ones(20)))


@pytest.mark.parametrize("change", ["value", "name", "type", "shape"])
def test_a_sample_that_differs_anywhere_is_another(change: str) -> None:
    x = np.zeros((4, 3), np.float32)
    name, other = "x", x
    if change == "value":
        other = x + np.float32(1e-6)
    elif change == "type":
        other = x.astype(np.int32)
    elif change == "shape":
        other = x.reshape(4, 1, 3)
    else:
        name = "y"
    spec = TensorSpec(name, other.dtype, ("n", *other.shape[1:]))
    fitted = Sketch.of(ModelData.of(Data.from_arrays({"x": x}), SPEC))
    assert fitted.seen(ModelData.of(Data.from_arrays({name: other}), (spec,))) == 0


def test_the_text_reads_back_and_is_short() -> None:
    for count in (1, 5, KEPT, KEPT + 1, 4 * KEPT):
        sketch = Sketch.of(data(count))
        assert Sketch.parse(str(sketch)) == sketch and len(str(sketch)) < 4 / 3 * BYTES * KEPT + 40


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 2",
        "2 1 1 AAAAAAAA",
        "1 x 1 AAAAAAAA",
        "1 2 2 AAAAAAAA",
        "1 1 1 AAAA",
        "1 1 1 ?AAAAAAA",
        "1 1 1 ",
    ],
)
def test_what_is_no_sketch_is_none(text: str) -> None:
    assert Sketch.parse("1 1 1 AAAAAAAA") == Sketch(1, 1, frozenset([bytes(6)]))
    assert Sketch.parse(text) is None


def test_of_many_samples_the_share_is_estimated() -> None:
    fitted, other = data(5 * KEPT), data(5 * KEPT, seed=1)
    sketch = Sketch.of(fitted)
    assert len(sketch.hashes) == KEPT and sketch.count == 5 * KEPT
    assert sketch.seen(fitted) == 5 * KEPT and sketch.seen(other) == 0
    mixed = joined(fitted.take(3000, seed=2), other.take(6000, seed=2))
    assert sketch.seen(mixed) == pytest.approx(3000, rel=0.1)


def test_equal_samples_count_each() -> None:
    twice = joined(data(5), data(5))
    assert Sketch.of(twice).distinct == 5 and Sketch.of(data(5)).seen(twice) == 10
