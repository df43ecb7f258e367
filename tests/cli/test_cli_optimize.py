"""``otgraph optimize``, ``plan``, ``apply`` and ``demo``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from typer.models import OptionInfo

from otgraph.cli.main import app
from otgraph.cli.options import read_shapes
from otgraph.errors import UsageError
from otgraph.plan.budget import make_budget
from otgraph.remark import Remark
from otgraph.sample import model_path

BASE = ("optimize", "net.onnx", "--calib", "calib.npz", "-o", "out.onnx")


def test_it_reads_optimizes_prints_and_writes(command, api) -> None:
    ran = command(*BASE, "--latency", "0.6x", "--plan-out", "plan.json", "--report", "report.html")
    assert ran.code == 0
    assert ran.out == (
        "model  net.onnx: x: float32[batch, 3] → y: float32[batch, 2]\n"
        "calib  calib.npz: 4 samples\n"
        "task   classifier of 2 classes, damage is KL; y: rows look like logits; --task regression reads it"
        " as values\n"
        "\n"
        "conv1 [16] → [8]  damage 0.001\n"
        "\n"
        "AUDIT passed=True\n"
        "wrote out.onnx\n"
    )
    assert Path("out.onnx").read_text() == "optimized"
    assert Path("plan.json").read_text() == "plan"
    assert Path("report.html").read_text() == "<html>"


def test_what_had_to_be_taken_back_is_said_and_exits_with_1(command, api) -> None:
    api.failures = (Remark("failure", "prune-channels", "conv1", "left whole"),)
    ran = command(*BASE, "--latency", "0.6x")
    assert ran.code == 1 and Path("out.onnx").read_text() == "optimized"
    assert "failure: prune-channels: conv1: left whole\n" in ran.out
    assert command(*BASE, "--latency", "0.6x", "--json").document["remarks"][-1]["kind"] == "failure"


def test_every_option_reaches_the_api(command, api) -> None:
    options = "--keep 0.5 --dims inner --engine ort --threads 2 --criterion magnitude --multiple 4 --seed 7"
    names = ("--include", "a.*", "--include", "b", "--exclude", "c")
    ran = command(
        *BASE,
        *options.split(),
        *names,
        "--task",
        "classifier",
        "--data",
        "test.npz",
        "--refit-all",
        "--shape",
        "x=2,3",
        "--remarks",
        "--metric",
        "m:f",
    )
    assert ran.code == 0
    assert api.calls["load_model"] == (("net.onnx", {"x": (2, 3)}), {})
    _, given = api.calls["optimize"]
    evaluation, show = given.pop("evaluation"), given.pop("progress")
    assert given.pop("metric") == "m:f"
    assert given.pop("names") == ("net.onnx", "out.onnx")
    assert given.pop("cache").is_dir()
    assert len(evaluation) == 3 and callable(show)
    assert given == {
        "budget": make_budget(keep=0.5),
        "dims": "inner",
        "moves": "both",
        "task": "classifier",
        "engine": "ort",
        "threads": 2,
        "criterion": "magnitude",
        "include": ("a.*", "b"),
        "exclude": ("c",),
        "multiple": 4,
        "seed": 7,
        "refit": True,
    }
    assert "missed: fold-batch-norm: bn3: is shared" in ran.out
    assert "data   test.npz: 3 samples" in ran.out


@pytest.mark.parametrize(
    ("flags", "moves"), [((), "both"), (("--depth-only",), "depth"), (("--width-only",), "width")]
)
@pytest.mark.parametrize(("name", "asked"), [("optimize", "optimize"), ("plan", "make_plan")])
def test_one_kind_of_move_can_be_left_out(
    command, api, name: str, asked: str, flags: tuple[str, ...], moves: str
) -> None:
    output = "out.onnx" if name == "optimize" else "plan.json"
    ran = command(name, "net.onnx", "--calib", "calib.npz", "--latency", "0.6x", "-o", output, *flags)
    assert ran.code == 0
    assert api.calls[asked][1]["moves"] == moves


@pytest.mark.parametrize(("name", "output"), [("optimize", "out.onnx"), ("plan", "plan.json")])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--latency", "0.6x", "--depth-only", "--width-only"),
            "error: --depth-only and --width-only: exclude each other; give one, or none to use both\n",
        ),
        (
            ("--keep", "0.5", "--depth-only"),
            "error: --depth-only: a fraction to --keep says nothing of layers; give --latency, --layers or"
            " --max-drop instead\n",
        ),
        (
            ("--layers", "0.75x", "--width-only"),
            "error: --width-only: narrower layers are not fewer; leave it out, or give --latency instead\n",
        ),
    ],
)
def test_moves_that_leave_nothing_are_refused_before_the_model_is_read(
    command, api, name: str, output: str, flags: tuple[str, ...], message: str
) -> None:
    ran = command(name, "net.onnx", "--calib", "calib.npz", "-o", output, *flags)
    assert (ran.code, ran.out, ran.err) == (2, "", message)
    assert api.calls == {} and not Path(output).exists()


@pytest.mark.parametrize(("name", "asked"), [("optimize", "optimize"), ("plan", "make_plan")])
def test_a_budget_in_layers_reaches_the_api(command, api, name: str, asked: str) -> None:
    output = "out.onnx" if name == "optimize" else "plan.json"
    assert command(name, "net.onnx", "--calib", "calib.npz", "--layers", "0.75x", "-o", output).code == 0
    assert api.calls[asked][1]["budget"] == make_budget(layers="0.75x")


def test_inputs_to_judge_by_are_the_users_or_left_to_be_chosen(command, api) -> None:
    assert command(*BASE, "--keep", "0.5").code == 0
    given = api.calls["optimize"][1]
    assert given["evaluation"] is None and given["refit"] is False


def test_a_fraction_may_be_kept_of_widths_only(command, api) -> None:
    assert command(*BASE, "--keep", "0.5", "--width-only").code == 0
    assert api.calls["optimize"][1]["moves"] == "width"


def test_json_is_one_object_and_nothing_else(command, api) -> None:
    ran = command(*BASE, "--latency", "0.6x", "--json")
    assert ran.document["command"] == "optimize" and ran.document["output"] == "out.onnx"
    assert ran.document["audit"]["latency"] == {"ratio": 0.6, "high": None}
    assert ran.document["cost"] == {"cpu_seconds": 2.0, "wall_seconds": 1.0, "source": "here"}
    assert [remark["kind"] for remark in ran.document["remarks"]] == ["missed"]
    assert ran.err == ""


@pytest.mark.parametrize(
    ("budget", "code"),
    [
        (("--latency", "0.6x"), 1),
        (("--layers", "12"), 1),
        (("--max-drop", "0.1"), 1),
        (("--keep", "0.5"), 0),
    ],
)
def test_without_a_credible_gain_the_original_is_kept(
    command, api, budget: tuple[str, str], code: int
) -> None:
    api.credible = False
    ran = command(*BASE, *budget)
    assert ran.code == code
    assert "no credible gain: the original is kept; out.onnx is the original\n" in ran.out
    assert Path("out.onnx").read_text() == "original"


@pytest.mark.parametrize(("passed", "missed"), [(False, None), (True, "0.7x was reached, 0.6x was wanted")])
def test_a_missed_threshold_exits_with_1_and_still_writes(
    command, api, passed: bool, missed: str | None
) -> None:
    api.passed, api.missed = passed, missed
    ran = command(*BASE, "--latency", "0.6x")
    assert ran.code == 1
    assert missed is None or f"missed: {missed}\n" in ran.out
    assert Path("out.onnx").read_text() == "optimized"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: budget: none was given; give exactly one of latency (0.6x or 8ms), layers"),
        (("--layers", "0.75"), "error: layers '0.75': a number of layers is whole and at least 1"),
        (("--layers", "5", "--keep", "0.5"), "error: budget: layers and keep were given; give exactly one"),
        (
            ("--latency", "0.6x", "--keep", "0.5"),
            "error: budget: latency and keep were given; give exactly one",
        ),
        (("--latency", "fast"), "error: latency 'fast': write a ratio such as 0.6x or a time such as 8ms"),
        (("--keep", "1.5"), "error: keep '1.5': write the fraction of channels to keep"),
        (("--keep", "0.5", "--shape", "x"), "error: --shape x: write the input's name and sizes"),
        (("--keep", "0.5", "--plan-out", "out.onnx"), "is one file for two outputs; give each its own name"),
        (
            ("--keep", "0.5", "--report", "no/where.html"),
            "error: no/where.html: the folder no does not exist",
        ),
        (("--keep", "0.5", "--data", "none.npz"), "error: none.npz: no such file or folder; give an .npz"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_read(
    command, api, arguments: tuple[str, ...], message: str
) -> None:
    ran = command(*BASE, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert api.calls == {} and not Path("out.onnx").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.bin", "error: out.bin: models are written as ONNX; give a name that ends in .onnx"),
        ("./net.onnx", "error: net.onnx: is the model itself; give another name"),
        ("no/out.onnx", "error: no/out.onnx: the folder no does not exist; create it first"),
    ],
)
@pytest.mark.parametrize("name", ["optimize", "apply", "run"])
def test_outputs_that_cannot_be_written_are_refused(
    command, api, name: str, output: str, message: str
) -> None:
    extra = {
        "optimize": ("--calib", "calib.npz", "--keep", "0.5"),
        "apply": ("plan.json",),
        "run": ("-p", "cleanup"),
    }[name]
    ran = command(name, "net.onnx", *extra, "-o", output)
    assert ran.code == 2 and ran.err.startswith(message)
    assert api.calls == {}


READ = ("net.onnx", "other.onnx", "calib.npz", "test.npz", "plan.json", "parts/a.npz")
"""All that the commands below read."""

WRITERS = {
    "optimize": ("net.onnx", "--calib", "calib.npz", "--data", "test.npz", "--keep", "0.5"),
    "plan": ("net.onnx", "--calib", "parts", "--keep", "0.5"),
    "apply": ("net.onnx", "plan.json", "--calib", "calib.npz"),
    "run": ("net.onnx", "-p", "cleanup", "--calib", "parts"),
    "audit": ("net.onnx", "other.onnx", "--data", "test.npz", "--plan", "plan.json"),
    "build": ("net.onnx", "--calib", "calib.npz"),
}
"""What each command that writes reads; an output of it is added."""

OUTPUTS = {
    "optimize": ("-o", "--plan-out", "--report"),
    "plan": ("-o",),
    "apply": ("-o",),
    "run": ("-o",),
    "audit": ("--html",),
    "build": ("-o", "--layers", "--timing-cache"),
}
"""The options of each that name a file to write."""


def _spellings(source: str) -> dict[str, str]:
    """Ways to say ``source``, some of which need a link that is made here."""
    Path("link" + Path(source).suffix).symlink_to(source)
    Path("hard" + Path(source).suffix).hardlink_to(source)
    folder = Path("folder")
    folder.symlink_to(".")
    return {
        "itself": source,
        "absolute": str(Path(source).absolute()),
        "roundabout": f"parts/../{source}",
        "through a linked folder": f"folder/{source}",
        "a link": f"link{Path(source).suffix}",
        "a hard link": f"hard{Path(source).suffix}",
    }


def _pairs() -> Iterator[tuple[str, str, str]]:
    for name, options in OUTPUTS.items():
        read = {"parts/a.npz" if each == "parts" else each for each in WRITERS[name]}
        yield from ((name, option, source) for option in options for source in READ if source in read)


@pytest.mark.parametrize(("name", "option", "source"), list(_pairs()))
def test_no_command_writes_over_what_it_reads(command, api, name: str, option: str, source: str) -> None:
    Path("parts").mkdir()
    for each in READ:
        if not Path(each).exists():
            Path(each).write_bytes(Path("calib.npz").read_bytes() if each.endswith(".npz") else b"precious")
    arguments = WRITERS[name]
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    rest = () if option == "-o" or name == "audit" else ("-o", "fresh.onnx")
    for how, spelling in _spellings(source).items():
        ran = command(name, *arguments, *rest, option, spelling)
        assert ran.code == 2, (how, ran.out)
        assert "give another name" in ran.err or "models are written as ONNX" in ran.err, (how, ran.err)
    assert api.calls == {}
    assert {path: path.read_bytes() for path in before} == before
    assert not Path("fresh.onnx").exists()


def test_every_option_that_names_a_file_to_write_is_among_those_that_are_tried() -> None:
    """An option of type path that is new has to say what it is, here or below."""
    others = {("run", "--save-failing"), ("audit", "--plan"), ("demo", "-o")}  # a folder; read; tried apart
    found: set[tuple[str, str]] = set()
    for each in app.registered_commands:
        assert each.callback is not None
        for hint in get_type_hints(each.callback, include_extras=True).values():
            kind, *extras = get_args(hint) or (hint,)
            for extra in extras:
                if isinstance(extra, OptionInfo) and Path in (kind, *get_args(kind)):
                    found.add((each.callback.__name__, extra.default))
    assert found - others == {(name, option) for name, all_ in OUTPUTS.items() for option in all_}


def test_the_demo_does_not_write_over_the_sample(command, api) -> None:
    before = model_path().read_bytes()
    ran = command("demo", "-o", str(model_path()))
    assert ran.code == 2 and ran.err.endswith("is the model itself; give another name\n")
    assert api.calls == {} and model_path().read_bytes() == before


def test_a_hint_names_the_option_that_reads(command, api) -> None:
    ran = command(*BASE, "--keep", "0.5", "--plan-out", "calib.npz")
    assert ran.err == "error: calib.npz: is what --calib reads; give another name\n"


def test_a_missing_model_is_an_error(command, api) -> None:
    ran = command("optimize", "missing.onnx", *BASE[2:], "--keep", "0.5")
    assert (ran.code, ran.err) == (2, "error: missing.onnx: no such file; give an .onnx file\n")


def test_plan_writes_a_plan_and_apply_carries_it_out(command, api) -> None:
    ran = command("plan", "net.onnx", "--calib", "calib.npz", "--max-drop", "0.02", "-o", "plan.json")
    assert ran.code == 0 and ran.out.endswith("conv1 [16] → [8]  damage 0.001\nwrote plan.json\n")
    assert ran.out.index("task   classifier of 2 classes") < ran.out.index("conv1")
    _, given = api.calls["make_plan"]
    assert given["budget"] == make_budget(max_drop=0.02) and given["multiple"] == 8
    assert given["criterion"] == api.DEFAULT_CRITERION
    ran = command("apply", "net.onnx", "plan.json", "-o", "out.onnx", "--calib", "calib.npz", "--remarks")
    assert ran.code == 0 and "applied: prune-channels: conv1: 16 to 8\nwrote out.onnx\n" in ran.out
    assert Path("out.onnx").read_text() == "applied with 4"
    ran = command("apply", "net.onnx", "plan.json", "-o", "out.onnx", "--json")
    assert ran.document["remarks"][0]["where"] == "conv1"
    assert Path("out.onnx").read_text() == "applied with none"


def test_apply_without_a_plan_file(command, api) -> None:
    ran = command("apply", "net.onnx", "plan.json", "-o", "out.onnx")
    assert ran.code == 2 and ran.err.startswith("error: plan.json: cannot be read")
    assert not Path("out.onnx").exists()


def test_the_demo_runs_on_the_embedded_sample(command, api) -> None:
    ran = command("demo")
    assert ran.code == 0
    (graph, data), given = api.calls["optimize"]
    assert graph.tag == "original" and len(data) == 256
    assert len(given["evaluation"]) == 1000 and given["budget"] == make_budget("0.6x")
    assert "digits_resnet20.onnx" in ran.out and "wrote" not in ran.out
    assert command("demo", "-o", "small.onnx", "--json").document["output"] == "small.onnx"
    assert Path("small.onnx").read_text() == "optimized"
    api.credible = False
    assert command("demo").code == 1


def test_shapes() -> None:
    assert read_shapes(["a=1,3,224,224", "b.c:0=7"]) == {"a": (1, 3, 224, 224), "b.c:0": (7,)}
    assert read_shapes(None) == {}
    for wrong in ("a", "a=", "a=0", "a=-1", "a=1,", "=1", "a=b"):
        with pytest.raises(UsageError, match="write the input's name and sizes, such as image=1,3,224,224"):
            read_shapes([wrong])
    with pytest.raises(UsageError, match=r"--shape a=2: a is given twice; keep one"):
        read_shapes(["a=1", "a=2"])
