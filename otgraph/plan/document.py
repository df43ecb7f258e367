"""A plan as a JSON document and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from otgraph.errors import PlanError, UsageError
from otgraph.graph.span import Collapse, Span
from otgraph.plan.array_table import decode, encode
from otgraph.plan.budget import Budget
from otgraph.plan.calibration import CalibrationReference
from otgraph.plan.decision import DepthAction, DimDecision, Predictions
from otgraph.plan.fingerprint import Fingerprint, TensorPrint
from otgraph.plan.schema import check_target, validate

if TYPE_CHECKING:
    from otgraph.plan.plan import Plan


def write_document(plan: Plan) -> dict[str, Any]:
    """The document of ``plan``; the arrays come last."""
    arrays: dict[str, Any] = {}
    dims = [_write_dim(dim, arrays) for dim in plan.dims]
    return {
        "version": plan.version,
        "model": plan.model,
        "budget": str(plan.budget),
        "engine": plan.engine,
        "device": dict(plan.device),
        "criterion": plan.criterion,
        "seed": plan.seed,
        "pipeline": plan.pipeline,
        "calibration": None if plan.calibration is None else _write_calibration(plan.calibration),
        "predictions": dict(vars(plan.predictions)),
        "dims": dims,
        "depth": [_write_action(action) for action in plan.depth],
        "created_by": dict(plan.created_by),
        "fingerprint": {
            "program": plan.fingerprint.program,
            "tensors": {
                name: [list(each.shape), each.dtype, each.digest]
                for name, each in plan.fingerprint.tensors.items()
            },
        },
        "arrays": arrays,
    }


def read_document(document: object, where: str) -> dict[str, Any]:
    """The fields of the plan that ``document`` is.

    Raises:
        PlanError: the document is no plan of this version, or contradicts itself.
    """
    plan = validate(document, where)
    calibration = plan["calibration"]
    dims = _read_dims(plan, where)
    _check_arrays(plan, where)
    return {
        **{key: plan[key] for key in ("model", "engine", "device", "criterion")},
        "version": int(plan["version"]),
        "seed": int(plan["seed"]),
        "budget": _read_budget(plan["budget"], where),
        "pipeline": plan["pipeline"],
        "calibration": None if calibration is None else _read_calibration(calibration, where),
        "predictions": Predictions(**plan["predictions"]),
        "dims": dims,
        "depth": _read_actions(plan["depth"], where),
        "created_by": plan["created_by"],
        "fingerprint": Fingerprint(
            {name: TensorPrint(tuple(s), t, d) for name, (s, t, d) in plan["fingerprint"]["tensors"].items()},
            plan["fingerprint"]["program"],
        ),
    }


def _write_calibration(reference: CalibrationReference) -> dict[str, Any]:
    """Its fields, without those of which nothing is known."""
    fields = {name: value for name, value in vars(reference).items() if value is not None}
    if reference.stretches is not None:
        fields["stretches"] = [list(stretch) for stretch in reference.stretches]
    return fields


def _read_calibration(fields: Mapping[str, Any], where: str) -> CalibrationReference:
    known = dict(fields)
    if "stretches" in known:
        known["stretches"] = tuple((int(first), int(last)) for first, last in known["stretches"])
    found = CalibrationReference(**known)
    _check_calibration(found, f"{where}: calibration")
    return found


def _check_calibration(found: CalibrationReference, where: str) -> None:
    """The stretches lie in what was drawn and hold as many samples as there are; so do their hashes."""
    if (found.drawn is None) != (found.stretches is None):
        raise PlanError(f"{where}: drawn and stretches go together; give both or none")
    if found.drawn is not None and found.stretches is not None:
        ends = [0, *(end for stretch in found.stretches for end in stretch), found.drawn]
        if any(a > b for a, b in pairwise(ends)):
            raise PlanError(f"{where}.stretches: must ascend, from 0 to {found.drawn} at most")
        held = sum(last - first for first, last in found.stretches)
        if held != found.count:
            raise PlanError(f"{where}.count: {found.count} samples, but stretches hold {held}")
    sketch = found.sketch()
    if found.samples is not None and (sketch is None or sketch.count != found.count):
        raise PlanError(f"{where}.samples: are not the hashes of {found.count} samples; make a new plan")


def _check_arrays(plan: Mapping[str, Any], where: str) -> None:
    """Each array of the table is what some dim refers to."""
    used = {key for dim in plan["dims"] for key in (dim["target"], *dim["scales"].values())}
    unused = [key for key in plan["arrays"] if key not in used]
    if unused:
        raise PlanError(f"{where}: arrays: no dim refers to {unused[0]!r}; remove it or make a new plan")


def _write_dim(dim: DimDecision, arrays: dict[str, Any]) -> dict[str, Any]:
    target = f"{dim.name}:target"
    arrays[target] = encode(dim.target, "int32")
    scales = {reader: f"{dim.name}:scale:{reader}" for reader in dim.scales}
    for reader, key in scales.items():
        arrays[key] = encode(dim.scales[reader], "float64")
    return {
        "name": dim.name,
        "size": dim.size,
        "kept": list(dim.kept),
        "target": target,
        "scales": scales,
        "damage": dim.damage,
        "cost": dim.cost,
        "bound": dim.bound,
        **({} if dim.constant is None else {"constant": dim.constant}),
    }


def _read_dims(plan: Mapping[str, Any], where: str) -> tuple[DimDecision, ...]:
    dims = tuple(
        _read_dim(dim, plan["arrays"], f"{where}: dims[{at}]") for at, dim in enumerate(plan["dims"])
    )
    names = [dim.name for dim in dims]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise PlanError(f"{where}: dims: {twice[0]} is named twice; keep one")
    return dims


def _read_dim(dim: Mapping[str, Any], arrays: Mapping[str, Any], where: str) -> DimDecision:
    size = int(dim["size"])
    target = decode(arrays, dim["target"], "int32", size, f"{where}.target")
    kept = tuple(int(index) for index in dim["kept"])
    goals = tuple(int(goal) for goal in target)
    check_target(goals, kept, f"{where}.target")
    scales = {
        reader: tuple(float(v) for v in decode(arrays, key, "float64", size, f"{where}.scales"))
        for reader, key in dim["scales"].items()
    }
    figures = {key: float(dim[key]) for key in ("damage", "cost", "bound")}
    return DimDecision(dim["name"], size, kept, goals, scales, **figures, constant=dim.get("constant"))


def _write_action(action: DepthAction) -> dict[str, Any]:
    collapse, span = action.collapse, action.collapse.span
    return {
        "entry": span.entry,
        "exit": span.exit,
        "branch": span.branch,
        "nodes": list(span.nodes),
        "map": collapse.map,
        "kernel": list(collapse.kernel),
        "estimator": collapse.estimator,
        "damage": action.damage,
        "old_ms": action.old_ms,
        "new_ms": action.new_ms,
    }


def _read_actions(actions: Sequence[Mapping[str, Any]], where: str) -> tuple[DepthAction, ...]:
    """The depth actions; no node may go twice."""
    taken: dict[str, int] = {}
    found: list[DepthAction] = []
    for at, action in enumerate(actions):
        nodes = tuple(str(name) for name in action["nodes"])
        span = Span(action["entry"], action["exit"], nodes, action["branch"])
        _check_span(span, f"{where}: depth[{at}]")
        for name in nodes:
            if name in taken:
                first = taken[name]
                raise PlanError(
                    f"{where}: depth[{at}].nodes: {name} goes in depth[{first}] already; keep one"
                )
            taken[name] = at
        collapse = Collapse(span, action["map"], tuple(action["kernel"]), action["estimator"])
        _check_kernel(collapse, f"{where}: depth[{at}]")
        found.append(DepthAction(collapse, action["damage"], action["old_ms"], action["new_ms"]))
    return tuple(found)


def _check_span(span: Span, where: str) -> None:
    if span.nodes[-1] != span.exit:
        raise PlanError(f"{where}.nodes: must end with the exit {span.exit}")
    if span.entry in span.nodes:
        raise PlanError(f"{where}.nodes: must not hold the entry {span.entry}")
    if span.branch is not None and span.branch not in span.nodes[:-1]:
        raise PlanError(f"{where}.branch: {span.branch} is none of the nodes before the exit")


def _check_kernel(collapse: Collapse, where: str) -> None:
    if (collapse.map == "conv") != bool(collapse.kernel):
        wants = "its sizes" if collapse.map == "conv" else "none"
        raise PlanError(f"{where}.kernel: is {list(collapse.kernel)}, but the map {collapse.map} has {wants}")


def _read_budget(text: str, where: str) -> Budget:
    try:
        return Budget.parse(text)
    except UsageError as error:
        raise PlanError(f"{where}: budget: {error}") from error
