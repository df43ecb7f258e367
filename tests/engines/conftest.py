"""Stand-ins for what needs an NVIDIA GPU: TensorRT in the surfaces of its versions, and the CUDA runtime.

``FakeCuda`` keeps device memory as bytes, runs what is put on a stream when the stream is synchronised and
not before, checks every address and size, and lets each launch take a scripted time. ``make_trt`` gives a
module whose parser makes layers of an ONNX file's nodes and whose engines run in ONNX Runtime on that memory.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.engines.tensorrt.cuda import Cuda, Gpu

MAGIC = b"ftrt"
LAUNCH_MS, GRAPH_MS = 2.0, 0.5


class FakeCuda(Cuda):
    """A device of scripted speed. ``log`` says what was asked of it, in order."""

    def __init__(self, *, missing: str | None = None) -> None:
        self.missing = missing
        self.memory: dict[int, bytearray] = {}
        self.now = 0.0
        self.log: list[str] = []
        self.captured: list[Callable[[], None]] | None = None
        self.queue: list[Callable[[], None]] = []
        self._next = 1 << 20

    def unavailable(self) -> str | None:
        return self.missing

    def gpu(self) -> Gpu:
        return Gpu("Stand-in 9000", 89, "13.5", "13.0")

    def allocate(self, size: int) -> int:
        self._next += 1 << 20
        self.memory[self._next] = bytearray(size)
        self.log.append(f"allocate {size}")
        return self._next

    def free(self, address: int) -> None:
        del self.memory[address]
        self.log.append("free")

    def stream(self) -> Any:
        return "stream"

    def stream_number(self, stream: Any) -> int:
        assert stream == "stream"
        return 7

    def put(self, action: Callable[[], None]) -> None:
        """On the stream, or into the graph that is being captured."""
        (self.queue if self.captured is None else self.captured).append(action)

    def upload(self, address: int, array: Any, stream: Any) -> None:
        assert array.flags.c_contiguous and array.nbytes <= len(self.memory[address])
        self.log.append("upload")
        self.put(lambda: self.write(address, array))

    def download(self, array: Any, address: int, stream: Any) -> None:
        assert array.nbytes <= len(self.memory[address])
        self.put(lambda: np.copyto(array, self.read(address, array.shape, array.dtype)))

    def synchronize(self, stream: Any) -> None:
        assert self.captured is None, "a stream that is being captured cannot be waited for"
        for action in self.queue:
            action()
        self.queue.clear()

    def event(self) -> Any:
        return {}

    def record(self, event: Any, stream: Any) -> None:
        self.put(lambda: event.update(ms=self.now))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return end["ms"] - start["ms"]  # a KeyError where the stream has not got there yet

    def begin_capture(self, stream: Any) -> None:
        assert self.captured is None and not self.queue, "what is on the stream would be lost"
        self.captured = []

    def end_capture(self, stream: Any) -> Any:
        assert self.captured is not None
        graph, self.captured = self.captured, None
        self.log.append("capture")
        return graph

    def launch(self, graph: Any, stream: Any) -> None:
        def replay() -> None:
            before = self.now
            for action in graph:
                action()
            self.now = before + GRAPH_MS  # without the cost of launching one by one

        self.put(replay)

    def write(self, address: int, array: Any) -> None:
        self.memory[address][: array.nbytes] = array.tobytes()

    def read(self, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(bytes(self.memory[address][:size]), dtype).reshape(shape)


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ErrorCode(enum.Enum):
    INVALID_NODE = 6
    UNSUPPORTED_NODE = 8
    MODEL_DESERIALIZE_FAILED = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1


class Mode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class LayerType(enum.Enum):
    CONVOLUTION = 0
    MATRIX_MULTIPLY = 1
    ACTIVATION = 2


KINDS = {
    "Conv": LayerType.CONVOLUTION,
    "MatMul": LayerType.MATRIX_MULTIPLY,
    "Gemm": LayerType.MATRIX_MULTIPLY,
}
KNOWN = {*KINDS, "Relu", "Add", "Cast"}


class Logger:
    def __init__(self) -> None:
        pass


class Profiler:
    def __init__(self) -> None:
        pass


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)


class Network:
    def __init__(self, flags: int) -> None:
        self.creation_flags = flags
        self.model: onnx.ModelProto | None = None

    def fill(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.inputs = [SimpleNamespace(name=v.name, shape=_shape(v)) for v in model.graph.input]
        half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
        dtype = DataType.HALF if half else DataType.FLOAT
        tensor = SimpleNamespace(dtype=dtype, shape=(-1, 4))
        self.layers = [
            SimpleNamespace(
                name=node.name,
                type=KINDS.get(node.op_type, LayerType.ACTIVATION),
                metadata=f"[ONNX Layer: {node.name}]",
                num_inputs=1,
                get_input=lambda _: tensor,
                get_output=lambda _: tensor,
            )
            for node in model.graph.node
        ]

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self.inputs))

    def get_layer(self, index: int) -> Any:
        return self.layers[index]

    def get_input(self, index: int) -> Any:
        return self.inputs[index]


class Parser:
    def __init__(self, network: Network, logger: Any) -> None:
        self.network, self.logger = network, logger
        self.errors: list[Any] = []

    num_errors = property(lambda self: len(self.errors))

    def get_error(self, index: int) -> Any:
        return self.errors[index]

    def parse_from_file(self, path: str) -> bool:
        model = onnx.load(path)
        for index, node in enumerate(model.graph.node):
            self.logger.log(Severity.VERBOSE, f"Parsing node: {node.name} [{node.op_type}]")
            if node.op_type not in KNOWN:
                self.errors.append(self.error(index, ErrorCode.UNSUPPORTED_NODE, "false"))
        if not self.errors:
            self.network.fill(model)
        return not self.errors

    def error(self, index: int, code: ErrorCode, text: str) -> Any:
        return SimpleNamespace(node=lambda: index, code=lambda: code, desc=lambda: text)


class Config:
    """What every version's builder configuration has; ``flags`` are those set."""

    def __init__(self) -> None:
        self.flags = {"TF32"}  # on by default, as in TensorRT
        self.profiles: list[dict[str, Any]] = []
        self.profiling_verbosity: Any = None

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1


