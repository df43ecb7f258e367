"""``to-int8``: products in int8 between Q/DQ nodes, their ranges found on the calibration inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from otgraph.errors import PipelineError
from otgraph.graph.onnx.importer import import_model
from otgraph.graph.save import to_inline_model
from otgraph.precision.int8 import to_int8
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.rewriter import Rewriter


@final
@dataclass(frozen=True)
class ToInt8(TransformPass):
    """Quantize the network to int8 by Q/DQ nodes, which every engine reads.

    What it does
        Weights become int8 per output channel; activations are quantized in the range that they had on the
        calibration inputs, by ONNX Runtime's static quantizer. The network is written as ONNX for that, so an
        `aten` graph becomes one of the `onnx` dialect. Inputs and outputs stay float32.

    When it applies
        Always where there are calibration inputs; products that have no int8 form are named. Run it last: the
        other passes read float32 weights.

    Exactness
        Approximate.

    Before and after
        >>> graph = capture(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), example(2, 4))
        >>> print(program_text(rewrite("to-int8{symmetric=true}", graph, data=inputs(input_1=example(8, 4)))))
        input input_1
        _0_weight_DequantizeLinear = onnx.DequantizeLinear(0.weight_quantized[2, 4] int8, 0.weight_scale[2], 0.weight_zero_point[2] int8, axis=0)
        input_1_QuantizeLinear = onnx.QuantizeLinear(input_1, input_1_scale[], input_1_zero_point[] int8)
        input_1_DequantizeLinear = onnx.DequantizeLinear(input_1_QuantizeLinear, input_1_scale[], input_1_zero_point[] int8)
        node_linear = onnx.Gemm(input_1_DequantizeLinear, _0_weight_DequantizeLinear, 0.bias[2], beta=1.0, transB=1, alpha=1.0, transA=0)
        node_relu = onnx.Relu(node_linear)
        return node_relu

    Remarks
        *applied* with how many products were quantized on how many inputs; *missed* per product that was not.

    Options
        ``symmetric``: int8 activations around zero, only products, biases in float, as TensorRT wants it.
        Otherwise uint8 activations, products and what carries values between them (rectifiers, pools,
        reshapes), as processors want it; sums stay in float.
    """  # noqa: E501  (a program line is as long as it is)

    symmetric: bool = False

    name: ClassVar[str] = "to-int8"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Exchange the program for its quantization."""
        if context.data is None:
            raise PipelineError("to-int8: needs inputs to find the ranges of activations; give --calib DATA")
        graph = rewriter.graph
        converted, said = to_int8(to_inline_model(graph), context.data, symmetric=self.symmetric)
        rewriter.remarks += said
        if any(remark.kind == "applied" for remark in said):
            rewriter.exchange(import_model(converted, example=graph.example))
