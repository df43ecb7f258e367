"""Latency audits: two ONNX files compared by measurement, as a value, JSON, HTML and text. Torch-free."""

from otgraph.audit.compare import audit
from otgraph.audit.report import Audit
from otgraph.audit.schema import audit_schema
from otgraph.audit.text import summary

__all__ = ["Audit", "audit", "audit_schema", "summary"]