class TimedConfig(Config):
    """With a timing cache that means something: TensorRT 10 and 11."""

    cache: Any = None

    def create_timing_cache(self, data: bytes) -> Any:
        if data and not data.startswith(b"timings"):
            return None
        return SimpleNamespace(serialize=lambda: b"timings 2")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True


class RtxConfig(Config):
    """With compute capabilities, and a timing cache that must not be touched."""

    def __init__(self) -> None:
        super().__init__()
        self.num_compute_capabilities = 0
        self.capabilities: dict[int, Any] = {}

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        assert index < self.num_compute_capabilities
        self.capabilities[index] = capability
        return True

    def create_timing_cache(self, data: bytes) -> Any:
        raise AssertionError("has no effect here, and needs a GPU")


class Engine:
    """A deserialised engine; ``data`` holds the ONNX model, and the shapes that it was built for."""

    num_layers = 3

    def __init__(self, trt: Any, data: bytes) -> None:
        self.trt = trt
        document = json.loads(data[len(MAGIC) :])
        self.profile = document["profile"]
        self.session = OnnxRuntime().load(bytes.fromhex(document["model"]))
        self.specs = {spec.name: spec for spec in (*self.session.inputs, *self.session.outputs)}
        self.num_io_tensors = len(self.specs)

    def get_tensor_name(self, index: int) -> str:
        return list(self.specs)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if any(spec.name == name for spec in self.session.inputs) else Mode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(size, str) else size for size in self.specs[name].shape)

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.FLOAT

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: json.dumps(self.trt.inspector_document))

    def create_execution_context(self, config: Any = None) -> Any:
        return Context(self)


class RtxEngine(Engine):
    device_memory_size_v2 = 1

    def create_runtime_config(self) -> Any:
        cache = SimpleNamespace(known=b"")
        cache.deserialize = lambda data: setattr(cache, "known", data) or True
        cache.serialize = lambda: b"kernels"
        config = SimpleNamespace(create_runtime_cache=lambda: cache, cuda_graph_strategy="DISABLED")
        config.set_runtime_cache = lambda given: setattr(config, "cache", given)
        self.trt.runtime_configs.append(config)
        return config


class Engine10(Engine):
    device_memory_size = 1
    device_memory_size_v2 = 1


class Engine11(Engine):
    device_memory_size_v2 = 1


class Context:
    profiler: Any = None

    def __init__(self, engine: Engine) -> None:
        self.engine, self.cuda = engine, engine.trt.cuda
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.launches = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.profile.get(name, [shape, shape, shape])
        fits = len(low) == len(shape) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if fits:
            self.shapes[name] = tuple(shape)
        return fits

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address in self.cuda.memory
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self.shapes.values()))[0]
        return tuple(batch if size == -1 else size for size in self.engine.get_tensor_shape(name))

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        if self.cuda.captured is not None:
            assert self.launches, "the first launch allocates, which cannot be captured"
        self.launches += 1
        shapes, addresses = dict(self.shapes), dict(self.addresses)  # as they are now, as in a captured graph
        self.cuda.put(lambda: self.compute(shapes, addresses))
        return True

    def compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        feeds = {name: self.cuda.read(addresses[name], shape, np.float32) for name, shape in shapes.items()}
        for name, array in self.engine.session.run(feeds).items():
            self.cuda.write(addresses[name], array)
        self.cuda.now += LAUNCH_MS
        if self.profiler is not None:
            self.profiler.report_layer_time("conv+relu", 1.5)
            self.profiler.report_layer_time("out", 0.5)


