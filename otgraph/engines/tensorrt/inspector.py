"""The layers of a deserialized engine, in the forms that TensorRT 10, 11 and RTX write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from otgraph.engines.artifact import Layer
from otgraph.engines.tensorrt.network import nodes_of


def engine_layers(trt: Any, engine: Any) -> tuple[Layer, ...]:
    """What the engine inspector lists, with the ONNX nodes that each layer was fused of."""
    inspector = engine.create_engine_inspector()
    return read_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def read_layers(text: str) -> tuple[Layer, ...]:
    """From the inspector's JSON; a layer is an object, or only a name where the engine was built with names
    alone."""
    try:
        document = json.loads(text)
    except ValueError:
        return ()
    return tuple(_layer(each) for each in document.get("Layers", ()))


def _layer(each: Any) -> Layer:
    if not isinstance(each, Mapping):
        return Layer(str(each), "")
    outputs = each.get("Outputs") or ()
    first = outputs[0] if outputs and isinstance(outputs[0], Mapping) else {}
    # TensorRT 11 has "DataType" of its own, before it stood inside "Format/Datatype"
    dtype = first.get("DataType") or first.get("Format/Datatype") or ""
    return Layer(
        name=str(each.get("Name", "")),
        kind=str(each.get("LayerType", "")),
        nodes=nodes_of(str(each.get("Metadata", ""))),
        dtype=str(dtype),
        shape=tuple(int(size) for size in first.get("Dimensions", ())),
    )
