"""The geometry of a sliding map against torch's own convolutions and ONNX's order of paddings."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from otgraph.window import Window, pointwise


@given(
    size=st.integers(9, 14),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    pads=st.tuples(st.integers(-1, 3), st.integers(-1, 3)),
    dilation=st.integers(1, 2),
)
def test_positions_are_those_of_torch(
    size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int
) -> None:
    window = Window(2, 4, 2, (kernel,), (stride,), (pads,), (dilation,))
    padded = torch.nn.functional.pad(torch.ones(1, 2, size), pads)
    made = torch.nn.functional.conv1d(
        padded, torch.ones(4, 1, kernel), stride=stride, dilation=dilation, groups=2
    )
    assert window.positions([size]) == tuple(made.shape[2:])
    assert window.weights == 4 * kernel and not window.diagonal


def test_what_does_not_slide_has_channels_last_and_no_positions() -> None:
    product = Window(3, 5, 1)
    assert product.axis == -1 and product.positions(()) == () and product.onnx_pads == ()
    assert pointwise(4, 2).axis == 1 and pointwise(4, 2).positions((7, 3)) == (7, 3)


def test_onnx_writes_all_befores_first() -> None:
    window = Window(1, 1, 1, (3, 3), (1, 1), ((1, 2), (3, 4)), (1, 1))
    assert window.onnx_pads == (1, 3, 2, 4)
