"""OpenVINO on the CPU (extra ``openvino``).

Compiled once per input shape: with a dynamic batch the same network took 7 % more time (EfficientNet-Lite0,
one thread, batch 1), and a deployment knows its shape. Arithmetic is kept at float32, where the plug-in would
choose bfloat16 by itself on processors that have it; pinning is off, as on a shared machine it costs up to a
quarter. Nodes by themselves tell nothing here (summed they were 1.3 to 2.5 times the network, and copies of a
node need not run one after the other); their multiply-accumulates predict better.
"""

from __future__ import annotations

import shutil
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

from otgraph.data import Array
from otgraph.data_check import TensorSpec, fits
from otgraph.engines.artifact import BuildOptions, Built
from otgraph.engines.engine import Engine, Model, NodeTime, Session
from otgraph.engines.processor import processor
from otgraph.errors import ModelError, UsageError
from otgraph.files import NO_TEXT, check_writable, is_text, why_no_file, write_aside
from otgraph.quiet import without
from otgraph.scratch import scratch_folder

with without("openvino_telemetry"):  # else the import sends an event and writes a client's number to the home
    import openvino as ov

DEVICE = "CPU"

COMPILED = 8
"""So many shapes stay compiled."""


@final
class OpenVino(Engine):
    """The CPU plug-in of the installed ``openvino`` package."""

    name = "openvino"
    suffixes = (".xml",)
    times_kernels = False

    def unavailable(self) -> str | None:
        devices = ov.Core().available_devices
        return None if DEVICE in devices else f"OpenVINO finds no CPU plug-in (it has {', '.join(devices)})"

    def load(self, model: Model, *, threads: int = 1) -> Session:
        if threads < 1:
            raise ModelError(f"threads={threads}: give at least 1")
        return OpenVinoSession(model, threads)

    def build(self, model: Path, output: Path, options: BuildOptions) -> Built:
        """OpenVINO's own format: the ``.xml`` and, beside it, a ``.bin`` with the weights as they are."""
        options.refuse(self.name, "threads", "compute_capabilities", "tf32", "timing_cache")
        if output.suffix != ".xml":
            raise UsageError(f"{output}: OpenVINO's files end in .xml, with the weights beside them in .bin")
        started = time.perf_counter()
        network = _read(ov.Core(), model)
        if options.shapes:
            _reshape(network, {name: _partial(each) for name, each in options.shapes.items()}, model)
        _save(network, output)
        return Built(time.perf_counter() - started, (output, output.with_suffix(".bin")))

    def describe(self) -> dict[str, str]:
        return {
            "engine": self.name,
            "version": ov.__version__,
            "device": DEVICE,
            "processor": processor(),
            "options": "latency hint, one stream, float32 arithmetic, no pinning, compiled per input shape",
        }