INSPECTOR_10 = {
    "Layers": [
        {
            "Name": "conv+relu",
            "LayerType": "CaskConvolution",
            "Outputs": [{"Name": "r", "Dimensions": [1, 4], "Format/Datatype": "Row major linear FP32"}],
            "Metadata": "[ONNX Layer: conv]\x1e[ONNX Layer: relu]",
        }
    ],
    "Bindings": ["x", "y"],
}
INSPECTOR_11 = {
    "Layers": [
        {
            "Name": "conv+relu",
            "LayerType": "CaskConvolution",
            "Outputs": [{"Name": "r", "Dimensions": [1, 4], "Format": "Linear", "DataType": "FP32"}],
            "Metadata": "[ONNX Layer: conv]\x1e[ONNX Layer: relu]",
        }
    ],
    "I/O Tensors": [{"Name": "x"}],
}


def make_trt(surface: str, cuda: FakeCuda | None = None) -> Any:
    """A module with the surface of ``10``, ``11`` or ``rtx``. Its ``builds`` lists what was built."""
    trt = SimpleNamespace(__version__=f"{surface}.0", cuda=cuda, builds=[], runtime_configs=[], fail=None)
    config = RtxConfig if surface == "rtx" else TimedConfig
    engine = {"10": Engine10, "11": Engine11, "rtx": RtxEngine}[surface]
    trt.inspector_document = INSPECTOR_11 if surface == "11" else INSPECTOR_10

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger
            if surface != "rtx" and cuda is None:
                logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags: int = 0) -> Network:
            return Network(flags)

        def create_builder_config(self) -> Config:
            return config()

        def create_optimization_profile(self) -> Any:
            profile = SimpleNamespace(shapes={})
            profile.set_shape = lambda name, *three: profile.shapes.update({name: three})
            return profile

        def build_serialized_network(self, network: Network, chosen: Config) -> bytes | None:
            trt.builds.append((network, chosen))
            self.logger.log(Severity.INFO, "Total Weights Memory: 64 bytes")
            self.logger.log(Severity.WARNING, "[api.cpp::check::12] conv: weights are subnormal")
            if trt.fail is not None:
                self.logger.log(Severity.ERROR, trt.fail)
                return None
            assert network.model is not None
            profile = chosen.profiles[0] if chosen.profiles else {}
            document = {"model": network.model.SerializeToString().hex(), "profile": profile}
            return MAGIC + json.dumps(document).encode()

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            if cuda is None:
                self.logger.log(Severity.ERROR, "Cuda Runtime (cudaError 35: driver is insufficient)")
                return None
            if not data.startswith(MAGIC):
                self.logger.log(Severity.ERROR, "Serialization assertion magicTag == kMAGIC failed.")
                return None
            return engine(trt, data)

    trt.Builder, trt.Runtime, trt.OnnxParser = Builder, Runtime, Parser
    trt.IBuilderConfig, trt.ICudaEngine = config, engine
    trt.ILogger, trt.IProfiler = Logger, Profiler
    trt.TensorIOMode = Mode
    trt.LayerInformationFormat = SimpleNamespace(JSON="json")
    trt.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    trt.nptype = lambda dtype: {DataType.FLOAT: np.float32, DataType.HALF: np.float16}[dtype]
    trt.BuilderFlag = SimpleNamespace(TF32="TF32")
    if surface != "11":
        trt.BuilderFlag.DIRECT_IO = "DIRECT_IO"
        trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1 if surface == "10" else 0)
    if surface == "10":
        trt.BuilderFlag.FP16 = "FP16"
    if surface == "rtx":
        trt.ComputeCapability = SimpleNamespace(NONE=0, CURRENT=1, SM75="sm75", SM86="sm86", SM120="sm120")
        trt.IRuntimeCache = object
        trt.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE", DISABLED="DISABLED")
    return trt


@pytest.fixture
def stand_in() -> Callable[..., Any]:
    """``make_trt``."""
    return make_trt


@pytest.fixture
def fake_cuda() -> Callable[..., FakeCuda]:
    """``FakeCuda``."""
    return FakeCuda
