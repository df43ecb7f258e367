"""ONNX file → serialized engine, by TensorRT or TensorRT for RTX alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otgraph.engines.artifact import BuildOptions, Built, Layer
from otgraph.engines.tensorrt.features import Features, read_features, register_plugins
from otgraph.engines.tensorrt.log import Line, errors, make_log, named_nodes, remarks
from otgraph.engines.tensorrt.network import network_layers, node_names, parse, shape_of
from otgraph.engines.tensorrt.profiles import add_profile
from otgraph.errors import EngineMissing, ModelError, UsageError
from otgraph.files import check_writable, write_aside
from otgraph.remark import Remark

TURING = 75
PRODUCTS = frozenset(("MATRIX_MULTIPLY", "EINSUM"))
VOLUMES = frozenset(("CONVOLUTION", "DECONVOLUTION"))
VOLUME_AXES = 5
SINGLE = "FLOAT"

Inspect = Callable[[bytes], tuple[Layer, ...]]


@dataclass(frozen=True)
class SerializedEngine:
    """A serialized engine, the network it was made of, and what was said on the way."""

    data: bytes
    layers: tuple[Layer, ...]
    remarks: tuple[Remark, ...]


def build_file(
    trt: Any, engine: str, model: Path, output: Path, options: BuildOptions, inspect: Inspect
) -> Built:
    """Build and write. ``inspect`` lists a serialized engine's layers and raises ``EngineMissing`` where it
    cannot be deserialized, which is remarked, no failure."""
    check_writable(output)
    started = time.perf_counter()
    plan = build_plan(trt, engine, model, options)
    seconds = time.perf_counter() - started
    with write_aside(output) as aside:
        aside.write_bytes(plan.data)
    table, said = None, plan.remarks
    try:
        table = inspect(plan.data)
    except EngineMissing as error:
        message = f"its layers after fusion are not listed: {error}"
        said = (*said, Remark("analysis", engine, "engine", message))
    return Built(seconds, (output,), plan.layers, table, said)


def build_plan(trt: Any, engine: str, model: Path, options: BuildOptions) -> SerializedEngine:
    """The engine's bytes.

    Raises:
        ModelError: TensorRT cannot read the model or finds no engine for it; nodes are named.
        UsageError: an option does not fit this TensorRT, the model, or the GPU asked for.
    """
    features = read_features(trt)
    capabilities = check_capabilities(engine, features, options.compute_capabilities)
    logger, lines = make_log(trt)
    builder = make_builder(trt, logger, lines, engine)
    network, parser = parse(trt, builder, features.network_flags, logger, model, engine)
    layers = network_layers(network)
    if TURING in options.compute_capabilities:
        check_turing(layers, network, engine)
    config = builder.create_builder_config()
    said = add_profile(builder, config, network, options.shapes, _input_names(network), engine)
    configure(config, features, capabilities, options)
    cache = load_timing_cache(config, features, options, engine)
    data = builder.build_serialized_network(network, config)
    names = node_names(model)
    if data is None:
        raise ModelError(f"{model}: {engine} finds no engine for it: {_why(lines, names)}")
    if cache is not None and options.timing_cache is not None:
        with write_aside(options.timing_cache) as aside:
            aside.write_bytes(bytes(cache.serialize()))
    del parser  # it owns the weights until the build is over
    return SerializedEngine(bytes(data), layers, (*said, *remarks(lines, names, engine)))


def make_builder(trt: Any, logger: Any, lines: Sequence[Line], engine: str) -> Any:
    """A builder. Raises ``EngineMissing`` where TensorRT wants a GPU for that and there is none."""
    builder = None
    with suppress(TypeError, RuntimeError):  # how the bindings say that the constructor returned nothing
        register_plugins(trt, logger)
        builder = trt.Builder(logger)
    if builder is None:
        reason = (errors(lines) or ["the builder could not be made"])[0]
        raise EngineMissing(f"engine '{engine}': cannot build here ({reason}); it needs an NVIDIA GPU")
    return builder


def check_capabilities(engine: str, features: Features, wanted: Sequence[int]) -> list[Any]:
    """The enumeration's members. Raises ``UsageError`` for what cannot be built for."""
    if wanted and not features.builds_ahead:
        raise UsageError(
            f"engine '{engine}': builds for the GPU that it runs on; leave --compute-capability out, or use"
            " --engine tensorrt-rtx"
        )
    known = features.compute_capabilities
    for each in wanted:
        if each not in known:
            listed = ", ".join(map(str, known))
            raise UsageError(
                f"--compute-capability {each}: {engine} builds for {listed}; data-center GPUs (90, 100) are"
                " for --engine tensorrt, on such a GPU"
            )
    return [known[each] for each in dict.fromkeys(wanted)]


def check_turing(layers: Sequence[Layer], network: Any, engine: str) -> None:
    """Raise ``UsageError`` where a layer has no kernel on Turing: a matrix product or a 3-D convolution in
    float32. (Other convolutions have one; int8 makes no difference to a matrix product.)"""
    for index, layer in enumerate(layers):
        if _lacks_turing(layer.kind, network.get_layer(index)):
            node = layer.nodes[0] if layer.nodes else layer.name
            raise UsageError(
                f"--compute-capability 75: {engine} has no float32 matrix products or 3-D convolutions"
                f" for Turing, and {node} is one; build with --precision fp16, or leave 75 out"
            )


def _lacks_turing(kind: str, layer: Any) -> bool:
    first = layer.get_input(0) if layer.num_inputs else None
    if first is None or getattr(first.dtype, "name", first.dtype) != SINGLE:
        return False
    return kind in PRODUCTS or (kind in VOLUMES and len(shape_of(first)) == VOLUME_AXES)


def configure(config: Any, features: Features, capabilities: Sequence[Any], options: BuildOptions) -> None:
    """Everything but the profile. float32 means float32: TensorRT would round to TF32 by itself."""
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)
    if features.tf32 is not None:
        if options.tf32:
            config.set_flag(features.tf32)
        else:
            config.clear_flag(features.tf32)
    if features.detailed_profile is not None:
        config.profiling_verbosity = features.detailed_profile


def load_timing_cache(config: Any, features: Features, options: BuildOptions, engine: str) -> Any:
    """The timing cache that the build reads and fills, or None where there is none."""
    if options.timing_cache is None:
        return None
    if not features.timing_cache:
        raise UsageError(f"engine '{engine}': has no use for --timing-cache, nothing is timed; leave it out")
    check_writable(options.timing_cache)
    known = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise UsageError(
            f"{options.timing_cache}: is no timing cache of this TensorRT and GPU; remove it or name another"
        )
    return cache


def _input_names(network: Any) -> list[str]:
    return [network.get_input(index).name for index in range(network.num_inputs)]


def _why(lines: Sequence[Line], names: Sequence[str]) -> str:
    said = errors(lines)
    if not said:
        return "its log gives no reason; try --engine onnxruntime"
    nodes = named_nodes(" ".join(said), names)
    where = f" (node{'s' * (len(nodes) > 1)} {', '.join(nodes)})" if nodes else ""
    return f"{said[0]}{where}; replace that part, or use --engine onnxruntime"
