"""Serialized engine → execution context, with TensorRT for RTX's runtime cache where there is one.

TensorRT for RTX compiles kernels on the user's GPU, at the first launch of each shape where it is told to be
eager. The cache keeps them, so that the second session does not pay again; measurements are made after a
warm-up with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otgraph.engines.tensorrt.features import Features, register_plugins
from otgraph.engines.tensorrt.log import errors, make_log
from otgraph.errors import EngineMissing, ModelError, OutputError
from otgraph.files import write_aside


@dataclass(frozen=True)
class Loaded:
    """A deserialized engine; ``runtime`` has to outlive it."""

    runtime: Any
    engine: Any


def deserialize(trt: Any, data: bytes, where: str, name: str, missing: Callable[[], str | None]) -> Loaded:
    """Raises ``EngineMissing`` where there is no GPU, for the reason that ``missing`` gives; ``ModelError``
    where the bytes are no engine of this TensorRT and GPU."""
    logger, lines = make_log(trt)
    runtime, engine = None, None
    with suppress(TypeError, RuntimeError):  # how the bindings say that the constructor returned nothing
        register_plugins(trt, logger)
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        reason = missing()
        if reason is not None:
            raise EngineMissing(f"engine '{name}': cannot load {where} here ({reason})")
        said = (errors(lines) or ["it gives no reason"])[0]
        raise ModelError(
            f"{where}: {name} cannot load it: {said}; build it again with this version, for this GPU"
        )
    return Loaded(runtime, engine)


def make_context(
    loaded: Loaded, features: Features, where: str, *, capture: bool, cached: bytes | None
) -> tuple[Any, Callable[[], bytes] | None]:
    """An execution context, and what serializes its runtime cache, where it has one."""
    engine = loaded.engine
    if not features.runtime_cache:
        return _present(engine.create_execution_context(), where), None
    config = engine.create_runtime_config()
    cache = config.create_runtime_cache()
    if cached:
        cache.deserialize(cached)  # returns False for one of another GPU or version, and stays empty
    config.set_runtime_cache(cache)
    if capture and features.whole_graph_capture is not None:
        config.cuda_graph_strategy = features.whole_graph_capture
    if features.eager_kernels is not None:
        config.dynamic_shapes_kernel_specialization_strategy = features.eager_kernels
    context = _present(engine.create_execution_context(config), where)
    return context, lambda: bytes(cache.serialize())


def cache_file(folder: Path | None, data: bytes, described: Sequence[str]) -> Path | None:
    """Where the runtime cache of an engine lies: told apart by the engine, the GPU and the versions."""
    if folder is None:
        return None
    digest = hashlib.sha256(data)
    digest.update("\n".join(described).encode())
    return folder / f"kernels-{digest.hexdigest()[:24]}.bin"


def read_cache(path: Path) -> bytes | None:
    """The runtime cache, if there is one that can be read; TensorRT itself refuses one that is damaged."""
    with suppress(OSError):
        return path.read_bytes()
    return None


def write_cache(path: Path, data: bytes) -> None:
    """Keep a runtime cache; a folder that cannot be written to costs only time."""
    with suppress(OutputError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_aside(path) as aside:
            aside.write_bytes(data)


def _present(context: Any, where: str) -> Any:
    if context is None:
        raise ModelError(
            f"{where}: TensorRT cannot make a context for it; check that the GPU has memory left"
        )
    return context