@final
class OpenVinoSession(Session):
    """A network and what it was compiled to, per shape of its inputs."""

    outputs: tuple[TensorSpec, ...]
    keeps: ClassVar[int] = COMPILED

    def __init__(self, model: Model, threads: int) -> None:
        self._where = str(model) if isinstance(model, Path) else "model in memory"
        self._threads = threads
        self._core = ov.Core()
        self._network = _read(self._core, model)
        self._requests: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()
        self.inputs = tuple(self._spec(port) for port in self._network.inputs)
        self.outputs = tuple(self._spec(port) for port in self._network.outputs)
        if not any(isinstance(size, str) for spec in self.inputs for size in spec.shape):
            self._request(tuple(tuple(map(int, spec.shape)) for spec in self.inputs))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        arrays = self._arrays(feeds)
        request = self._request(tuple(array.shape for array in arrays))
        try:
            results = request.infer(arrays)
        except RuntimeError as error:
            raise ModelError(self._cannot_run(error)) from error
        return {spec.name: results[index].copy() for index, spec in enumerate(self.outputs)}

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[NodeTime]:
        arrays = self._arrays(feeds)
        request = self._compile(tuple(array.shape for array in arrays), {"PERF_COUNT": True})
        best: dict[str, NodeTime] = {}
        for _ in range(1 + runs):
            request.infer(arrays)
            for item in request.profiling_info:
                ms = item.real_time.total_seconds() * 1e3
                if "EXECUTED" in str(item.status) and "NOT_RUN" not in str(item.status):
                    known = best.get(item.node_name)
                    if known is None or ms < known.ms:
                        best[item.node_name] = NodeTime(item.node_name, item.node_type, ms)
        return list(best.values())

    def describe(self) -> dict[str, str]:
        types: set[str] = {
            op.get_element_type().get_type_name()
            for op in self._network.get_ops()
            if op.get_type_name() == "Constant" and op.get_element_type().is_real()
        }
        quantized = any(op.get_type_name() == "FakeQuantize" for op in self._network.get_ops())
        names = sorted([*(_PRECISIONS.get(name, name) for name in types), *["int8"] * quantized])
        return {**super().describe(), "threads": str(self._threads), "precision": " ".join(names) or "fp32"}

    def _arrays(self, feeds: Mapping[str, Array]) -> list[Array]:
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            raise ModelError(self._cannot_run(KeyError(f"no value for input {missing[0]}")))
        arrays = [feeds[spec.name] for spec in self.inputs]
        for array, spec in zip(arrays, self.inputs, strict=True):
            if not fits(spec.shape, array.shape) or array.dtype != spec.dtype:
                given = f"{array.dtype}{array.shape}"
                raise ModelError(self._cannot_run(ValueError(f"{given} does not fit {spec}")))
        return arrays

    def _request(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        if shapes not in self._requests:
            self._requests[shapes] = self._compile(shapes, {})
            if len(self._requests) > self.keeps:
                self._requests.popitem(last=False)
        self._requests.move_to_end(shapes)
        return self._requests[shapes]

    def _compile(self, shapes: tuple[tuple[int, ...], ...], more: Mapping[str, object]) -> Any:
        network = self._network.clone()
        names = [spec.name for spec in self.inputs]
        _reshape(network, dict(zip(names, map(list, shapes), strict=True)), self._where)
        try:
            compiled = self._core.compile_model(network, DEVICE, {**options(self._threads), **more})
            return compiled.create_infer_request()
        except RuntimeError as error:
            reason = f"openvino cannot compile it: {last_line(error)}"
            raise ModelError(f"{self._where}: {reason}; try --engine onnxruntime") from error

    def _cannot_run(self, error: Exception) -> str:
        reason = f"openvino cannot run it: {last_line(error)}"
        return f"{self._where}: {reason}; check that the model takes such inputs"

    def _spec(self, port: Any) -> TensorSpec:
        shape = port.get_partial_shape()
        if shape.rank.is_dynamic:
            raise ModelError(f"{self._where}: {port.any_name}: has no fixed number of axes; export it again")
        sizes = tuple("?" if size.is_dynamic else size.get_length() for size in shape)
        return TensorSpec(port.any_name, port.get_element_type().to_dtype(), sizes)


_PRECISIONS = {"f32": "fp32", "f16": "fp16"}


def options(threads: int) -> dict[str, object]:
    """The properties that every measurement and every comparison uses."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }


def last_line(error: Exception) -> str:
    """What was wrong: the last line that OpenVINO says, after where in its sources it says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip("'\"") if lines else type(error).__name__


def _read(core: Any, model: Model) -> Any:
    where = str(model) if isinstance(model, Path) else "model in memory"
    if isinstance(model, Path) and not model.is_file():
        what = "is a folder; give an .onnx or .xml file" if model.is_dir() else why_no_file(model)
        raise ModelError(f"{model}: {what}")
    if isinstance(model, Path) and not is_text(model):
        raise ModelError(f"{model}: {NO_TEXT}")
    try:
        return core.read_model(str(model) if isinstance(model, Path) else model)
    except RuntimeError as error:
        reason = f"openvino cannot load it: {last_line(error)}"
        raise ModelError(f"{where}: {reason}; export it again or check its files") from error


def _reshape(network: Any, shapes: Mapping[str, Any], where: object) -> None:
    known = {name for port in network.inputs for name in port.names}
    unknown = sorted(set(shapes) - known)
    if unknown:
        raise UsageError(f"shape of {unknown[0]!r}: {where} has no such input (it has {', '.join(known)})")
    try:
        network.reshape(dict(shapes))
    except RuntimeError as error:
        reason = f"openvino cannot give its inputs these shapes: {last_line(error)}"
        raise ModelError(f"{where}: {reason}; check them against the model") from error


def _partial(shapes: Any) -> Any:
    sizes = zip(shapes.low, shapes.high, strict=True)
    return ov.PartialShape([ov.Dimension(low, high) for low, high in sizes])


def _save(network: Any, output: Path) -> None:
    """Both files or neither; compressed weights would be another precision, which is a choice made before."""
    weights = output.with_suffix(".bin")
    check_writable(weights)
    with scratch_folder() as folder:  # it wants to see a name that ends in .xml
        ov.serialize(network, str(Path(folder) / "net.xml"), str(Path(folder) / "net.bin"))
        with write_aside(output) as aside, write_aside(weights) as weights_aside:
            shutil.copyfile(Path(folder) / "net.xml", aside)
            shutil.copyfile(Path(folder) / "net.bin", weights_aside)
