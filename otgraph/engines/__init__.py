"""Inference engines: load, run, profile. Nothing here imports torch."""

from otgraph.engines.catalog import ENGINES, get_engine
from otgraph.engines.engine import Engine, Model, NodeTime, Session, TensorSpec

__all__ = ["ENGINES", "Engine", "Model", "NodeTime", "Session", "TensorSpec", "get_engine"]
