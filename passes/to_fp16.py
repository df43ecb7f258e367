"""``to-fp16``: weights and arithmetic in float16, with what needs float32 left in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from otgraph.graph.onnx.importer import import_model
from otgraph.graph.save import to_inline_model
from otgraph.precision.float16 import to_float16
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.rewriter import Rewriter


@final
@dataclass(frozen=True)
class ToFp16(TransformPass):
    """Turn the network into mixed float16: half the bytes, and the arithmetic that GPUs are fast at.

    What it does
        Weights and operators become float16, inputs and outputs keep their types, with casts between. The
        network is written as ONNX for that, so an `aten` graph becomes one of the `onnx` dialect. Nodes are
        in topological order and the result passes the ONNX checker.

    When it applies
        Operators whose intermediate values overflow stay in float32: normalizations and norms (they sum
        squares), exponentials, powers, logarithms, reciprocals, control flow, and those that ONNX Runtime has
        no float16 kernel for. So do nodes that read or give values above 30,000 on the calibration inputs;
        without any, those that read a weight above 65,504 and what follows them, up to an operator with small
        outputs. From one of these to the next values stay float32. A quantized network is refused. Run it
        last: the other passes read float32 weights.

    Exactness
        Approximate: values are rounded to 11 bits of mantissa. With calibration inputs the remark has the
        relative error of the outputs where every value is rounded so, and a network that overflows
        nevertheless is refused.

    Before and after
        >>> graph = capture(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), example(2, 4))
        >>> print(program_text(rewrite("to-fp16", graph)))
        input input_1
        graph_input_cast0 = onnx.Cast(input_1, to=10)
        node_linear = onnx.Gemm(graph_input_cast0, 0.weight[2, 4] float16, 0.bias[2] float16, beta=1.0, transB=1, alpha=1.0, transA=0)
        node_relu = onnx.Relu(node_linear)
        graph_output_cast0 = onnx.Cast(node_relu, to=1)
        return graph_output_cast0

    Remarks
        *applied* with how many nodes were converted; *missed* per operator and node that stays, with the
        reason, and once where there are no calibration inputs to look for overflow on.

    Options
        None.
    """  # noqa: E501  (a program line is as long as it is)

    name: ClassVar[str] = "to-fp16"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Exchange the program for its conversion."""
        graph = rewriter.graph
        converted, said = to_float16(to_inline_model(graph), context.data)
        rewriter.remarks += said
        if any(remark.kind == "applied" for remark in said):
            rewriter.exchange(import_model(converted, example=graph.example))
