"""Stand-ins for what needs an NVIDIA GPU: TensorRT in the surfaces of its versions, and the CUDA runtime.

``FakeCuda`` keeps device memory as bytes, runs what is put on a stream when the stream is synchronized and
not before, checks every address, size and handle, and lets each launch take a scripted time. ``make_trt``
gives a module whose parser makes layers of an ONNX file's nodes and whose engines run in ONNX Runtime on that
memory. As in TensorRT, the first logger is the only one that is heard, and a captured graph means nothing any
more once the context has another shape or address.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from otgraph.engines.onnxruntime import OnnxRuntime
from otgraph.engines.tensorrt.cuda import Cuda, Gpu

MAGIC = b"ftrt"
LAUNCH_MS, GRAPH_MS = 2.0, 0.5
REFUSALS = {
    b"old": "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion"
    " stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current Version: 237,"
    " Serialized Engine Version: 239)",
    b"gpu": "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is"
    " generated on an incompatible device, expecting compute 8.9 got compute 8.6, please rebuild.)",
    b"": "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion magicTagRead"
    " == kMAGIC_TAG failed.Magic tag does not match)",
}
"""What TensorRT 10 says of bytes that it cannot load, by how they begin here."""


class FakeCuda(Cuda):
    """A device of scripted speed. ``log`` says what was asked of it, in order."""

    def __init__(self, *, missing: str | None = None) -> None:
        self.missing = missing
        self.memory: dict[int, bytearray] = {}
        self.now = 0.0
        self.log: list[str] = []
        self.captured: list[Callable[[], None]] | None = None
        self.queue: list[Callable[[], None]] = []
        self.live: dict[int, Any] = {}
        self._next = 1 << 20

    def unavailable(self) -> str | None:
        return self.missing

    def gpu(self) -> Gpu:
        return Gpu("Stand-in 9000", 89, "13.5", "13.0", "0000:41:00.0")

    def allocate(self, size: int) -> int:
        self._next += 1 << 20
        self.memory[self._next] = bytearray(size)
        self.log.append(f"allocate {size}")
        return self._next

    def free(self, address: int) -> None:
        del self.memory[address]
        self.log.append("free")

    def made(self, handle: Any) -> Any:
        """Alive until it is destroyed."""
        self.live[id(handle)] = handle
        return handle

    def destroy(self, handle: Any) -> None:
        del self.live[id(handle)]

    destroy_stream = destroy_event = destroy_graph = destroy

    def stream(self) -> Any:
        return self.made(["stream"])

    def stream_number(self, stream: Any) -> int:
        assert id(stream) in self.live
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
        return self.made({})

    def record(self, event: Any, stream: Any) -> None:
        assert id(event) in self.live
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
        return self.made(graph)

    def abandon_capture(self, stream: Any) -> None:
        self.captured = None

    def launch(self, graph: Any, stream: Any) -> None:
        assert id(graph) in self.live

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
    FLOAT = np.float32
    HALF = np.float16
    INT32 = np.int32
    INT64 = np.int64
    BOOL = np.bool_
    BF16 = None


class Location(enum.Enum):
    DEVICE = 0
    HOST = 1


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
KNOWN = {*KINDS, "Relu", "Add", "Cast", "Reshape", "Compress"}
NO_PLUGIN = (
    "Assertion failed: creator && getPluginCreatorVersion(creator) == CreatorVersion::kV3ONE: NonZero plugin"
    " creator version 1 was not found in plugin registry."
)


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
        sizes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
        self.inputs = [
            SimpleNamespace(name=v.name, shape=_shape(v), is_shape_tensor=v.name in sizes)
            for v in model.graph.input
        ]
        half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
        dtype = DataType.HALF if half else DataType.FLOAT
        tensor = SimpleNamespace(dtype=dtype, shape=_shape(model.graph.input[0]))
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
            text = NO_PLUGIN if node.op_type == "NonZero" else "false"
            if node.op_type not in KNOWN:
                self.errors.append(self.error(index, ErrorCode.UNSUPPORTED_NODE, text))
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
    """A deserialized engine; ``data`` holds the ONNX model, the shapes that it was built for, and which of
    its inputs and outputs are of other types than the model's (``types``) or in the host's memory (``host``).
    """

    num_layers = 3

    def __init__(self, trt: Any, data: bytes) -> None:
        self.trt = trt
        document = json.loads(data[len(MAGIC) :])
        self.profile = document["profile"]
        self.types, self.host = document.get("types", {}), document.get("host", ())
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
        if name in self.types:
            return DataType[self.types[name]]
        return DataType(self.specs[name].dtype.type)

    def get_tensor_location(self, name: str) -> Location:
        return Location.HOST if name in self.host else Location.DEVICE

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: json.dumps(self.trt.inspector_document))

    def create_execution_context(self, config: Any = None) -> Any:
        return Context(self, config)


class RtxEngine(Engine):
    def create_runtime_config(self) -> Any:
        cache = SimpleNamespace(known=b"", kernels=set())
        cache.deserialize = lambda data: setattr(cache, "known", data) or True
        cache.serialize = lambda: f"kernels for {len(cache.kernels)} shapes".encode()
        config = SimpleNamespace(create_runtime_cache=lambda: cache, cuda_graph_strategy="DISABLED")
        config.dynamic_shapes_kernel_specialization_strategy = "LAZY"
        config.set_runtime_cache = lambda given: setattr(config, "cache", given)
        self.trt.runtime_configs.append(config)
        return config


class Context:
    profiler: Any = None

    def __init__(self, engine: Engine, config: Any) -> None:
        self.engine, self.cuda, self.config = engine, engine.trt.cuda, config
        self.changes = 0
        self.fail = False
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.launches = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.changes += 1
        low, _, high = self.engine.profile.get(name, [shape, shape, shape])
        fits = len(low) == len(shape) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if fits:
            self.shapes[name] = tuple(shape)
        return fits

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address in self.cuda.memory and name not in self.engine.host
        self.changes += 1
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Of what depends on the data alone, -1."""
        specs = self.engine.specs
        sizes = {
            symbol: size
            for given, shape in self.shapes.items()
            for symbol, size in zip(specs[given].shape, shape, strict=True)
        }
        return tuple(sizes.get(size, -1) if isinstance(size, str) else size for size in specs[name].shape)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        if self.fail:
            return False
        if self.cuda.captured is not None:
            assert self.launches, "the first launch allocates, which cannot be captured"
        self.launches += 1
        shapes, addresses = dict(self.shapes), dict(self.addresses)  # as they are now, as in a captured graph
        changes = self.changes
        self.cuda.put(lambda: self.compute(shapes, addresses, changes))
        return True

    def compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], changes: int) -> None:
        assert changes == self.changes, "a graph captured before the context changed is undefined"
        self.engine.trt.computed.append(shapes)
        if self.config is not None and self.config.dynamic_shapes_kernel_specialization_strategy == "EAGER":
            self.config.cache.kernels.add(str(shapes))
        dtypes = {name: self.engine.specs[name].dtype for name in shapes}
        feeds = {name: self.cuda.read(addresses[name], shape, dtypes[name]) for name, shape in shapes.items()}
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


