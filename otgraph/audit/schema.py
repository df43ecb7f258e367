"""The published JSON schema of ``audit.json``."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def audit_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) that ``Audit.to_json`` obeys."""
    return json.loads(files("otgraph.audit").joinpath("schema.json").read_text(encoding="utf-8"))
