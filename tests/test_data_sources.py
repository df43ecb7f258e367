"""Reading DATA: every source, every error text, and the helpers on ``Data``."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from otgraph.data import ONLY_INPUT, Data
from otgraph.data_sources import load_data
from otgraph.errors import DataError

MODULE = """
import numpy as np
import torch

def arrays():
    yield np.zeros((2, 3))
    yield np.ones((1, 3))

def pairs():
    return [(np.zeros((2, 3)), [4, 5]), [np.ones((1, 3)), np.array([6])]]

def dicts():
    yield {"a": torch.zeros(2, 3), "b": torch.ones(2), "labels": torch.tensor([0, 1])}

def mixed():
    yield {"a": np.zeros(2)}
    yield {"b": np.zeros(2)}

def two_inputs():
    yield {"a": np.zeros(2), "b": np.zeros(2)}, np.zeros(2)

def triple():
    yield np.zeros(2), np.zeros(2), np.zeros(2)

def failing():
    yield np.zeros(2)
    raise RuntimeError("the disk\\n is gone")

def late_import():
    from helper_of_provider import VALUE
    yield np.full((1, 2), VALUE)

def nothing():
    return []

def number():
    return 3

def learned():
    yield torch.zeros(2, 3, requires_grad=True)

CONSTANT = 3
"""


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module in the current directory, unlike any that was imported before."""
    name = "provider_" + re.sub(r"\W", "_", request.node.name)
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "helper_of_provider.py").write_text("VALUE = 7\n")
    monkeypatch.chdir(tmp_path)
    return name


def test_an_npz_gives_its_arrays_and_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, image=np.arange(6.0).reshape(3, 2), mask=np.ones((3, 1), bool), labels=[2, 1, 0])
    data = load_data(str(path))
    (chunk,) = data.chunks
    assert len(data) == 3 and data.source == str(path)
    assert set(chunk.arrays) == {"image", "mask"}
    assert chunk.arrays["image"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert chunk.labels is not None and chunk.labels.tolist() == [2, 1, 0]


def test_a_folder_gives_one_chunk_per_file_by_name_with_shapes_of_their_own(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "b.npz", x=np.ones((2, 5)))
    np.savez(tmp_path / "a.npz", x=np.zeros((1, 4)))
    (tmp_path / "notes.txt").write_text("not data")
    data = load_data(str(tmp_path))
    assert [chunk.arrays["x"].shape for chunk in data.chunks] == [(1, 4), (2, 5)]
    assert [len(batch) for batch in data.batches(2)] == [1, 2]


def test_a_callable_of_the_current_directory_yields_single_arrays(provider: str) -> None:
    data = load_data(f"{provider}:arrays")
    assert [set(chunk.arrays) for chunk in data.chunks] == [{ONLY_INPUT}] * 2
    assert [set(chunk.arrays) for chunk in data.named(["image"]).chunks] == [{"image"}] * 2
    assert len(data) == 3


def test_a_callable_may_yield_pairs_of_inputs_and_labels(provider: str) -> None:
    labels = [chunk.labels for chunk in load_data(f"{provider}:pairs").chunks]
    assert [part.tolist() for part in labels if part is not None] == [[4, 5], [6]]
    (chunk,) = load_data(f"{provider}:two_inputs").chunks
    assert set(chunk.arrays) == {"a", "b"} and chunk.labels is not None


def test_a_callable_may_yield_torch_tensors(provider: str) -> None:
    (chunk,) = load_data(f"{provider}:dicts").chunks
    assert set(chunk.arrays) == {"a", "b"}
    assert all(type(array) is np.ndarray for array in chunk.arrays.values())
    assert chunk.labels is not None and chunk.labels.tolist() == [0, 1]


def test_a_callable_may_import_from_the_current_directory_while_it_runs(provider: str) -> None:
    assert load_data(f"{provider}:late_import").chunks[0].arrays[ONLY_INPUT].tolist() == [[7, 7]]


def test_importing_from_the_current_directory_leaves_the_search_path_as_it_was(provider: str) -> None:

    before = list(sys.path)
    load_data(f"{provider}:arrays")
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mixed",
            r"batch 1: holds b, but provider_\w+:mixed: batch 0 holds a; store the same arrays in each",
        ),
        ("triple", r"batch 0: is a tuple of 3; yield a dict with one array per input"),
        (
            "failing",
            r":failing: raised RuntimeError: the disk is gone \(provider_\w+\.py:\d+\); mend it: it is "
            "called without arguments$",
        ),
        ("nothing", r":nothing: yields nothing; yield at least one batch"),
        ("number", r":number: returns a int; return or yield batches"),
        ("learned", r"batch 0: array '': cannot be read as an array \(.*requires grad"),
        ("absent", r":absent: provider_\w+ has no absent; name a function that is defined there"),
        ("CONSTANT", r":CONSTANT: is a int, not callable; name a function"),
    ],
)
def test_a_callable_that_does_not_serve(provider: str, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(f"{provider}:{name}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "no_such_module_here:f",
            "there is no module no_such_module_here; run from the folder that holds it",
        ),
        ("os.no_such_part:f", "there is no module os.no_such_part; run from the folder"),
        ("needy:f", "importing needy needs the module no_such_module_here; install it"),
        ("broken:f", r"importing broken failed: ZeroDivisionError: division by zero \(broken\.py:1\); mend"),
        (
            "absent.npz",
            "absent.npz: no such file or folder; give an .npz, a folder of them, or package.module:",
        ),
        ("a:b:c", "a:b:c: no such file or folder"),
    ],
)
def test_a_source_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    (tmp_path / "needy.py").write_text("import no_such_module_here\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        load_data(spec)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.npz file; store the inputs with numpy\.savez"):
        load_data(str(tmp_path))