def nptype(dtype: DataType) -> Any:
    if dtype.value is None:
        raise TypeError(f"Could not resolve TensorRT datatype to an equivalent numpy datatype: {dtype}")
    return dtype.value


def make_trt(surface: str, cuda: FakeCuda | None = None) -> Any:
    """A module with the surface of ``10``, ``11`` or ``rtx``. Its ``builds`` lists what was built."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__, trt.cuda, trt.fail = f"{surface}.0", cuda, None
    trt.builds, trt.runtime_configs, trt.plugins, trt.loggers, trt.computed = [], [], [], [], []
    config = RtxConfig if surface == "rtx" else TimedConfig
    engine = RtxEngine if surface == "rtx" else Engine

    def heard(logger: Any) -> Any:
        trt.loggers.append(logger)
        return trt.loggers[0]

    trt.inspector_document = INSPECTOR_11 if surface == "11" else INSPECTOR_10

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = heard(logger)
            if surface != "rtx" and cuda is None:
                self.logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
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
            self.logger = heard(logger)

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            if cuda is None or cuda.missing:
                self.logger.log(Severity.ERROR, "Cuda Runtime (cudaError 35: driver is insufficient)")
                return None
            if not data.startswith(MAGIC):
                said = next(text for start, text in REFUSALS.items() if data.startswith(start))
                self.logger.log(Severity.ERROR, said)
                return None
            assert trt.plugins, "an engine with plugins finds none that were not registered"
            return engine(trt, data)

    trt.Builder, trt.Runtime, trt.OnnxParser = Builder, Runtime, Parser
    trt.IBuilderConfig, trt.ICudaEngine = config, engine
    trt.ILogger, trt.IProfiler = Logger, Profiler
    trt.TensorIOMode, trt.TensorLocation = Mode, Location
    trt.init_libnvinfer_plugins = lambda logger, namespace: trt.plugins.append(namespace) or True
    trt.LayerInformationFormat = SimpleNamespace(JSON="json")
    trt.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    trt.nptype = nptype
    trt.BuilderFlag = SimpleNamespace(TF32="TF32")
    if surface != "11":
        trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1 if surface == "10" else 0)
    if surface == "10":
        trt.BuilderFlag.FP16 = "FP16"
    if surface == "rtx":
        trt.ComputeCapability = SimpleNamespace(NONE=0, CURRENT=1, SM75="sm75", SM86="sm86", SM120="sm120")
        trt.IRuntimeCache = object
        trt.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="LAZY", EAGER="EAGER")
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


@pytest.fixture
def engine_file() -> Callable[..., bytes]:
    """The bytes of an engine of ``model`` that was built elsewhere, with its ``types`` and ``host``."""

    def make(model: onnx.ModelProto, **fields: Any) -> bytes:
        document = {"model": model.SerializeToString().hex(), "profile": {}, **fields}
        return MAGIC + json.dumps(document).encode()

    return make
