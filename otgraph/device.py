"""What runs where the model will run: audit, bench and build of model files, without torch.

The same functions as in ``otgraph.api``, for files that an engine can load by itself. This module and all
that it imports need NumPy, ONNX and ONNX Runtime, and an engine's own package where that engine is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otgraph.audit.compare import audit as audit_files
from otgraph.audit.report import Audit
from otgraph.data import Array, Data
from otgraph.data_bounds import machine_memory
from otgraph.data_check import TensorSpec, fits
from otgraph.data_model import ModelData
from otgraph.engines.artifact import BuildOptions, Built
from otgraph.engines.catalog import DEFAULT, check_asked, engine_for, get_builder
from otgraph.engines.feeds import first_feeds
from otgraph.errors import ModelError, UsageError
from otgraph.files import check_writable
from otgraph.latency.environment import Environment, environment
from otgraph.latency.protocol import Contest, Contestant, contest
from otgraph.precision.convert import Precision, convert_file
from otgraph.scratch import scratch_folder
from otgraph.seed import check_seed

__all__ = ["Bench", "audit", "bench_all", "build"]

DRAWN = 8
"""Bytes of a made-up value while it is drawn."""


@dataclass(frozen=True)
class Bench:
    """``names`` of the models that ran, ``runs``: by which engine, how and on what sizes, and what was
    measured."""

    names: tuple[str, ...]
    runs: tuple[Mapping[str, str], ...]
    measured: Contest
    environment: Environment

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as ``bench.schema.json`` describes them."""
        latencies = zip(self.names, self.runs, self.measured.latencies, strict=True)
        return {
            "artifacts": [
                {"model": name, "run": dict(run), "latency": latency.to_json()}
                for name, run, latency in latencies
            ],
            "comparisons": [
                {
                    "a": self.names[0],
                    "b": name,
                    **found.to_json(),
                    "speedup": found.speedup,
                    "credible_gain": found.credible_gain,
                }
                for name, found in zip(self.names[1:], self.measured.comparisons, strict=True)
            ],
            "environment": self.environment.to_json(),
        }


def audit(a: str | Path, b: str | Path, data: Data, **choices: Any) -> Audit:
    """B measured against A: see ``otgraph.audit.compare.audit``."""
    return audit_files(Path(a), Path(b), data, **choices)


def bench_all(
    models: Sequence[str | Path],
    data: Data | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    engine: str | None = None,
    cuda_graph: bool = False,
    threads: int = 1,
    seed: int = 0,
    feeds: Mapping[str, Array] | None = None,
) -> Bench:
    """The latency of each file on one sample, all measured in one go; further ones are held against the
    first.

    The sample: ``feeds`` where given, else the first of ``data``, else made up, with ``shapes`` for the
    inputs whose axes are dynamic. Raises ``UsageError``, ``ModelError``, ``DataError``, ``EngineMissing``.
    """
    check_seed(seed)
    paths = [Path(model) for model in models]
    engines = [engine_for(path, engine, cuda_graph=cuda_graph) for path in paths]
    check_asked(engine, engines, paths)
    contestants: list[Contestant] = []
    runs: list[Mapping[str, str]] = []
    for path, runner in zip(paths, engines, strict=True):
        session = runner.load(path, threads=threads)
        sample = feeds or _sample(session.inputs, data, shapes or {}, seed)
        contestants.append(Contestant(runner, path, sample))
        session.run(sample)
        fed = {f"shape of {name}": "×".join(map(str, array.shape)) for name, array in sample.items()}
        runs.append({**runner.describe(), "engine": runner.name, **session.describe(), **fed})
        del session  # measured with fresh sessions
    measured = contest(contestants, threads=threads, seed=seed)
    kinds = [each.describe() for each in engines]
    other = next((kind for kind in kinds if kind != kinds[0]), None)
    return Bench(tuple(map(str, models)), tuple(runs), measured, environment(kinds[0], other))


def build(
    model: str | Path,
    output: Path,
    *,
    engine: str = DEFAULT,
    options: BuildOptions | None = None,
    precision: Precision = "fp32",
    calibration: Data | None = None,
) -> Built:
    """Write what ``engine`` loads to run the ONNX file ``model``, in ``precision``.

    ``int8`` needs ``calibration``; Q/DQ nodes are placed as the engine wants them. ``fp16`` keeps in float32
    what overflows on it, where it is given. Raises ``UsageError``, ``DataError``, ``ModelError``,
    ``OutputError``, ``EngineMissing``.
    """
    model = Path(model)
    if model.suffix != ".onnx":
        raise UsageError(f"{model}: is built already, or is no ONNX file; give an .onnx file")
    if output.resolve() == model.resolve():
        raise UsageError(f"{output}: is the model itself; give another name")
    check_writable(output)
    builder = get_builder(engine)
    if builder.suffixes and output.suffix not in builder.suffixes:
        endings = " or ".join(builder.suffixes)
        raise UsageError(f"{output}: engine '{engine}' writes {endings}; give a name that ends so")
    options = options or BuildOptions()
    with scratch_folder() as folder:
        place = Path(folder) / model.name
        converted, said = convert_file(model, place, precision, calibration, engine)
        try:
            built = builder.build(converted, output, options)
        except ModelError as error:  # the converted file is gone when this is read
            named = str(error).replace(str(place), f"{model.name} in {precision}")
            raise ModelError(named) from error
    return Built(built.seconds, built.files, built.layers, built.engine_layers, (*said, *built.remarks))


def _sample(
    specs: Sequence[TensorSpec], data: Data | None, shapes: Mapping[str, Sequence[int]], seed: int
) -> Mapping[str, Array]:
    unknown = sorted(set(shapes) - {spec.name for spec in specs})
    if unknown:
        listed = ", ".join(spec.name for spec in specs)
        raise UsageError(f"shape of {unknown[0]!r}: the model has no such input (it has {listed})")
    if data is not None:
        return first_feeds(ModelData.of(data, specs), specs)
    draw = np.random.default_rng(seed)
    return {spec.name: _made_up(spec, shapes.get(spec.name), draw) for spec in specs}


def _made_up(spec: TensorSpec, shape: Sequence[int] | None, draw: np.random.Generator) -> Array:
    """Values of no meaning: between 0 and 1, and zeros where an input counts or points."""
    free = [index for index, size in enumerate(spec.shape) if isinstance(size, str)]
    if shape is None and free not in ([], [0]):
        raise UsageError(f"input {spec}: say its sizes with --shape {spec.name}=…, or give --data")
    sizes = tuple(shape) if shape is not None else tuple(1 if isinstance(s, str) else s for s in spec.shape)
    if not fits(spec.shape, sizes):
        raise UsageError(f"shape of {spec.name!r}: {tuple(sizes)} does not fit {spec}")
    if math.prod(sizes) * max(spec.dtype.itemsize, DRAWN) > machine_memory() // 2:
        raise UsageError(
            f"input {spec}: {tuple(sizes)} is more than half of the memory; give --shape or --data"
        )
    if spec.dtype.kind == "f":
        return draw.random(sizes).astype(spec.dtype)
    return np.zeros(sizes, spec.dtype)
