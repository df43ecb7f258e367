"""``Graph`` → ONNX: one-to-one for the ``onnx`` dialect, ``torch.onnx.export`` for ``aten``."""

from __future__ import annotations

import copy
import re
from collections.abc import Container
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx.checker import ValidationError
from torch import fx
from torch.export import Dim

from otgraph.errors import ModelError
from otgraph.files import check_kept, check_writable
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.onnx import write_file
from otgraph.graph.onnx.emitter import emit_beside, emit_model
from otgraph.graph.onnx.header import OnnxHeader
from otgraph.graph.onnx.loads import Written, outline_fault, what_to_do
from otgraph.graph.onnx.naming import fresh
from otgraph.graph.onnx.write_file import TOO_LARGE, beside, check_model, to_bytes, write_beside, write_inside
from otgraph.graph.onnx_spelling import spell_out_attention
from otgraph.quiet import quiet
from otgraph.remark import Remark


def save_graph(graph: Graph, path: Path, *, overwrite: bool = False) -> tuple[Remark, ...]:
    """Write ``graph`` as ONNX. Weights lie inside the file, unless that would exceed 2 GB or the model was
    read from a file that kept them outside: then in ``path`` + ``.data``.

    Returns:
        A remark where ONNX Runtime does not load the file: which node it stops at, and what to do. Engines
        differ in the types and operators they take, and the file is what was asked for.

    Raises:
        OutputError: ``path`` cannot be written, or it or what goes beside it is one of the files that the
            graph was read from, and not to ``overwrite``. Nothing is left half-written.
        ModelError: the graph has no valid ONNX form, or none that ONNX Runtime loads although it does load
            the file that the graph was read from.
    """
    for each in () if overwrite else (path, *([beside(path)] if _is_apart(graph) else [])):
        check_kept(each, graph.sources)
    check_writable(path)
    written = _written(graph)
    said = _said(graph, written)
    written.write(path)
    return said


def write_graph(graph: Graph, path: Path) -> None:
    """``save_graph`` for a file that an engine is about to load anyway, which then says what it finds."""
    check_writable(path)
    _written(graph).write(path)


def _written(graph: Graph) -> Written:
    folder = _folder(graph)
    if isinstance(graph.header, OnnxHeader) and _is_apart(graph):
        model, held = emit_beside(graph)
        _note(graph, model)
        _check(graph, model, held)
        return Written(model, lambda path: write_beside(model, folder, path, held), held)
    inline = to_model(graph)
    return Written(inline, lambda path: write_inside(inline, folder, path))


def _said(graph: Graph, written: Written) -> tuple[Remark, ...]:
    fault = written.fault()
    if fault is None:
        return ()
    if isinstance(graph.header, OnnxHeader) and outline_fault(graph.header.model) is None:
        raise ModelError(
            f"{graph.name}: ONNX Runtime loads the file it was read from, but not its new form ({fault});"
            " please report the pass that made it"
        )
    what = f"ONNX Runtime does not load the file: {fault}; {what_to_do(fault)}"
    return (Remark("failure", "save", graph.name, what),)


def to_onnx_bytes(graph: Graph) -> bytes:
    """``graph`` as the bytes of one ``.onnx`` file, weights inside.

    Raises:
        ModelError: the graph has no valid ONNX form, or is larger than 2 GB.
    """
    if _is_too_large(graph):
        raise ModelError(TOO_LARGE.format(graph.name))
    return to_bytes(to_model(graph), _folder(graph))


def to_inline_model(graph: Graph) -> onnx.ModelProto:
    """``graph`` as an ONNX model that holds its weights itself, whatever file it came from.

    Raises:
        ModelError: as ``to_onnx_bytes`` does.
    """
    return onnx.load_from_string(to_onnx_bytes(graph))


def to_model(graph: Graph) -> onnx.ModelProto:
    """``graph`` as an ONNX model that ``onnx.checker`` accepts.

    Raises:
        ModelError: the graph has no valid ONNX form.
    """
    model = emit_model(graph) if graph.dialect == "onnx" else _export(graph)
    _note(graph, model)
    _check(graph, model)
    return model


def _note(graph: Graph, model: onnx.ModelProto) -> None:
    """Put the graph's own metadata into the model's; they take the place of others of the same name."""
    if graph.metadata:
        known = {entry.key: entry.value for entry in model.metadata_props}
        onnx.helper.set_model_props(model, {**known, **graph.metadata})