def test_files_of_a_folder_that_differ_in_their_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(1))
    np.savez(tmp_path / "b.npz", x=np.zeros(1), labels=np.zeros(1))
    with pytest.raises(DataError, match=r"b\.npz: holds labels, x, but .*a\.npz holds x; store the same"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1, 2])])
def test_a_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz: is not an \.npz file, or is cut short"):
        load_data(str(tmp_path / "x.npz"))


def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros(1000))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"is not an \.npz file, or is cut short"):
        load_data(str(path))


def test_a_file_whose_content_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros(1000))
    content = bytearray(path.read_bytes())
    content[2000:2100] = b"\x01" * 100
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz: is damaged \(BadZipFile: Bad CRC-32"):
        load_data(str(path))


def test_pickled_content_is_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    np.savez(tmp_path / "x.npz", x=np.array([_Bomb(marker)], dtype=object))
    with pytest.raises(DataError, match=r"array 'x' holds pickled objects, which are never loaded"):
        load_data(str(tmp_path / "x.npz"))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no input array; store one array per model input"),
        ({"labels": np.zeros(3)}, "holds no input array"),
        ({"x": np.zeros((0, 3))}, r"is empty \(no samples\); give at least one"),
        ({"x": np.float32(1)}, "array 'x': is a single number; its first axis must be the samples"),
        (
            {"x": np.zeros(3), "y": np.zeros(2)},
            r"differ in their first axis \(x has 3, y has 2\); one row per",
        ),
        ({"x": np.zeros(3), "labels": np.zeros(2)}, r"differ in their first axis \(x has 3, labels has 2\)"),
    ],
)
def test_arrays_that_are_no_samples(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / "x.npz"))


def test_unnamed_data_does_not_serve_a_model_with_two_inputs() -> None:
    data = Data.from_arrays({ONLY_INPUT: np.zeros((2, 3))}, source="here")
    with pytest.raises(
        DataError, match=r"here: yields arrays without a name, but the model's inputs are a, b; "
    ):
        data.named(["a", "b"])
    with pytest.raises(DataError, match=r"the model's inputs are none"):
        data.named([])


def test_named_data_keeps_its_names() -> None:
    data = Data.from_arrays({"x": np.zeros((2, 3))})
    assert data.named(["something", "else"]) is data


def test_from_arrays_refuses_what_numpy_cannot_read_as_numbers() -> None:
    with pytest.raises(DataError, match=r"memory: array 'x': cannot be read as an array"):
        Data.from_arrays({"x": [[1, 2], [3]]})
    with pytest.raises(DataError, match=r"memory: array 'x': holds Python objects; store plain numbers"):
        Data.from_arrays({"x": [object()]})
    assert Data.from_arrays({"x": torch.ones(2, 1)}).chunks[0].arrays["x"].dtype == np.float32


@pytest.fixture
def numbered(tmp_path: Path) -> Data:
    """Ten samples, numbered in ``x`` and in their labels, in three chunks of two shapes."""
    np.savez(tmp_path / "0.npz", x=np.arange(4)[:, None], labels=np.arange(4))
    np.savez(tmp_path / "1.npz", x=np.arange(4, 5)[:, None], labels=np.arange(4, 5))
    np.savez(tmp_path / "2.npz", x=np.repeat(np.arange(5, 10)[:, None], 3, 1), labels=np.arange(5, 10))
    return load_data(str(tmp_path))


def samples(data: Data) -> list[int]:
    for chunk in data.chunks:
        assert chunk.labels is not None and chunk.arrays["x"][:, 0].tolist() == chunk.labels.tolist()
    return [int(x) for chunk in data.chunks for x in chunk.arrays["x"][:, 0]]


def test_take_without_a_seed_gives_the_first(numbered: Data) -> None:
    assert samples(numbered.take(3)) == [0, 1, 2]
    assert samples(numbered.take(6)) == [0, 1, 2, 3, 4, 5]
    assert len(numbered.take(3).chunks) == 1
    assert numbered.take(11) is numbered


def test_take_with_a_seed_draws_across_chunks_and_repeats_itself(numbered: Data) -> None:
    drawn = [samples(numbered.take(4, seed)) for seed in range(20)]
    assert drawn == [samples(numbered.take(4, seed)) for seed in range(20)]
    assert {len(set(part)) for part in drawn} == {4}
    assert {number for part in drawn for number in part} == set(range(10))


def test_split_parts_are_disjoint_and_complete(numbered: Data) -> None:
    for seed in range(5):
        left, right = (samples(part) for part in numbered.split(0.3, seed))
        assert (len(left), len(right)) == (3, 7)
        assert sorted(left + right) == list(range(10))
    assert [len(part) for part in numbered.split(0.001, 0)] == [1, 9]
    assert [len(part) for part in numbered.split(0.999, 0)] == [9, 1]
    assert samples(numbered.split(0.3, 0)[0]) != samples(numbered.split(0.3, 1)[0])


def test_shares_that_cannot_be_given(numbered: Data) -> None:
    with pytest.raises(DataError, match=r"cannot take 0 samples; ask for at least one"):
        numbered.take(0)
    with pytest.raises(DataError, match=r"cannot split off a share of 1; give one between 0 and 1"):
        numbered.split(1, 0)
    with pytest.raises(DataError, match=r"has 1 sample, too few to split; give at least two"):
        numbered.take(1).split(0.5, 0)


class _Bomb:
    """Unpickling this writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return _write, (str(self.marker), "executed")


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)
