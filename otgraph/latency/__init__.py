"""Measuring latency: the paired protocol, the conditions it ran under, and the model that plans with it."""

from otgraph.latency.environment import Conditions, Environment, environment
from otgraph.latency.model import AffineModel
from otgraph.latency.protocol import Comparison, Latency, compare, measure

__all__ = [
    "AffineModel",
    "Comparison",
    "Conditions",
    "Environment",
    "Latency",
    "compare",
    "environment",
    "measure",
]
