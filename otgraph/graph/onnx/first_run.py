"""The first run of an imported program: what torch cannot do goes to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from otgraph.errors import ModelError
from otgraph.graph.graph import label
from otgraph.graph.onnx.bounded import Bounded, TooLarge
from otgraph.graph.onnx.bounds import LARGE_CONSTANT, LARGEST_CONSTANT, LARGEST_VALUE, in_words
from otgraph.graph.onnx.build import Builder
from otgraph.graph.onnx.opaque import UnknownOperator
from otgraph.graph.onnx.ops.unsupported import Unsupported
from otgraph.remark import Remark

_CANNOT = (Unsupported, RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError)
"""How a torch function refuses: said by us, raised by torch for a type or rank it has no kernel for, or met
where an input that must be there is not."""


def run_once(
    module: fx.GraphModule,
    builder: Builder,
    example: tuple[torch.Tensor, ...],
    sizes: Mapping[str, int] | None = None,
) -> tuple[tuple[Any, ...], tuple[Remark, ...]]:
    """Run ``module`` on ``example`` node by node; a node that fails is made opaque and run again.
    Where ONNX Runtime has no such operator either, values of the shape that the file declares stand in;
    ``sizes``: what the named axes of the inputs are in ``example``.

    Returns:
        The outputs, and one remark for each node that was made opaque, that something stands in for, or that
        makes a large constant.

    Raises:
        ModelError: a node cannot be run, and what it returns is not declared; or it makes a value that is too
            large to go on with.
    """
    interpreter, env, remarks = fx.Interpreter(module), dict[fx.Node, Any](), list[Remark]()
    interpreter.env = env
    inputs = iter(example)
    node = next(iter(module.graph.nodes))
    last_use, constant = _last_uses(module.graph), _constants(module.graph)
    with torch.no_grad():
        while node.op != "output":
            if node.op == "placeholder":
                env[node] = next(inputs)
            else:
                with Bounded(LARGEST_CONSTANT if node in constant else LARGEST_VALUE):
                    remarks += _run(interpreter, node, module, builder, sizes or {})
                if node in constant and node.op != "get_attr":
                    remarks += _large(node, env[node])
            for done in last_use.get(node, ()):
                env.pop(done, None)
            node = node.next
    if remarks:
        module.recompile()
    outputs = node.args[0]
    assert isinstance(outputs, tuple)
    return tuple(env[value] for value in outputs if isinstance(value, fx.Node)), tuple(remarks)


def _run(
    interpreter: fx.Interpreter,
    node: fx.Node,
    module: fx.GraphModule,
    builder: Builder,
    sizes: Mapping[str, int],
) -> list[Remark]:
    try:
        interpreter.env[node] = interpreter.run_node(node)
    except TooLarge as error:
        raise ModelError(
            f"{label(node)}: {error}, which is too large to go on with; export the model with smaller sizes"
        ) from error
    except UnknownOperator as error:
        return [_stand_in(interpreter, node, module, builder, sizes, error)]
    except _CANNOT as error:
        if node.op != "call_function" or "onnx" not in node.meta:
            raise ModelError(f"{label(node)}: cannot be run ({_first_line(error)})") from error
        builder.make_opaque(node)
        module.add_submodule(str(node.target), builder.opaque_module(str(node.target)))
        what = f"{node.meta['onnx'].op_type} runs in ONNX Runtime: {_first_line(error)}"
        said = Remark("analysis", "import", label(node), what)
        return [said, *_run(interpreter, node, module, builder, sizes)]
    return []


def _stand_in(
    interpreter: fx.Interpreter,
    node: fx.Node,
    module: fx.GraphModule,
    builder: Builder,
    sizes: Mapping[str, int],
    unknown: UnknownOperator,
) -> Remark:
    read = [interpreter.env[arg] if isinstance(arg, fx.Node) else None for arg in node.args]
    try:
        module.add_submodule(str(node.target), builder.uninterpreted(node, read, sizes))
    except ModelError as error:
        raise ModelError(f"{unknown}, or declare it: {error}") from unknown
    interpreter.env[node] = interpreter.run_node(node)
    what = (
        f"{unknown.reason}: values of its declared shape stand in for what it computes; it is left as it is"
    )
    return Remark("missed", "import", label(node), what)


def _constants(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value hangs on no input."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (node.op.startswith("call") and found.issuperset(node.all_input_nodes)):
            found.add(node)
    return found


def _large(node: fx.Node, value: Any) -> list[Remark]:
    size = value.nbytes if isinstance(value, torch.Tensor) else 0
    if size < LARGE_CONSTANT:
        return []
    return [Remark("analysis", "import", label(node), f"computes a constant of {in_words(size)} at each run")]


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Which values are not needed after each node, so that a trial holds no more than a plain run does."""
    found: dict[fx.Node, list[fx.Node]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for read in node.all_input_nodes:
            if read not in seen:
                seen.add(read)
                found.setdefault(node, []).append(read)
    return found


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
