"""Golden text through the real driver: before / pipeline / after / remarks, one file per pass.

``pytest --update-golden`` rewrites *before*, *after* and *remarks* of every case; review the diff. A new case
needs only its ``== title``, ``graph:`` (of ``GRAPHS``), ``context:`` (of ``CONTEXTS``) and ``pipeline:``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from torch import nn

from otgraph.data import Chunk, Data
from otgraph.graph.capture import capture
from otgraph.graph.graph import Graph
from otgraph.graph.onnx.importer import import_model
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline
from otgraph.rewrite.program_text import program_text
from otgraph.transport.coupling import Coupling

FOLDER = Path(__file__).parent


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class SharedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(self.first(self.conv(x))))


class Layouts(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        back = x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)
        turned = x.permute(0, 2, 3, 1).permute(0, 2, 1, 3)
        return back + 1, turned.detach() * 2


class Copied(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).reshape(x.shape[0], -1).view(-1, 3)


class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = torch.relu(y + self.b(torch.relu(self.a(y))))
        return self.head(y.mean((2, 3)))


class SortedChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).sort(-1).values)


class SharedReader(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self[0](x)
        return self[2](self[1](y)) + self[2](y)


def of(net: nn.Module, *shape: int) -> Graph:
    return capture(net, torch.randn(*shape))


def of_onnx(text: str, **tensors: list[int]) -> Graph:
    """A model in ONNX's text form; weights are filled with random values (variances are positive)."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, shape in tensors.items():
        values = torch.rand(shape) + 0.5
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.numpy(), name))
    return import_model(model)


NORM = {name: [4] for name in ("g", "b", "m", "v")}

GRAPHS: dict[str, Callable[[], Graph]] = {
    "conv_bn": lambda: of(
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), 2, 3, 5, 5
    ),
    "grouped_conv_bn_bn": lambda: of(
        nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.BatchNorm2d(8)), 2, 4, 5, 5
    ),
    "linear_bn": lambda: of(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 2, 3),
    "sequence_linear_bn": lambda: of(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5)), 2, 5, 3),
    "relu_bn": lambda: of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), 2, 3, 5, 5),
    "transposed_conv_bn": lambda: of(
        nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4)), 2, 3, 5, 5
    ),
    "bn_of_a_fan_out": lambda: of(Residual(), 2, 4, 5, 5),
    "bn_of_a_shared_weight": lambda: of(SharedWeight(), 2, 4, 5, 5),
    "affine_chain": lambda: of(
        nn.Sequential(
            *(nn.Conv2d(3, 12, 1), nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(12, 12, 3, groups=12)),
            *(nn.BatchNorm2d(12), nn.Conv2d(12, 4, 1), nn.AvgPool2d(2)),
        ),
        *(2, 3, 7, 7),
    ),
    "padded_pair": lambda: of(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)), 2, 3, 5, 5
    ),
    "growing_pair": lambda: of(nn.Sequential(nn.Linear(9, 2), nn.Linear(2, 9)), 2, 9),
    "onnx_branches": lambda: of_onnx(
        """m (float[N,4,5,5] x) => (float[N,4,5,5] y) {
            r = Relu (x)
            a = Conv <pads = [1, 1, 1, 1]> (r, w)
            n = BatchNormalization (a, g, b, m, v)
            c = Conv (r, u)
            s = Add (n, c)
            t = Add (r, s)
            y = Relu (t)
        }""",
        w=[4, 4, 3, 3],
        u=[4, 4, 1, 1],
        **NORM,
    ),
    "onnx_conv_bn": lambda: of_onnx(
        """m (float[N,3,5,5] x) => (float[N,4,3,3] y) {
            c = Conv <group = 1> (x, w)
            y = BatchNormalization <epsilon = 0.001> (c, g, b, m, v)
        }""",
        w=[4, 3, 3, 3],
        **NORM,
    ),
    "onnx_matmul_bn": lambda: of_onnx(
        """m (float[N,3] x) => (float[N,4] y) {
            c = MatMul (x, w)
            n = BatchNormalization (c, g, b, m, v)
            y = Relu (n)
        }""",
        w=[3, 4],
        **NORM,
    ),
    "onnx_norm_exp": lambda: of_onnx(
        """m (float[N,3] x) => (float[N,4] y) {
            n = LayerNormalization (x, g, b)
            c = MatMul (n, w)
            e = Exp (c)
            y = Relu (e)
        }""",
        w=[3, 4],
        g=[3],
        b=[3],
    ),
    "onnx_large_values": lambda: of_onnx(
        """m (float[N,3] input_1) => (float[N,4] y)
        <float[1] big = {60000.0}, float[1] huge = {100000.0}, float[1] small = {0.00001}> {
            c = MatMul (input_1, w)
            [up] l = Mul (c, big)
            [down] s = Mul (l, small)
            t = Tanh (s)
            [huge] h = Mul (t, huge)
            y = Relu (h)
        }""",
        w=[3, 4],
    ),
    "onnx_shared_bias": lambda: of_onnx(
        """m (float[N,4] x) => (float[N,4] y) {
            c = Gemm <transB = 1> (x, w, s)
            n = BatchNormalization (c, g, b, m, v)
            y = Gemm (n, u, s)
        }""",
        w=[4, 4],
        u=[4, 4],
        s=[4],
        **NORM,
    ),
    "mlp": lambda: of(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), 2, 3),
    "shared_reader": lambda: of(SharedReader(), 2, 3),
    "small_net": lambda: of(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(8 * 4, 2)),
        ),
        *(2, 3, 6, 6),
    ),
    "residual_net": lambda: of(ResidualNet(), 2, 3, 5, 5),
    "onnx_residual": lambda: of_onnx(
        """m (float[N,3,4] x) => (float[N,3,4] y) {
            s = MatMul (x, w)
            t = Tanh (s)
            a = MatMul (t, u)
            r = Relu (a)
            b = MatMul (r, v)
            y = Add (t, b)
        }""",
        w=[4, 4],
        u=[4, 6],
        v=[6, 4],
    ),
    "fixed_by_sort": lambda: of(SortedChannels(), 2, 3),
    "onnx_reshape_net": lambda: of_onnx(
        """m (float[N,3,2,2] x) => (float[N,2] y) <int64[3] split = {0, 4, -1}, int64[2] flat = {0, 16}> {
            c = Conv <kernel_shape = [1, 1]> (x, w)
            s = Reshape (c, split)
            r = Relu (s)
            f = Reshape (r, flat)
            y = Gemm <transB = 1> (f, u)
        }""",
        w=[4, 3, 1, 1],
        u=[2, 16],
    ),
    "reshape_there_and_back": lambda: of(
        nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(), nn.ReLU()), 2, 6
    ),
    "layouts": lambda: of(Layouts(), 2, 3, 4, 4),
    "view_of_a_copy": lambda: of(Copied(), 2, 3, 4),
    "onnx_no_ops": lambda: of_onnx(
        """m (float[N,3,4] x) => (float[N,4,3] y) {
            i = Identity (x)
            p = Pad <mode = "constant"> (i, zeros)
            f = Cast <to = 1> (p)
            t = Transpose <perm = [1, 2, 0]> (f)
            u = Transpose <perm = [2, 1, 0]> (t)
            d = Dropout (u)
            c = Concat <axis = 0> (d)
            unused = Shape (c)
            r = Relu (c)
            y = Identity (r)
        }""".replace("=> (float[N,4,3] y) {", "=> (float[N,4,3] y) <int64[6] zeros = {0,0,0,0,0,0}> {")
    ),
    "onnx_identity_names": lambda: of_onnx(
        """m (float[N,3] x) => (float[N,3] y, float[N,3] z, float[N,3] r) {
            y = Identity (x)
            r = Relu (x)
            z = Identity (r)
        }"""
    ),
    "onnx_reshapes": lambda: of_onnx(
        """m (float[N,2,6] x) => (float[N,3,4] y, float[N,6,2] z) <
            int64[2] flat = {-1, 12}, int64[3] out = {-1, 3, 4},
            int64[3] same = {0, -1, 6}, int64[3] copy = {0, 6, -1}
        > {
            s = Reshape (x, same)
            f = Reshape (s, flat)
            y = Reshape (f, out)
            g = Reshape (x, flat)
            z = Reshape <allowzero = 0> (y, copy)
        }"""
    ),
}


