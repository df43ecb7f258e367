"""How a network's outputs are to be read: as scores of classes, or as values. Decided once, by their look.

It is told by outputs on some tens of inputs, never by the model's name: see ``_look`` for the signs and what
they rest on. A wrong reading costs the unit of damage (KL of a softmax over what is no score), so what was
decided is said before any work, with the reason, and ``--task`` overrides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from otgraph.data import Array
from otgraph.errors import UsageError

Task = Literal["auto", "classifier", "regression"]
"""How outputs are to be read: by their look, as class scores, or as values."""
Rows = Literal["probabilities", "log-probabilities", "logits"]
Floats = npt.NDArray[np.float64]

LOOKED_AT = 64
"""So many inputs at most are run to see what outputs look like."""
SUM = 2e-3
"""So far from 1 may the sum of a row of probabilities lie (float16 engines)."""
LENGTH = 5e-3
"""Rows whose lengths differ by no more than this share were brought to one length; those of classifiers
differ by tens of percent."""
WIDE = 64
"""Hardly any model of fewer columns is an encoder, and few classifiers of more see one class only."""
SPREAD = 0.04
"""What a softmax says must be more than ``SPREAD · ln² classes`` nats on average: see ``_look``."""
SHIFT = 0.75
"""The largest share of what varies that a softmax may be blind to."""
MARGIN = 50.0
"""Nats between first and second class: no training by cross-entropy goes there, degrees and pixels do."""


@dataclass(frozen=True)
class OutputReading:
    """How the outputs are read, what was ``asked``, and ``why``. Of a classifier: the name of the output,
    what its ``rows`` hold, and the number of classes."""

    task: Literal["classifier", "regression"]
    asked: Task
    why: str
    output: str | None = None
    rows: Rows | None = None
    classes: int | None = None

    @property
    def text(self) -> str:
        """One line for people: what was decided, why, and what overrides it."""
        if self.task == "regression":
            other = "" if self.asked != "auto" else "; --task classifier reads them as class scores"
            return f"regression, damage is relative L2; {self.why}{other}"
        other = "" if self.asked != "auto" else "; --task regression reads it as values"
        return f"classifier of {self.classes} classes, damage is KL; {self.why}{other}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


def check_task(task: str) -> Task:
    """``task`` as one of the three. Raises ``UsageError``."""
    if task not in get_args(Task):
        raise UsageError(f"task {task!r}: unknown; give {', '.join(get_args(Task))}")
    return cast(Task, task)


def read_outputs(
    batches: Sequence[Mapping[str, Array]],
    task: Task = "auto",
    inputs: Sequence[Mapping[str, Array]] = (),
) -> OutputReading:
    """How to read outputs of a network, given for one batch after another, by name.

    Scores are looked for where there is one floating-point output: (samples, classes ≥ 2), or (samples,
    positions, classes ≥ 2) where each row is a distribution or the logarithm of one, since a feature map has
    that shape as well. ``inputs``: what each batch was made of, by which an autoencoder is known.

    Raises:
        UsageError: ``task`` says that there are scores, and no output has such a shape.
    """
    if task == "regression":
        return OutputReading("regression", task, "as asked")
    floating = [name for name, array in batches[0].items() if array.dtype.kind == "f"] if batches else []
    name = floating[0] if len(floating) == 1 else None
    values = [] if name is None else [batch[name] for batch in batches]
    if name is None or not all(map(_could_be_scores, values)):
        if task == "classifier":
            first = batches[0] if batches else {}
            shapes = ", ".join(f"{each} {first[each].shape}" for each in floating) or "none of floating point"
            raise UsageError(
                "task classifier: needs one floating-point output (samples, [positions,] classes ≥ 2),"
                f" the model gives {shapes}; use --task regression"
            )
        return OutputReading("regression", task, _no_scores(batches, floating))
    rows = np.concatenate([np.asarray(each, np.float64).reshape(-1, each.shape[-1]) for each in values])
    rows = rows[np.isfinite(rows).all(1)]
    kind, why = _distributions(rows, name), ""
    if kind is None and task == "classifier":
        kind = "logits"
    elif kind is None and values[0].ndim == 2:
        why = _look(rows, _flat(inputs, rows.shape))
        kind = None if why else "logits"
    elif kind is None:
        why = "rows at positions are no distributions, and a feature map has that shape as well"
    if kind is None:
        return OutputReading("regression", task, f"{name}: {why}")
    found = "as asked" if task == "classifier" else f"{name}: rows look like {kind}"
    return OutputReading("classifier", task, found, name, kind, rows.shape[1])


def may_be_scores(outputs: Mapping[str, Array]) -> bool:
    """Whether it is worth looking at more outputs than these: one of them has the shape of class scores."""
    floating = [array for array in outputs.values() if array.dtype.kind == "f"]
    return len(floating) == 1 and _could_be_scores(floating[0])


def _could_be_scores(output: Array) -> bool:
    return output.dtype.kind == "f" and output.ndim in (2, 3) and output.shape[-1] >= 2 and output.size > 0


def _no_scores(batches: Sequence[Mapping[str, Array]], floating: Sequence[str]) -> str:
    if len(floating) != 1:
        return f"the model has {len(floating) or 'no'} floating-point outputs, class scores are one"
    array = batches[0][floating[0]]
    return f"{floating[0]} has shape (…{''.join(f', {size}' for size in array.shape[1:])}), no row of scores"


def _distributions(rows: Floats, name: str) -> Rows | None:
    if not len(rows):
        return None
    if (rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=SUM):
        return "probabilities"
    if (rows <= 1e-6).all() and np.allclose(np.exp(rows).sum(1), 1, atol=SUM):
        return "log-probabilities"
    return None


def _look(rows: Floats, inputs: Floats | None) -> str:
    """Why (n, C) rows are no logits, or nothing.

    Each sign is one that training a softmax by cross-entropy does not leave behind. Its gradient sums to zero
    over the classes, so that logits keep the small common shift they started with (hence both signs occur,
    and the shift is a small part of what varies). It drives the softmax away from the uniform, the further
    the more classes there are to tell apart: below ``SPREAD · ln² C`` nats per row (0.02 of two classes, 0.2
    of ten, 1.9 of a thousand) lie networks that were never trained, and encoders whose columns have a
    standard deviation of up to about 1.7. Signs that need several inputs wait for them.
    """
    n, classes = rows.shape
    if n == 0:
        return "holds no finite row"
    several = n >= 4 and bool((rows != rows[0]).any())
    if inputs is not None and several and _correlation(rows, inputs) > 0.5:
        return "gives back its input"
    lengths = np.sqrt(np.square(rows).sum(1))
    if np.abs(lengths - 1).max() <= LENGTH:
        return "rows have unit length, as embeddings have"
    if several and lengths.max() - lengths.min() <= LENGTH * lengths.mean():
        return f"all rows have the same length ({lengths.mean():.3g}), as embeddings have"
    if n * classes >= 32 and rows.min() >= 0:
        between = "values lie between 0 and 1 and rows do not sum to 1" if rows.max() <= 1 else ""
        return between or "no value is negative"
    if n * classes >= 32 and classes >= 8 and np.abs(rows).max() <= 1:
        return "no value is beyond −1 and 1"
    logs = log_softmax(rows)
    information = float(np.log(classes) + (np.exp(logs) * logs).sum(1).mean())
    if information < SPREAD * np.log(classes) ** 2:
        return (
            f"a softmax over the {classes} columns would be nearly uniform ({information:.2g} nats from it)"
        )
    tops = rows.argmax(1)
    if classes >= WIDE and n >= 8 and (tops == tops[0]).all():
        return f"the same one of {classes} columns is the largest for all inputs"
    if n >= 8 and _shift(rows) > SHIFT:
        return "columns rise and fall together, which a softmax does not see"
    best = np.sort(rows, 1)
    if np.median(best[:, -1] - best[:, -2]) > MARGIN:
        return f"the largest column leads by {np.median(best[:, -1] - best[:, -2]):.0f}, which no logit does"
    return ""


def _shift(rows: Floats) -> float:
    """The share of the variance over inputs that lies in the common shift of a row."""
    centered = rows - rows.mean(0)
    total = float(np.square(centered).sum())
    return float(rows.shape[1] * np.square(centered.mean(1)).sum()) / total if total > 0 else 0.0


def _correlation(rows: Floats, inputs: Floats) -> float:
    x, y = rows - rows.mean(0), inputs - inputs.mean(0)
    scale = float(np.sqrt(np.square(x).sum() * np.square(y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else 0.0


def _flat(inputs: Sequence[Mapping[str, Array]], shape: tuple[int, ...]) -> Floats | None:
    """The only input as one row per sample, where it has as many numbers as a row of the output."""
    if not inputs or any(len(batch) != 1 for batch in inputs):
        return None
    arrays = [next(iter(batch.values())) for batch in inputs]
    if any(array.dtype.kind != "f" or array[:1].size != shape[1] for array in arrays):
        return None
    flat = np.concatenate([np.asarray(array, np.float64).reshape(len(array), -1) for array in arrays])
    return flat if flat.shape == shape and np.isfinite(flat).all() else None


def log_softmax(rows: Floats) -> Floats:
    """Over the last axis. SciPy has it, but an audit must install on a device, and SciPy is 110 MB."""
    shifted = rows - rows.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
