"""Measuring latency: the paired protocol, and the conditions it ran under."""

from otgraph.latency.environment import Conditions, Environment, environment
from otgraph.latency.protocol import Comparison, Latency, compare, measure

__all__ = [
    "Comparison",
    "Conditions",
    "Environment",
    "Latency",
    "compare",
    "environment",
    "measure",
]
