"""Running an ONNX file by plain ONNX Runtime, for the baseline figures that the scripts print."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[np.generic]


def first_output(model: Path, inputs: Array, batch: int = 16) -> Array:
    """The first output of the one-input ``model`` for all rows of ``inputs``, in batches, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    starts = range(0, len(inputs), batch)
    parts = [np.asarray(session.run(None, {name: inputs[start : start + batch]})[0]) for start in starts]
    return np.concatenate(parts)


def any_label_accuracy(scores: Array, labels: npt.NDArray[np.int64]) -> float:
    """Share of rows with a known label whose top class is one of them; ``labels`` (n, k), padded with -1."""
    known = (labels >= 0).any(1)
    hits = (scores.argmax(1)[:, None] == labels).any(1)
    return float(hits[known].mean())