def _check(graph: Graph, model: onnx.ModelProto, held: Container[str] = ()) -> None:
    fault = _fault(model, held)
    if fault is not None and not _was_faulty(graph):
        raise ModelError(
            f"{graph.name}: its ONNX form is not valid ({fault}); please report the pass that made it"
        )


def _is_apart(graph: Graph) -> bool:
    """Whether the weights go into a file of their own."""
    return (isinstance(graph.header, OnnxHeader) and graph.header.external) or _is_too_large(graph)


def _is_too_large(graph: Graph) -> bool:
    return sum(tensor.nbytes for tensor in graph.tensors().values()) > write_file.LARGEST


def _folder(graph: Graph) -> Path | None:
    return graph.header.folder if isinstance(graph.header, OnnxHeader) else None


def _fault(model: onnx.ModelProto, held: Container[str] = ()) -> str | None:
    try:
        check_model(model, held)
    except ValidationError as error:
        return str(error).strip().splitlines()[0]
    return None


def _was_faulty(graph: Graph) -> bool:
    """What the checker refused as it was read is written back: runtimes take more than it does."""
    return isinstance(graph.header, OnnxHeader) and _fault(graph.header.model) is not None


def _export(graph: Graph) -> onnx.ModelProto:
    signature = graph.signature
    dims = {s: Dim(s) for port in signature.inputs for s in port.shape if isinstance(s, str)}
    shapes = tuple(
        {i: dims[s] for i, s in enumerate(p.shape) if isinstance(s, str)} for p in signature.inputs
    )
    module = _twin(graph.module).eval()
    renamed = _keep_apart(module)
    spell_out_attention(module, graph.example)
    with quiet():
        try:
            program = torch.onnx.export(
                module,
                graph.example,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[port.name for port in signature.inputs],
                output_names=[port.name for port in signature.outputs],
                optimize=True,
                verbose=False,
            )
        except Exception as error:  # torch.onnx raises whatever its stages raise
            raise ModelError(f"{graph.name}: torch.onnx cannot export it ({_reason(error)})") from error
    if program is None:
        raise ModelError(f"{graph.name}: torch.onnx returned nothing")
    _restore_names(program.model.graph, renamed)
    _yield_names(program.model.graph)
    return ir.to_proto(program.model)


def _reason(error: BaseException) -> str:
    """The first line of what went wrong at the bottom, without colors: the exporter wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLORS.sub("", str(error)).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


_COLORS = re.compile(r"\x1b\[[0-9;]*m")


def _twin(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of the program on the same weights, which exporters only read."""
    weights = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(weight): weight for weight in weights})


def _keep_apart(module: fx.GraphModule) -> dict[str, str]:
    """Rename tensors that are called like an operator of the program (``index``): the exporter calls what an
    operator returns after it, and cannot have two of one name. Returns new name → old name."""
    operators = {op_name(node).rpartition(".")[2] for node in module.graph.nodes}
    renamed: dict[str, str] = {}
    for node in module.graph.nodes:
        old = str(node.target)
        if node.op != "get_attr" or old.rstrip("_0123456789") not in operators:
            continue
        new = f"{old}_stored"
        if new not in renamed:
            value = getattr(module, old)
            delattr(module, old)
            if isinstance(value, torch.nn.Parameter):
                module.register_parameter(new, value)
            else:
                module.register_buffer(new, value)
            renamed[new] = old
        node.target = new
    module.recompile()
    return renamed


def _yield_names(graph: ir.Graph) -> None:
    """Rename values inside the model that are called like one of its outputs (``relu``): the exporter calls
    them after their operators, whatever its outputs are called."""
    outputs = {value.name for value in graph.outputs}
    inner = [value for node in graph.all_nodes() for value in node.outputs if not value.is_graph_output()]
    taken = {value.name for value in (*inner, *graph.inputs, *graph.outputs)} | set(graph.initializers)
    for value in inner:
        if value.name in outputs:
            value.name = fresh(f"{value.name}_inner", taken.__contains__)
            taken.add(value.name)


def _restore_names(graph: ir.Graph, renamed: dict[str, str]) -> None:
    taken = {value.name for node in graph.all_nodes() for value in node.outputs} | set(graph.initializers)
    for new, old in renamed.items():
        if new in graph.initializers and old not in taken:
            graph.initializers[new].name = old
