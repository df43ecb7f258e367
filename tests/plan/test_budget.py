"""Budgets: every option is read, written back, and refused with an example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otgraph.errors import UsageError
from otgraph.plan.budget import Budget, make_budget, parse_latency


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("0.6x", "ratio", 0.6),
        ("1x", "ratio", 1.0),
        ("8ms", "time", 8.0),
        ("800us", "time", 0.8),
        (" 2 s", "time", 2000.0),
    ],
)
def test_latency(text: str, kind: str, value: float) -> None:
    assert parse_latency(text) == Budget(kind, pytest.approx(value))


@pytest.mark.parametrize("text", ["fast", "0.6", "x", "", "8 m", "nanx", "1.2.3ms", "8msx"])
def test_latency_that_is_neither(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_latency(text)
    assert str(error.value) == f"latency {text!r}: write a ratio such as 0.6x or a time such as 8ms"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"latency": "1.5x"},
            "latency '1.5x': the ratio is of the original's latency and lies between 0 and 1;"
            " write for example 0.6x",
        ),
        ({"latency": "-8ms"}, "latency '-8ms': a time is more than zero; write for example 8ms"),
        (
            {"max_drop": "little"},
            "max-drop 'little': write the largest output divergence to allow as a number such as 0.01"
            " (KL for classifiers, relative L2 otherwise)",
        ),
        ({"keep": "50%"}, "keep '50%': write the fraction of channels to keep, between 0 and 1, such as 0.5"),
        ({"keep": 0}, "keep '0': write the fraction of channels to keep, between 0 and 1, such as 0.5"),
        (
            {},
            "budget: none was given; give exactly one of latency (0.6x or 8ms), layers (0.75x or 12),"
            " max-drop (0.01) or keep (0.5)",
        ),
        (
            {"latency": "0.6x", "keep": 0.5},
            "budget: latency and keep were given; give exactly one of latency (0.6x or 8ms),"
            " layers (0.75x or 12), max-drop (0.01) or keep (0.5)",
        ),
        (
            {"latency": "0.6x", "layers": "0.75x"},
            "budget: latency and layers were given; give exactly one of latency (0.6x or 8ms),"
            " layers (0.75x or 12), max-drop (0.01) or keep (0.5)",
        ),
        ({"layers": "few"}, "layers 'few': write a ratio such as 0.75x or a number such as 12"),
        (
            {"layers": "1.2x"},
            "layers '1.2x': the ratio is of the original's layers and lies between 0 and 1;"
            " write for example 0.75x",
        ),
        *(
            (
                {"layers": text},
                f"layers {text!r}: a number of layers is whole and at least 1; write for example 12, or 0.75x"
                " for a ratio",
            )
            for text in ("0", "12.5", "-3", "0.75")
        ),
    ],
)
def test_refusals(options: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError) as error:
        make_budget(**options)
    assert str(error.value) == text


@given(st.sampled_from(["ratio", "time", "damage", "keep"]), st.floats(1e-9, 1.0))
def test_text_reads_back(kind: str, value: float) -> None:
    budget = Budget(kind, value)
    assert Budget.parse(str(budget)) == budget


def test_text_is_the_options() -> None:
    budgets = [
        make_budget(latency="0.6x"),
        make_budget(latency="8ms"),
        make_budget(max_drop=0.01),
        make_budget(keep="0.5"),
        make_budget(layers="0.75x"),
        make_budget(layers=12),
    ]
    texts = ["latency 0.6x", "latency 8ms", "max-drop 0.01", "keep 0.5", "layers 0.75x", "layers 12"]
    assert [str(b) for b in budgets] == texts and [Budget.parse(text) for text in texts] == budgets
    with pytest.raises(UsageError, match=r"budget 'speed 3': write 'latency 0\.6x'"):
        Budget.parse("speed 3")


@pytest.mark.parametrize(
    ("text", "original", "allowed"),
    [("0.75x", 50, 37), ("0.5x", 50, 25), ("0.7x", 10, 7), ("1x", 9, 9), ("0.01x", 9, 1), ("12", 50, 12)],
)
def test_so_many_layers_are_allowed(text: str, original: int, allowed: int) -> None:
    assert make_budget(layers=text).layers(original) == allowed
    assert make_budget(layers=text).ratio(8.0) is None and make_budget(keep=0.5).layers(original) is None


def test_one_layer_and_all_of_them_are_not_the_same() -> None:
    assert make_budget(layers="1") != make_budget(layers="1x")
    assert make_budget(layers="1").layers(9) == 1


def test_ratio_of_a_measured_latency() -> None:
    assert make_budget(latency="8ms").ratio(16.0) == 0.5
    assert make_budget(latency="0.6x").ratio(16.0) == 0.6
    assert make_budget(keep=0.5).ratio(16.0) is None
