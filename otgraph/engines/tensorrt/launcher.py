"""Launches of an execution context on a stream: one by one or as a captured CUDA graph, and their time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal, final

from otgraph.engines.tensorrt.cuda import Cuda, Handle
from otgraph.errors import ModelError

Launch = Literal["kernel by kernel", "CUDA graph", "CUDA graph, captured by TensorRT"]
"""How kernels reach the device. TensorRT for RTX captures by itself where it is asked to."""


@final
class Launcher:
    """``context``: TensorRT's, with all its shapes and addresses set before anything is launched. ``where``:
    the file, for messages.

    One graph is kept: it holds the shapes and addresses of the moment it was captured at, and nothing says
    what an older one would do once the context has others.
    """

    def __init__(self, cuda: Cuda, context: Any, where: str, launch: Launch) -> None:
        self.how: Launch = launch
        self._cuda, self._context, self._where = cuda, context, where
        self._graph: Handle | None = None
        self._prepared = False
        self.stream = cuda.stream()
        self._start, self._end = cuda.event(), cuda.event()

    def changed(self) -> None:
        """The context has other shapes or addresses from now on."""
        self._prepared = False
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._cuda.destroy_graph(graph)

    def enqueue(self) -> None:
        """Put one run on the stream."""
        if self.how != "CUDA graph":
            self.launch()
        else:
            self._graph = self._graph if self._graph is not None else self._capture()
            self._cuda.launch(self._graph, self.stream)
        self._prepared = True

    def launch(self) -> None:
        """Put one run on the stream, its kernels one by one."""
        if not self._context.execute_async_v3(self._cuda.stream_number(self.stream)):
            raise ModelError(f"{self._where}: TensorRT cannot run it with these inputs; check their shapes")

    def time_ms(self, calls: int) -> float:
        """Milliseconds of one of ``calls`` runs, by the device."""
        if not self._prepared:
            self.enqueue()  # what is compiled or captured at the first launch of a shape is not timed
        self._cuda.record(self._start, self.stream)
        for _ in range(calls):
            self.enqueue()
        self._cuda.record(self._end, self.stream)
        self.synchronize()
        return self._cuda.elapsed_ms(self._start, self._end) / calls

    def synchronize(self) -> None:
        """Wait until all that was put on the stream is done."""
        self._cuda.synchronize(self.stream)

    def close(self) -> None:
        """Give back what the device holds; nothing can be launched any more."""
        self.changed()
        for event in (self._start, self._end):
            self._cuda.destroy_event(event)
        self._cuda.destroy_stream(self.stream)

    def _capture(self) -> Handle:
        self.launch()  # TensorRT allocates at the first launch of a shape, which cannot be captured
        self.synchronize()
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._cuda.stream_number(self.stream)):
            reason = "TensorRT cannot launch it without waiting for the host in between"
            raise ModelError(f"{self._where}: {reason}; leave --cuda-graph out")
        self._cuda.begin_capture(self.stream)
        with ExitStack() as undo:
            undo.callback(self._cuda.abandon_capture, self.stream)
            self.launch()
            undo.pop_all()
        return self._cuda.end_capture(self.stream)
