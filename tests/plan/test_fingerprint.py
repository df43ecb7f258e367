"""Fingerprints tell any two models apart, and say by what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from otgraph.errors import PlanError
from otgraph.plan.fingerprint import check, fingerprint

WEIGHTS = {
    "layer1.0.conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "layer1.0.conv1.bias": np.ones(2, np.float32),
}
NODES = ["placeholder", "aten.conv2d", "output"]
END = "; make a new plan for this model"


def test_numpy_and_torch_agree() -> None:
    as_torch = {name: torch.from_numpy(array) for name, array in WEIGHTS.items()}
    assert fingerprint(WEIGHTS, NODES) == fingerprint(as_torch, NODES)
    transposed = {"w": torch.arange(6.0).reshape(2, 3).t()}
    assert fingerprint(transposed, []) == fingerprint(
        {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T}, []
    )
    check(fingerprint(WEIGHTS, NODES), fingerprint(as_torch, NODES))


def test_byte_order_and_odd_types() -> None:
    little, big = np.arange(4, dtype="<f4"), np.arange(4, dtype=">f4")
    assert fingerprint({"w": little}, []) == fingerprint({"w": big}, [])
    prints = fingerprint(
        {"b": torch.ones(3, dtype=torch.bfloat16), "e": torch.ones(0), "s": torch.tensor(2.0)}, []
    ).tensors
    assert (prints["b"].dtype, prints["e"].shape, prints["s"].shape) == ("bfloat16", (0,), ())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"layer1.0.conv1.weight": None}, "layer1.0.conv1.weight is missing"),
        (
            {"layer1.0.conv1.weight": np.zeros((2, 3, 1, 1), np.float32)},
            "layer1.0.conv1.weight has shape [2, 3, 1, 1], not [2, 3, 2, 2]",
        ),
        ({"layer1.0.conv1.bias": np.ones(2, np.float64)}, "layer1.0.conv1.bias is float64, not float32"),
        (
            {"layer1.0.conv1.weight": WEIGHTS["layer1.0.conv1.weight"] + 1e-6},
            "layer1.0.conv1.weight holds other values",
        ),
        ({"more": np.ones(2)}, "more is not in the plan"),
    ],
)
def test_the_differing_tensor_is_named(change: dict[str, np.ndarray | None], text: str) -> None:
    other = {name: array for name, array in {**WEIGHTS, **change}.items() if array is not None}
    with pytest.raises(PlanError) as error:
        check(fingerprint(WEIGHTS, NODES), fingerprint(other, NODES), "plan.json")
    assert str(error.value) == f"plan.json: made for another model: {text}{END}"


def test_another_program_over_the_same_tensors() -> None:
    with pytest.raises(PlanError, match="the tensors agree but the operators do not"):
        check(fingerprint(WEIGHTS, NODES), fingerprint(WEIGHTS, [*NODES[:2], "aten.relu", "output"]))
    assert fingerprint(WEIGHTS, NODES).digest != fingerprint(WEIGHTS, NODES[:2]).digest
