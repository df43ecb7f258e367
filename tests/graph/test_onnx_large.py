"""A model above 2 GB, whose one table alone is larger than protobuf can hold: read, cut and written."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import psutil
import pytest
from onnx import TensorProto, helper

ROWS, WIDTH, HIDDEN, OUT = 600_000, 960, 256, 8
SHAPES = {"table": (ROWS, WIDTH), "up": (WIDTH, HIDDEN), "down": (HIDDEN, OUT)}
IDS = np.array([[0, 1, 2, 63, ROWS - 1, ROWS - 64]])
Floats = np.ndarray[Any, np.dtype[np.float32]]


def write(folder: Path) -> Path:
    """Only the first and last rows of the table are not zero: the file has holes and takes little space."""
    random, offset, stored = np.random.default_rng(0), 0, list[TensorProto]()
    with (folder / "weights.bin").open("wb") as file:
        for name, (rows, columns) in SHAPES.items():
            size = 4 * rows * columns
            proto = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=(rows, columns))
            proto.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", offset), ("length", size)):
                proto.external_data.add(key=key, value=str(value))
            stored.append(proto)
            filled = min(rows, 64) if name == "table" else rows
            for first in sorted({0, rows - filled}):
                file.seek(offset + 4 * first * columns)
                file.write(random.standard_normal((filled, columns)).astype(np.float32).tobytes())
            offset += size
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["h"]),
        helper.make_node("MatMul", ["h", "up"], ["u"]),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("MatMul", ["r", "down"], ["y"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, OUT])
    graph = helper.make_graph(nodes, "large", [ids], [y], stored)
    path = folder / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def otgraph(*arguments: str) -> tuple[str, float]:
    """What the command says, and the most memory in GB that a command used so far."""
    command = [sys.executable, "-c", "from otgraph.cli.main import main; main()", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def stored(path: Path) -> dict[str, Floats]:
    """The weights, left on the disk."""
    found: dict[str, Floats] = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        entry = {item.key: item.value for item in tensor.external_data}
        if not entry:
            found[tensor.name] = onnx.numpy_helper.to_array(tensor)
            continue
        at, shape = int(entry.get("offset", 0)), tuple(tensor.dims)
        found[tensor.name] = np.memmap(path.parent / entry["location"], np.float32, "r", at, shape)
    return found


def places(part: Floats, whole: Floats) -> list[int]:
    """Where the values of one row lie in the row that they were cut from."""
    return [int(np.flatnonzero(whole == value)[0]) for value in part]


@pytest.mark.slow
@pytest.mark.skipif(psutil.virtual_memory().available < 13e9, reason="takes up to 10 GB of memory")
def test_a_table_above_two_gigabytes_is_cut_and_still_above(tmp_path: Path) -> None:
    path, small = write(tmp_path), tmp_path / "small.onnx"
    assert path.with_name("weights.bin").stat().st_size > 2**31
    said, _ = otgraph("inspect", str(path))
    assert "2 of 3 dims can be cut; 100% of the parameters" in said
    said, memory = otgraph("run", str(path), "-p", "prune-channels{keep=0.97}", "-o", str(small))
    assert "table: 960 → 931 channels" in said and "up: 256 → 248 channels" in said
    assert memory < 5 * 2.3  # the file five times
    old, new = stored(path), stored(small)
    assert new["table"].nbytes > 2**31 and new["table"].shape == (ROWS, 931)
    wide = places(new["table"][0], old["table"][0])
    narrow = places(new["up"][0], old["up"][wide[0]])
    hidden = np.maximum(old["table"][IDS[0]][:, wide] @ old["up"][wide][:, narrow], 0)
    (found,) = ort.InferenceSession(small).run(None, {"ids": IDS})
    np.testing.assert_allclose(found[0], hidden @ old["down"][narrow], rtol=1e-4, atol=1e-3)
    assert np.abs(found).min() > 0
