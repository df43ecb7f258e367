"""ONNX's own backend tests, run on the ``onnx`` dialect: what passes, fails and is not supported, by
operator.

    python tools/onnx_conformance.py [--kinds node simple …] [--filter conv] [--json F]

``passed`` is computed by torch functions alone; ``by engine`` passes as well, but a node of it runs in ONNX
Runtime, so that the analysis takes it for opaque; ``engine differs`` where that gives other values than the
test wants; ``listed``: torch gives other values, for a reason that ``onnx_expectations.py`` gives and a test
proves. ``unsupported``: neither can hold or run it (sequences, strings,
types that torch lacks), and that is said. Load → save → load must give the same outputs, and is counted
apart.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from bench_output import save, show
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from onnx_expectations import LISTED

from otgraph.errors import ModelError, OtgraphError
from otgraph.graph.onnx.backend import OtgraphBackend
from otgraph.graph.save import to_model

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
RANDOM = ("training_dropout", "bernoulli", "random")
"""Cases whose expected outputs hang on a random generator."""


@dataclass(frozen=True)
class Outcome:
    """``status``: one of ``STATUSES``; ``saved``: whether it survives being
    saved."""

    name: str
    kind: str
    op: str
    status: str
    detail: str = ""
    is_float: bool = True
    saved: bool | None = None


def main() -> int:
    """Run the tests; exit code 1 when one of an operator that torch computes fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--filter", default="", help="only cases with this in their name")
    parser.add_argument("--json", type=Path, metavar="F")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    outcomes = [run(case, kind) for kind, case in cases(options.kinds, options.filter)]
    rows = table(outcomes)
    show("conformance", rows, {"op": "", **dict.fromkeys(STATUSES, "d"), "first failure": ""})
    print(summary(outcomes))
    save(options.json, {"cases": [vars(outcome) for outcome in outcomes], "ops": rows})
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


STATUSES = ("passed", "by engine", "failed", "listed", "engine differs", "unsupported", "random")


def cases(kinds: Iterable[str], part: str) -> Iterable[tuple[str, Any]]:
    """The test cases that the wheel ships, with their kind."""
    for kind in kinds:
        for case in load_model_tests(kind="real" if kind == "light" else kind):
            if part in case.name:
                yield kind, case


def run(case: Any, kind: str) -> Outcome:
    """One case: every data set, and the saved model on the first."""
    model = case.model if case.model is not None else onnx.load(_file(case))
    op = _op(model)
    sets = list(_data_sets(case, model))
    is_float = _is_float(sets, op, case.name)
    about = (case.name, kind, op)
    if any(word in case.name for word in RANDOM):
        return Outcome(*about, "random", is_float=False)
    engine, saved = False, True
    try:
        for inputs, wanted in sets:
            rep = OtgraphBackend.prepare(model)
            found = rep.run(inputs)
            assert rep.graph is not None
            engine |= any(node.op == "call_module" for node in rep.graph.module.graph.nodes)
            _compare(found, wanted, case)
            saved &= to_model(rep.graph).SerializeToString(deterministic=True) == _canonical(model)
    except OtgraphError as error:
        return Outcome(*about, "unsupported", str(error), is_float)
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = LISTED.get(case.name)
        status = "engine differs" if engine else "failed" if reason is None else "listed"
        return Outcome(*about, status, reason or f"{type(error).__name__}: {lines[0]}", is_float)
    return Outcome(*about, "by engine" if engine else "passed", "", is_float, saved)


def _file(case: Any) -> Path:
    """Where the model of a case lies: in its folder, or, of a light model, inside the wheel."""
    if case.model_dir is not None:
        return Path(case.model_dir) / "model.onnx"
    return Path(onnx.__file__).parent.parent / case.url