def samples(count: int, *shape: int) -> Data:
    return Data((Chunk({"input_1": torch.randn(count, *shape).numpy()}),))


TWINS = Coupling(
    kept=np.arange(4), target=np.array([0, 1, 2, 3, 0, 1, -1, -1]), scales={"2.weight": np.full(8, 0.5)}
)

CONTEXTS: dict[str, Callable[[], Context]] = {
    "nothing": Context,
    "64 inputs of 3": lambda: Context(data=samples(64, 3)),
    "64 inputs of 3x5x5": lambda: Context(data=samples(64, 3, 5, 5)),
    "64 inputs of 3x6x6": lambda: Context(data=samples(64, 3, 6, 6)),
    "two channels re-routed, two dropped": lambda: Context(couplings={"0": TWINS}),
    "four channels removed, 64 inputs of 3": lambda: Context(couplings={"0": TWINS}, data=samples(64, 3)),
}


@dataclass(frozen=True)
class Case:
    """One block of a golden file."""

    title: str
    graph: str
    context: str
    pipeline: str
    body: str


def render(case: Case) -> str:
    """The block as it should stand in the file."""
    torch.manual_seed(0)
    graph = GRAPHS[case.graph]()
    result = PassManager(parse_pipeline(case.pipeline)).run(graph, CONTEXTS[case.context]())
    parts = [
        f"== {case.title}\ngraph: {case.graph}\ncontext: {case.context}\npipeline: {case.pipeline}",
        f"-- before\n{program_text(graph)}",
        f"-- after\n{program_text(result.graph)}",
        "-- remarks\n" + "\n".join(map(_stable, result.remarks)),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _stable(remark: object) -> str:
    """Figures that depend on rounding are left out."""
    return re.sub(r"\d+\.\d+(e-?\d+)?|\d+e-?\d+|(?<=strength )\d+", "…", str(remark))


def read_cases(path: Path) -> list[Case]:
    """The blocks of one file."""
    cases = []
    for block in re.split(r"^== ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, *head = block.splitlines()
        named = dict(
            line.split(": ", 1) for line in head[: head.index("-- before") if "-- before" in head else 3]
        )
        body = f"== {block.rstrip()}\n"
        cases.append(Case(title, named["graph"], named["context"], named["pipeline"], body))
    return cases


FILES = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    cases = read_cases(path)
    if request.config.getoption("--update-golden"):
        path.write_text("\n".join(map(render, cases)), encoding="utf-8")
        return
    assert len({case.title for case in cases}) == len(cases)
    for case in cases:
        assert path.stem in case.pipeline
        assert render(case) == case.body, f"{path.name}: {case.title}: see pytest --update-golden"


def test_every_file_has_a_case_where_nothing_can_be_done() -> None:
    for path in FILES:
        assert "\nmissed: " in path.read_text(encoding="utf-8"), f"{path.name}: add a negative case"


def test_a_changed_result_is_noticed() -> None:
    case = read_cases(FOLDER / "fold-batch-norm.txt")[0]
    assert render(case) == case.body
    assert render(replace(case, graph="relu_bn")) != case.body
