"""Time per node from ONNX Runtime's own profiler."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import onnxruntime as ort

from otgraph.data import Array
from otgraph.engines.engine import NodeTime
from otgraph.scratch import scratch_folder

WARM_UPS = 2


def profile_session(
    create: Callable[[ort.SessionOptions], ort.InferenceSession],
    options: ort.SessionOptions,
    feeds: Mapping[str, Array],
    runs: int,
) -> list[NodeTime]:
    """The minimum over ``runs`` of each node's kernel time, in execution order.

    The minimum, since the profiler's durations are wall time and grow with whatever else the machine does.
    A profiling session is slower than a plain one: use the figures to rank nodes, not as latency.
    """
    with scratch_folder() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = create(options)
        for _ in range(WARM_UPS + runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text())
    return _node_times(events)


def _node_times(events: list[dict[str, object]]) -> list[NodeTime]:
    best: dict[str, NodeTime] = {}  # by node index: the engine's own nodes may share a name
    for event in events:
        name, arguments, micros = str(event.get("name", "")), event.get("args"), event.get("dur")
        if (
            not name.endswith("_kernel_time")
            or not isinstance(arguments, dict)
            or not isinstance(micros, int)
        ):
            continue
        time = NodeTime(name.removesuffix("_kernel_time"), str(arguments.get("op_name", "")), micros / 1e3)
        index = str(arguments.get("node_index", time.name))
        if index not in best or time.ms < best[index].ms:
            best[index] = time
    return list(best.values())