def _canonical(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def _op(model: onnx.ModelProto) -> str:
    """The operator that a case is about: its last that is no constant; the number of nodes of a network."""
    kinds = [f"{node.domain + '.' if node.domain else ''}{node.op_type}" for node in model.graph.node]
    named = [kind for kind in kinds if kind != "Constant"] or kinds or ["(nothing)"]
    return named[-1] if len(set(named)) <= 2 else "(several)"


def _data_sets(case: Any, model: onnx.ModelProto) -> Iterable[tuple[list[Any], list[Any]]]:
    if case.data_sets is not None:
        for inputs, outputs in case.data_sets:
            yield [_array(value) for value in inputs], [_array(value) for value in outputs]
        return
    if case.model_dir is None:
        stored = {tensor.name for tensor in model.graph.initializer}
        ports = [port for port in model.graph.input if port.name not in stored]
        inputs = [Runner.generate_dummy_data(port) for port in ports]
        file = _file(case)
        yield (
            inputs,
            [numpy_helper.to_array(onnx.load_tensor(str(file.with_name(f"{file.stem}_output_0.pb"))))],
        )
        return
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        yield _read(folder, "input"), _read(folder, "output")


def _array(value: Any) -> Any:
    """Some cases hold serialized tensors where others hold arrays."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _read(folder: Path, what: str) -> list[Any]:
    files = sorted(folder.glob(f"{what}_*.pb"), key=lambda file: int(file.stem.rpartition("_")[2]))
    return [numpy_helper.to_array(onnx.load_tensor(str(file))) for file in files]


def _is_float(sets: list[tuple[list[Any], list[Any]]], op: str, name: str) -> bool:
    """Whether a case is of float inference: tensors of common types, a float among them, the ONNX domain."""
    arrays = [array for inputs, outputs in sets for array in (*inputs, *outputs)]
    common = {"float32", "float64", "float16", "int64", "int32", "bool"}
    plain = all(isinstance(a, (np.ndarray, np.generic)) and str(a.dtype) in common for a in arrays)
    floats = any(isinstance(a, (np.ndarray, np.generic)) and a.dtype.kind == "f" for a in arrays)
    return (
        plain
        and floats
        and "." not in op
        and not any(word in name for word in ("training", "loss", "gradient"))
    )


def _compare(found: tuple[Any, ...], wanted: list[Any], case: Any) -> None:
    assert len(found) == len(wanted), f"{len(found)} outputs, not {len(wanted)}"
    pairs: list[tuple[Any, Any]] = list(zip(found, wanted, strict=True))
    for mine, expected in pairs:
        if not isinstance(expected, (np.ndarray, np.generic)):
            raise ModelError(f"an output is a {type(expected).__name__}: only tensors are supported")
        assert mine.dtype == expected.dtype, f"dtype {mine.dtype}, not {expected.dtype}"
        assert mine.shape == expected.shape, f"shape {mine.shape}, not {expected.shape}"
        if mine.dtype.kind == "V" or "float8" in str(mine.dtype) or "bfloat16" in str(mine.dtype):
            mine, expected = mine.astype(np.float32), expected.astype(np.float32)
        np.testing.assert_allclose(mine, cast(Any, expected), rtol=case.rtol, atol=case.atol)


def table(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """One row per operator: those with failures first, then by name."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    first: dict[str, str] = {}
    for outcome in outcomes:
        counts[outcome.op][outcome.status] += 1
        if outcome.status == "failed":
            first.setdefault(outcome.op, f"{outcome.name}: {outcome.detail}"[:90])
    rows = [
        {"op": op, **{status: count[status] for status in STATUSES}, "first failure": first.get(op, "")}
        for op, count in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row["failed"], row["op"]))


def summary(outcomes: list[Outcome]) -> str:
    """Totals: all cases, those of float inference, and of models that came back from saving unchanged."""
    lines: list[str] = []
    groups: Mapping[str, list[Outcome]] = {
        "all": [o for o in outcomes if o.status != "random"],
        "float inference": [o for o in outcomes if o.is_float and o.status != "random"],
    }
    for name, group in groups.items():
        count = Counter(outcome.status for outcome in group)
        good, total = count["passed"] + count["by engine"], max(len(group), 1)
        parts = ", ".join(f"{count[s]} {s}" for s in STATUSES if count[s])
        lines.append(
            f"{name}: {len(group)} cases: {parts}; {good / total:.1%} pass, "
            f"{count['passed'] / total:.1%} in torch"
        )
    ran = [outcome for outcome in outcomes if outcome.saved is not None]
    lines.append(f"load → save is the identity: {sum(bool(o.saved) for o in ran)} of {len(ran)} models")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
