"""Who may import whom: the map of the architecture."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

BASE = {"errors", "remark", "files"}
DATA = BASE | {"data"}
ONNX_ONLY = {"numpy", "scipy", "onnx", "onnxruntime", "psutil", "google"}
TORCH = {"torch", "numpy", "scipy"}

LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "remark": set(),
    "files": BASE,
    "quiet": set(),
    "window": set(),
    "named_callable": BASE,
    "data": BASE | {"named_callable"},
    "sample": DATA,
    "transport": DATA,
    "graph": DATA | {"window", "named_callable", "quiet"},
    "calibrate": DATA | {"window", "transport", "graph"},
    "repair": DATA | {"transport", "graph", "calibrate"},
    "rewrite": DATA | {"window", "graph", "calibrate"},
    "allocate": BASE,
    "plan": DATA | {"transport", "graph", "calibrate", "repair", "rewrite"},
    "engines": DATA,
    "latency": DATA | {"window", "engines"},
    "audit": DATA | {"engines", "latency", "named_callable"},
}
"""Unit of otgraph → the units it may import besides itself. ``data*.py`` at the top are the unit ``data``."""
ENGINES = {
    "otgraph.engines.pytorch": "engine of torch",
    "otgraph.engines.openvino": "engine of openvino",
    "otgraph.engines.tensorrt": "engine of tensorrt",
}
"""Engines whose package is heavy or optional, by the start of their modules' names: units of their own, which
nothing imports but the catalogue, by name and on demand."""
LAYERS["engine of torch"] = DATA | {"engines", "graph", "quiet"}
LAYERS["engine of openvino"] = DATA | {"engines"}
LAYERS["engine of tensorrt"] = DATA | {"engines"}
LAYERS["precision"] = DATA | {"engines", "audit", "quiet"}
LAYERS["device"] = DATA | {"engines", "latency", "audit", "precision"}
LAYERS["load"] = DATA | {"graph", "named_callable"}
LAYERS["pricing"] = DATA | {
    "window",
    "transport",
    "graph",
    "calibrate",
    "repair",
    "rewrite",
    "allocate",
    "engines",
    "latency",
}
LAYERS["inspection"] = DATA | {"transport", "graph", "calibrate", "rewrite", "pricing"}
LAYERS["optimize"] = set(LAYERS) - {*ENGINES.values(), "device"}
LAYERS["api"] = set(LAYERS) - {*ENGINES.values()}
LAYERS["cli"] = {*LAYERS} - {*ENGINES.values()}
LAYERS["passes"] = set(LAYERS) - {"api", "cli", "device", *ENGINES.values()}

LIBRARIES: dict[str, set[str]] = {
    "errors": set(),
    "remark": set(),
    "files": set(),
    "quiet": set(),
    "window": set(),
    "named_callable": set(),
    "data": {"numpy"},
    "sample": {"numpy"},
    "transport": {"numpy", "scipy", "ot"},
    "graph": TORCH | {"onnx", "onnxruntime", "onnx_ir", "onnxscript", "sympy", "google"},
    "calibrate": TORCH,
    "repair": TORCH,
    "rewrite": TORCH,
    "allocate": {"numpy", "ortools"},
    "pricing": TORCH,
    "inspection": TORCH,
    "plan": TORCH | {"jsonschema"},
    "engines": ONNX_ONLY,
    "engine of torch": {"torch", "numpy"},
    "engine of openvino": {"openvino", "numpy"},
    "engine of tensorrt": {"numpy", "onnx", "cuda"},
    "precision": ONNX_ONLY | {"onnx_ir"},
    "device": {"numpy"},
    "latency": ONNX_ONLY,
    "audit": ONNX_ONLY | {"jsonschema", "jinja2", "rich"},
    "load": TORCH,
    "optimize": TORCH | {"onnx", "onnxruntime"},
    "api": TORCH | {"onnx"},
    "cli": {"typer", "click", "rich"},
    "passes": TORCH,
}
"""Unit → what it may import from outside; the standard library is free."""


def unit_of(module: str) -> str | None:
    """``otgraph.graph.axes`` → ``graph``; None for what is not ours."""
    for start, unit in ENGINES.items():
        if module.startswith(start):
            return unit
    parts = module.split(".")
    if parts[0] == "passes":
        return "passes"
    if parts[0] != "otgraph":
        return None
    if len(parts) == 1:
        return "api"
    return "data" if parts[1].startswith("data") else parts[1]


def imports(node: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Every imported module with its line, function-level ones too, those for type checkers only excluded."""
    if isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        base = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
        module = ".".join(filter(None, (base, node.module)))
        names = {alias.name for alias in node.names} if module == "otgraph" else {""}
        yield from ((node.lineno, f"{module}.{name}".rstrip(".")) for name in sorted(names))
    for_type_checkers = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in (
        node.orelse if isinstance(node, ast.If) and for_type_checkers else ast.iter_child_nodes(node)
    ):
        yield from imports(child, package)


def violations(module: str, source: str) -> list[str]:
    """What ``source``, the text of ``module``, imports and must not."""
    unit = unit_of(module)
    assert unit is not None
    if unit not in LAYERS:
        return [f"{module}: the unit '{unit}' is not on the map; add it to LAYERS and LIBRARIES"]
    found = []
    for line, target in imports(ast.parse(source), module.rpartition(".")[0]):
        top = target.split(".")[0]
        other = unit_of(target)
        if other is not None and other != unit and other not in LAYERS[unit]:
            found.append(f"{module}:{line}: {unit} must not import {other} ({target})")
        if other is None and top not in sys.stdlib_module_names and top not in LIBRARIES[unit]:
            found.append(f"{module}:{line}: {unit} must not import the library {top}")
    return found


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted([*ROOT.glob("otgraph/**/*.py"), *ROOT.glob("passes/**/*.py")]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def test_every_import_follows_the_map() -> None:
    walked = modules()
    assert len(walked) > 30
    found = [
        line for name, path in walked.items() for line in violations(name, path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_the_map_has_no_circle() -> None:
    for unit, allowed in LAYERS.items():
        for other in allowed - {unit}:
            assert unit not in LAYERS[other] or {unit, other} <= BASE, (
                f"{unit} and {other} may import each other"
            )


PLANTED = {
    "otgraph.graph.axes.bad": "from otgraph.rewrite.manager import PassManager",
    "otgraph.rewrite.bad": "def f():\n    from passes.cleanup import Cleanup",
    "otgraph.plan.bad": "import passes",
    "otgraph.transport.bad": "import torch.nn",
    "otgraph.engines.bad": "try:\n    import torch\nexcept ImportError:\n    torch = None",
    "otgraph.engines.worse": "from otgraph.engines.openvino import OpenVino",
    "otgraph.engines.openvino": "import torch",
    "otgraph.device": "from otgraph.graph.graph import Graph",
    "otgraph.audit.bad": "from otgraph import graph",
    "otgraph.errors": "from otgraph.remark import Remark",
    "passes.bad": "from otgraph.cli.main import main",
    "otgraph.calibrate.bad": "from ..plan import budget",
    "otgraph.newcomer": "import os",
}


@pytest.mark.parametrize("module", PLANTED)
def test_a_planted_violation_is_caught(module: str) -> None:
    assert len(violations(module, PLANTED[module])) == 1


def test_imports_for_type_checkers_are_free() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from otgraph.rewrite import manager\n"
    assert violations("otgraph.graph.fine", source) == []
    assert len(violations("otgraph.graph.bad", source + "else:\n    import passes\n")) == 1
