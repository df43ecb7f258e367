"""Short descriptions of what a command reads, shared by all commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otgraph.data import Data
    from otgraph.graph.graph import Graph


def describe_model(spec: str, graph: Graph) -> str:
    """``model  net.onnx: image: float32[batch, 3, 8, 8] → logits: float32[batch, 10]``."""
    inputs = ", ".join(map(str, graph.signature.inputs))
    outputs = ", ".join(map(str, graph.signature.outputs))
    return f"model  {spec}: {inputs} → {outputs}"


def describe_data(title: str, data: Data, asked: int | None = None) -> str:
    """``calib  calib.npz: 256 samples``; and how many were ``asked`` for, where there are fewer."""
    fewer = asked is not None and len(data) < asked
    return f"{title}  {data.source}: {len(data):,} samples" + (f", of {asked:,} asked for" if fewer else "")
