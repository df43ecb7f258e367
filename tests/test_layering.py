"""Who may import whom: the map of the architecture. It allows what is used, no more."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FOUNDATION = {"task", "errors", "seed", "remark", "files", "scratch", "data"}
"""What all units above it may import, whether they do or not."""

LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "seed": {"errors"},
    "remark": set(),
    "quiet": set(),
    "window": set(),
    "heap": set(),
    "text_table": set(),
    "leftovers": set(),
    "files": {"errors", "leftovers"},
    "scratch": {"errors", "leftovers"},
    "foreign": set(),
    "named_callable": {"errors", "foreign"},
    "data": {"errors", "seed", "files", "foreign", "named_callable"},
    "task": FOUNDATION - {"task"},
    "sample": set(),
    "transport": FOUNDATION,
    "graph": FOUNDATION | {"window", "quiet", "foreign"},
    "calibrate": FOUNDATION | {"window", "transport", "graph"},
    "repair": FOUNDATION | {"heap", "graph", "calibrate"},
    "rewrite": FOUNDATION | {"window", "transport", "graph", "calibrate"},
    "allocate": FOUNDATION,
    "plan": FOUNDATION | {"heap", "text_table", "transport", "graph", "calibrate", "rewrite", "engines"},
    "engines": FOUNDATION,
    "latency": FOUNDATION | {"window", "engines"},
    "audit": FOUNDATION | {"foreign", "named_callable", "engines", "latency"},
    "precision": FOUNDATION | {"quiet", "engines"},
    "device": FOUNDATION | {"engines", "latency", "audit", "precision"},
    "load": FOUNDATION | {"named_callable", "graph"},
    "pricing": FOUNDATION
    | {"window", "transport", "graph", "calibrate", "rewrite", "allocate", "engines", "latency"},
    "inspection": FOUNDATION | {"text_table", "transport", "graph", "calibrate", "rewrite", "pricing"},
    "optimize": FOUNDATION
    | {"heap", "transport", "graph", "calibrate", "repair", "rewrite", "allocate", "plan", "pricing"}
    | {"engines", "latency", "audit"},
    "api": FOUNDATION
    | {"graph", "calibrate", "rewrite", "plan", "load", "inspection", "optimize"}
    | {"engines", "latency", "audit", "device"},
    "cli": FOUNDATION | {"foreign", "sample", "rewrite", "plan", "engines", "audit", "device", "api"},
    "passes": FOUNDATION | {"pricing", "transport", "graph", "calibrate", "repair", "rewrite", "precision"},
}
"""Unit of otgraph → the units it may import besides itself. ``data*.py`` at the top are the unit ``data``."""
ENGINES = {
    "otgraph.engines.pytorch": "engine of torch",
    "otgraph.engines.openvino": "engine of openvino",
    "otgraph.engines.tensorrt": "engine of tensorrt",
}
"""Engines whose package is heavy or optional, by the start of their modules' names: units of their own, which
nothing imports but the catalog, by name and on demand."""
LAYERS["engine of torch"] = FOUNDATION | {"engines", "graph", "quiet"}
LAYERS["engine of openvino"] = FOUNDATION | {"engines", "quiet"}
LAYERS["engine of tensorrt"] = FOUNDATION | {"engines"}
LAYERS["tools"] = set(LAYERS)
"""Scripts for developers may use everything; nothing but tests uses them."""

LIBRARIES: dict[str, set[str]] = {
    "errors": set(),
    "seed": set(),
    "remark": set(),
    "quiet": set(),
    "window": set(),
    "heap": set(),
    "text_table": set(),
    "leftovers": set(),
    "files": set(),
    "scratch": set(),
    "foreign": set(),
    "named_callable": set(),
    "data": {"numpy"},
    "task": {"numpy"},
    "sample": set(),
    "transport": {"numpy", "ot"},
    "graph": {"torch", "numpy", "onnx", "onnxruntime", "onnx_ir", "google"},
    "calibrate": {"torch", "numpy"},
    "repair": {"torch", "numpy"},
    "rewrite": {"torch", "numpy"},
    "allocate": {"numpy", "ortools"},
    "plan": {"torch", "numpy", "jsonschema"},
    "engines": {"numpy", "onnx", "onnxruntime", "google"},
    "engine of torch": {"torch", "numpy"},
    "engine of openvino": {"openvino"},
    "engine of tensorrt": {"numpy", "onnx", "cuda"},
    "latency": {"numpy", "scipy", "onnx"},
    "audit": {"numpy", "onnx", "google", "jinja2", "rich"},
    "precision": {"numpy", "onnx", "onnxruntime", "onnx_ir", "google"},
    "device": {"numpy"},
    "load": {"torch"},
    "pricing": {"torch", "numpy"},
    "inspection": {"torch"},
    "optimize": {"torch", "numpy", "onnxruntime"},
    "api": {"numpy"},
    "cli": {"typer", "rich"},
    "passes": {"torch", "numpy"},
}
"""Unit → what it may import from outside; the standard library is free, and to tools everything is."""

CIRCLES = {
    "Graph.save": ("otgraph.graph.graph", ("otgraph.graph.save",)),
    "Plan.save, Plan.apply, str(plan)": (
        "otgraph.plan.plan",
        ("otgraph.plan.document", "otgraph.plan.apply", "otgraph.plan.table"),
    ),
    "Audit.save_html": ("otgraph.audit.report", ("otgraph.audit.html",)),
}
"""Convenience methods of values whose work is done by modules that know the value: the only imports that may
close a circle of files. They are part of the contract (``small.save(...)``), and there is no fourth."""

TOOLS = {path.stem for path in ROOT.glob("tools/*.py")}
"""Scripts, which import each other by their bare names."""


def unit_of(module: str) -> str | None:
    """``otgraph.graph.axes`` → ``graph``; None for what is not ours."""
    for start, unit in ENGINES.items():
        if module.startswith(start):
            return unit
    parts = module.split(".")
    if parts[0] == "passes":
        return "passes"
    if parts[0] == "tools" or parts[0] in TOOLS:
        return "tools"
    if parts[0] != "otgraph":
        return None
    if len(parts) == 1:
        return "api"
    return "data" if parts[1].startswith("data") else parts[1]


def imports(node: ast.AST, package: str, *, typing: bool = False) -> Iterator[tuple[int, str]]:
    """Every imported module with its line, function-level ones and ``import_module`` of a text too.

    Args:
        typing: those for type checkers only as well.
    """
    if isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        base = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
        module = ".".join(filter(None, (base, node.module)))
        found = {f"{module}.{alias.name}" for alias in node.names}
        yield from ((node.lineno, name) for name in sorted({n if is_module(n) else module for n in found}))
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "Lazy")):
        given = node.args[0]
        if isinstance(given, ast.Constant):
            yield node.lineno, str(given.value)
    for_type_checkers = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    left_out = isinstance(node, ast.If) and for_type_checkers and not typing
    for child in node.orelse if left_out else ast.iter_child_nodes(node):
        yield from imports(child, package, typing=typing)


def is_module(name: str) -> bool:
    """Whether ``name`` is a file or folder of ours, not a name in one."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def modules() -> dict[str, Path]:
    found = {}
    for folder in ("otgraph", "passes", "tools"):
        for path in sorted(ROOT.glob(f"{folder}/**/*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def sources() -> dict[str, str]:
    return {name: path.read_text(encoding="utf-8") for name, path in modules().items()}


@cache
def targets(module: str, source: str, *, typing: bool = False) -> list[tuple[int, str]]:
    return list(imports(ast.parse(source), module.rpartition(".")[0], typing=typing))


def violations(module: str, source: str) -> list[str]:
    """What ``source``, the text of ``module``, imports and must not."""
    unit = unit_of(module)
    assert unit is not None
    if unit not in LAYERS:
        return [f"{module}: the unit '{unit}' is not on the map; add it to LAYERS and LIBRARIES"]
    found = []
    for line, target in targets(module, source):
        top = target.split(".")[0]
        other = unit_of(target)
        if other is not None and other != unit and other not in LAYERS[unit]:
            found.append(f"{module}:{line}: {unit} must not import {other} ({target})")
        foreign = other is None and top not in sys.stdlib_module_names
        if foreign and unit != "tools" and top not in LIBRARIES[unit]:
            found.append(f"{module}:{line}: {unit} must not import the library {top}")
    return found


def unused(
    texts: Mapping[str, str], layers: Mapping[str, set[str]], libraries: Mapping[str, set[str]]
) -> list[str]:
    """The permissions that no module of ``texts`` makes use of, those of the foundation aside."""
    used: dict[str, set[str]] = {unit: set() for unit in layers}
    for module, text in texts.items():
        for _, target in targets(module, text):
            used[str(unit_of(module))].add(unit_of(target) or target.split(".")[0])
    allowed = [(unit, other) for unit in layers if unit != "tools" for other in layers[unit] - FOUNDATION]
    allowed += [(unit, library) for unit in libraries for library in libraries[unit]]
    stale = [(unit, other) for unit, other in allowed if other not in used[unit]]
    return [f"{unit} may import {other} and does not" for unit, other in sorted(stale)]


def files(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Module → the modules of ours that it names in imports, those for type checkers too."""
    return {
        module: {target for _, target in targets(module, text, typing=True)} & texts.keys() - {module}
        for module, text in texts.items()
    }


def circles(edges: Mapping[str, set[str]]) -> list[str]:
    """One circle through each module that is on one, as text; each circle once."""
    found: dict[frozenset[str], str] = {}
    for start in edges:
        path = way(edges, start)
        if path:
            found.setdefault(frozenset(path), " → ".join((*path, start)))
    return sorted(found.values())


def way(edges: Mapping[str, set[str]], start: str) -> list[str]:
    """The shortest way from ``start`` back to it, without its end; nothing if there is none."""
    before: dict[str, str] = {}
    reached = [start]
    for module in reached:
        for other in sorted(edges[module]):
            if other == start:
                path = [module]
                while path[-1] != start:
                    path.append(before[path[-1]])
                return path[::-1]
            if other not in before:
                before[other] = module
                reached.append(other)
    return []


def without(edges: Mapping[str, set[str]], names: set[str]) -> dict[str, set[str]]:
    """The imports without those that the circles of these names stand for."""
    cut = {CIRCLES[name] for name in names}
    return {
        module: others - {worker for value, workers in cut if value == module for worker in workers}
        for module, others in edges.items()
    }


def test_every_import_follows_the_map() -> None:
    texts = sources()
    assert len(texts) > 300 and {"tools.zoo", "passes.cleanup", "otgraph.errors"} <= texts.keys()
    found = [line for name, text in texts.items() for line in violations(name, text)]
    assert not found, "\n".join(found)


def test_the_map_allows_what_is_used() -> None:
    found = unused(sources(), LAYERS, LIBRARIES)
    assert not found, "\n".join(found)


def test_a_permission_that_nobody_uses_is_caught() -> None:
    texts = {"otgraph.graph.some": "from otgraph.window import Window\nimport torch"}
    layers = {"graph": {"window", "transport", "errors"}, "window": set[str](), "tools": {"graph"}}
    assert unused(texts, layers, {"graph": {"torch", "numpy"}}) == [
        "graph may import numpy and does not",
        "graph may import transport and does not",
    ]


def test_the_map_has_no_circle() -> None:
    assert not circles(LAYERS)
    assert circles({**LAYERS, "graph": LAYERS["graph"] | {"plan"}})


def test_the_circles_of_files_are_those_of_the_contract() -> None:
    edges = files(sources())
    assert not circles(without(edges, set(CIRCLES)))
    for name, (value, _) in CIRCLES.items():
        assert way(without(edges, CIRCLES.keys() - {name}), value), f"{name} closes no circle; strike it"


@pytest.mark.parametrize(
    "module, other",
    [
        ("otgraph.graph.onnx.emit_nodes", "otgraph.graph.onnx.emitter"),
        ("otgraph.plan.decision", "otgraph.plan.plan"),
        ("otgraph.window", "otgraph.graph.affine"),
    ],
)
@pytest.mark.parametrize(
    "how", ["import {}", "def f():\n    import {}", "if TYPE_CHECKING:\n    import {}", "import_module('{}')"]
)
def test_a_fourth_circle_of_files_is_refused(module: str, other: str, how: str) -> None:
    texts = sources()
    texts[module] += "\n" + how.format(other)
    assert way(without(files(texts), set(CIRCLES)), module)[:2] == [module, other]


PLANTED = {
    "otgraph.graph.axes.bad": "from otgraph.rewrite.manager import PassManager",
    "otgraph.rewrite.bad": "def f():\n    from passes.cleanup import Cleanup",
    "otgraph.rewrite.worse": "from otgraph.repair.target import TargetMode",
    "otgraph.plan.bad": "import passes",
    "otgraph.transport.bad": "import torch.nn",
    "otgraph.engines.bad": "try:\n    import torch\nexcept ImportError:\n    torch = None",
    "otgraph.engines.worse": "from otgraph.engines.openvino import OpenVino",
    "otgraph.engines.openvino": "import torch",
    "otgraph.device": "from otgraph.graph.graph import Graph",
    "otgraph.audit.bad": "from otgraph import graph",
    "otgraph.errors": "from otgraph.remark import Remark",
    "otgraph.latency.bad": "importlib.import_module('otgraph.graph.graph')",
    "otgraph.optimize.bad": "from zoo_models import build",
    "otgraph.cli.bad": "from tools.zoo import main",
    "otgraph.cli.worse": "optimize = Lazy('otgraph.optimize.run')",
    "passes.bad": "from otgraph.cli.main import main",
    "passes.worse": "def f():\n    import bench_output",
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


def test_tools_may_import_everything() -> None:
    source = (
        "import torchvision\nfrom bench_output import save\nfrom otgraph.cli.main import main\nimport passes"
    )
    assert violations("tools.fine", source) == []
