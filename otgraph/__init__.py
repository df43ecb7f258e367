"""otgraph: a trained network in, a measured-faster network out.

The Python API of ``otgraph.api`` under short names. Nothing heavy is imported before a name is used: torch
takes seconds, ``otgraph --help`` takes none.

Nothing leaves the machine: ONNX Runtime, which since 1.29 reports models it loads and writes a device
identifier, is told not to before it is imported, here and in every process that is started from here; who
sets ``ORT_DISABLE_TELEMETRY`` has the last word.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # after the import of onnxruntime it is too late

if TYPE_CHECKING:
    from otgraph.api import (
        Audit,
        Data,
        Graph,
        Inspection,
        Optimized,
        Plan,
        Settings,
        audit,
        bench,
        bench_all,
        build,
        capture,
        inspect,
        load,
        load_data,
        make_plan,
        optimize,
        run_pipeline,
    )

__all__ = [
    "Audit",
    "Data",
    "Graph",
    "Inspection",
    "Optimized",
    "Plan",
    "Settings",
    "audit",
    "bench",
    "bench_all",
    "build",
    "capture",
    "inspect",
    "load",
    "load_data",
    "make_plan",
    "optimize",
    "run_pipeline",
]


class _Package(ModuleType):
    """Looks the names of the API up in ``otgraph.api``, also those that are submodules as well.

    ``otgraph.audit`` is a package and ``otg.audit(…)`` a function. Importing a submodule sets an attribute of
    its name on the parent; for names of the API that has no effect here, so the order of imports does not
    matter. Submodules are reached by ``from otgraph.audit.report import …``.
    """

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *__all__})


def _exported(name: str) -> property:
    def read(_: ModuleType) -> Any:
        return getattr(importlib.import_module("otgraph.api"), name)

    def write(_: ModuleType, value: Any) -> None:
        if not (isinstance(value, ModuleType) and value.__name__ == f"{__name__}.{name}"):
            raise AttributeError(f"otgraph.{name}: belongs to the API; set it on otgraph.api")

    return property(read, write)


for _name in __all__:
    setattr(_Package, _name, _exported(_name))
sys.modules[__name__].__class__ = _Package
