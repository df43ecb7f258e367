"""The few calls of the CUDA runtime that running an engine takes: the seam at which tests put a stand-in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Handle = Any
"""A stream, an event or an executable graph: opaque here."""


@dataclass(frozen=True)
class Gpu:
    """The current device. ``bus``: its place on the PCI bus, by which ``nvidia-smi`` knows it too."""

    name: str
    compute_capability: int
    driver: str
    runtime: str
    bus: str


class Cuda(ABC):
    """What is asked of CUDA. Calls on a stream return at once and take effect in its order; arrays handed to
    ``upload`` and ``download`` must live until ``synchronize``. All raise ``ModelError`` on a CUDA error."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why there is no usable device, or None."""

    @abstractmethod
    def gpu(self) -> Gpu:
        """The current device."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """The address of so many bytes of device memory."""

    @abstractmethod
    def free(self, address: int) -> None:
        """Give device memory back."""

    @abstractmethod
    def stream(self) -> Handle:
        """A new stream, which waits for no other."""

    @abstractmethod
    def stream_number(self, stream: Handle) -> int:
        """The stream as TensorRT wants it."""

    @abstractmethod
    def destroy_stream(self, stream: Handle) -> None:
        """Give it back."""

    @abstractmethod
    def upload(self, address: int, array: npt.NDArray[Any], stream: Handle) -> None:
        """Copy a contiguous array to the device."""

    @abstractmethod
    def download(self, array: npt.NDArray[Any], address: int, stream: Handle) -> None:
        """Fill a contiguous array from the device."""

    @abstractmethod
    def synchronize(self, stream: Handle) -> None:
        """Wait until all that was put on the stream is done."""

    @abstractmethod
    def event(self) -> Handle:
        """A new event, which can be recorded any number of times."""

    @abstractmethod
    def record(self, event: Handle, stream: Handle) -> None:
        """Let the device note the time when the stream gets here."""

    @abstractmethod
    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Milliseconds between two events that the device has noted."""

    @abstractmethod
    def destroy_event(self, event: Handle) -> None:
        """Give it back."""

    @abstractmethod
    def begin_capture(self, stream: Handle) -> None:
        """From here on, calls on the stream are written down instead of made."""

    @abstractmethod
    def end_capture(self, stream: Handle) -> Handle:
        """What was written down, ready to be launched."""

    @abstractmethod
    def abandon_capture(self, stream: Handle) -> None:
        """Forget what was written down; calls on the stream are made again. Never raises: it is the way
        out of a capture that went wrong."""

    @abstractmethod
    def launch(self, graph: Handle, stream: Handle) -> None:
        """Make all its calls, in one go."""

    @abstractmethod
    def destroy_graph(self, graph: Handle) -> None:
        """Give it back."""


def new_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Memory of the host that a device may fill."""
    return np.empty(shape, dtype)
