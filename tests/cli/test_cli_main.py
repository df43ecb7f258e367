"""The frame of the command line: help, versions, errors and exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from otgraph.cli.main import app, run_command
from otgraph.errors import DataError, EngineMissing, ModelError, OtgraphError
from otgraph.sample import model_path

COMMANDS = [
    "optimize",
    "plan",
    "apply",
    "audit",
    "inspect",
    "run",
    "passes",
    "engines",
    "build",
    "bench",
    "demo",
]
BUDGET = ("--calib", "calib.npz", "-o", "out.onnx", "--latency", "0.6x")


def test_the_table_of_commands_is_the_contract() -> None:
    assert [command.name for command in app.registered_commands] == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_speaks_json(command, name: str) -> None:
    ran = command(name, "--help")
    assert ran.code == 0
    assert f"Usage: otgraph {name}" in ran.out
    assert "--json" in ran.out


def test_help_and_version(command) -> None:
    assert all(name in command("--help").out for name in COMMANDS)
    assert command("--version").out.startswith("otgraph 0.")
    assert command("--version").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimize-it",),
        ("optimize",),
        ("optimize", "net.onnx", "--no-such-option"),
        ("optimize", "net.onnx", *BUDGET, "--dims", "some"),
        ("optimize", "net.onnx", *BUDGET, "--threads", "0"),
        ("audit", "a.onnx", "b.onnx", "--data", "calib.npz", "--min-speedup", "fast"),
    ],
)
def test_wrong_usage_exits_with_2(command, api, arguments: tuple[str, ...]) -> None:
    ran = command(*arguments)
    assert ran.code == 2
    assert ran.out == "" and ran.err.startswith("error: ") and ran.err.count("\n") == 1
    assert ran.err.rstrip().endswith((f"see otgraph {arguments[0]} --help", "see otgraph --help"))
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelError("net.onnx: is cut short; copy it again"), 2),
        (DataError("calib.npz: is empty; give at least one sample"), 2),
        (EngineMissing("engine 'tensorrt': not available here; install it"), 3),
    ],
)
def test_errors_become_one_line_and_an_exit_code(command, api, error: OtgraphError, code: int) -> None:
    api.fail = {"optimize": error}
    ran = command("optimize", "net.onnx", *BUDGET, "--json")
    assert (ran.code, ran.out, ran.err) == (code, "", f"error: {error}\n")
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize("place", [0, 3])
def test_debug_shows_the_traceback_wherever_it_stands(command, api, place: int) -> None:
    arguments = ["optimize", "missing.onnx", *BUDGET]
    arguments.insert(place, "--debug")
    ran = command(*arguments)
    assert ran.code == 2
    assert "Traceback" in ran.err and ran.err.endswith(
        "error: missing.onnx: no such file; give an .onnx file\n"
    )


def test_a_mistake_of_our_own_never_looks_like_a_missed_threshold(command, api) -> None:
    api.fail = {"optimize": KeyError("oops")}
    ran = command("optimize", "net.onnx", *BUDGET)
    assert ran.code == 2
    assert ran.err == "error: KeyError: 'oops'; a mistake of otgraph: run with --debug and report it\n"


def test_an_interrupt_leaves_nothing_and_exits_with_130(command, api, tmp_path: Path) -> None:
    api.fail = {"optimize": KeyboardInterrupt()}
    before = sorted(tmp_path.iterdir())
    ran = command("optimize", "net.onnx", *BUDGET, "--plan-out", "plan.json")
    assert ran.code == 130
    assert ran.err == "error: interrupted; nothing is left half-written\n"
    assert sorted(tmp_path.iterdir()) == before


def test_progress_is_not_shown_in_a_pipe(command, api) -> None:
    ran = command("optimize", "net.onnx", *BUDGET)
    assert "thinking" not in ran.out + ran.err


def test_without_a_command_the_help_is_shown(command) -> None:
    ran = command()
    assert ran.code == 2 and all(name in ran.out + ran.err for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_groups_the_options(command, name: str) -> None:
    """Only --help itself is left in the group without a name of ours."""
    groups = re.split(r"╭─ (.+?) ─+╮", command(name, "--help").out)
    found = dict(zip(groups[1::2], groups[2::2], strict=True))
    assert re.findall(r"--[a-z-]+", found["Options"]) == ["--help"]
    if name == "optimize":
        assert list(found)[2:] == [
            "Data",
            "Output",
            "Budget (give one)",
            "What may change",
            "Engine",
            "Expert",
        ]
        assert set(re.findall(r" (--[a-z-]+)", found["Budget (give one)"])) >= {
            "--latency",
            "--layers",
            "--keep",
        }


HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "scipy", "jinja2", "otgraph.api")


@pytest.mark.parametrize("arguments", [["--help"], ["optimize", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom otgraph.cli.main import run_command\n"
        f"assert run_command({arguments}) == 0\nheavy = sys.modules.keys() & set({HEAVY})\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_installed_command_returns_the_code(tmp_path: Path) -> None:
    line = [
        sys.executable,
        "-c",
        "from otgraph.cli.main import main; main()",
        "optimize",
        "x.onnx",
        "--calib",
    ]
    done = subprocess.run(
        [*line, "none.npz", "-o", "y.onnx", "--keep", "0.5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: none.npz: no such file or folder") and done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_run_command_takes_any_sequence() -> None:
    assert run_command(("passes", "--help")) == 0


INTERRUPTED_WRITE = """
import sys, time, types
from pathlib import Path
from otgraph.cli.main import main
from otgraph.files import write_aside


class Graph:
    signature = types.SimpleNamespace(inputs=(), outputs=())

    def save(self, path):
        with write_aside(Path(path)) as aside:
            aside.write_text("half a model")
            print("writing", flush=True)
            time.sleep(60)
        return ()


result = types.SimpleNamespace(graph=Graph(), remarks=(), records=(), undone=(), spared=())
sys.modules["otgraph.api"] = types.SimpleNamespace(
    load_model=lambda spec, shapes: Graph(), run_pipeline=lambda *args, **options: result
)
main(["run", "net.onnx", "-p", "cleanup", "-o", "out.onnx", "--json"])
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_while_writing_leaves_no_half_written_output(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    line = [sys.executable, "-c", INTERRUPTED_WRITE]
    with subprocess.Popen(
        line,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # what runs in the background ignores SIGINT
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        process.send_signal(sent)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert not (tmp_path / "out.onnx").exists()
    if sent is signal.SIGINT:
        assert err == "error: interrupted; nothing is left half-written\n"
        assert not list(tmp_path.iterdir())


def test_a_reader_that_has_gone_is_no_mistake(tmp_path: Path) -> None:
    """As in ``otgraph passes | head -1``."""
    script = "from otgraph.cli.main import main; main(['passes'])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_what_an_encoding_lacks_is_written_as_an_escape(encoding: str) -> None:
    script = (
        "import sys\nfrom otgraph.cli.main import app, main\n"
        "@app.command()\ndef say() -> None: print('a \u2192 b', '\\udcff')\n"
        "main(['say'])"
    )
    told = {**os.environ, "PYTHONIOENCODING": encoding}
    found = subprocess.run([sys.executable, "-c", script], env=told, capture_output=True, check=False)
    assert found.returncode == 0, found.stderr
    said = found.stdout.decode(encoding.partition(":")[0])
    assert said.strip() == ("a \\u2192 b \\udcff" if encoding == "ascii" else "a \u2192 b \\udcff")


@pytest.mark.parametrize("arguments", [("inspect",), ("bench",), ("bench", "--engine", "openvino")])
def test_a_path_that_is_no_text_is_refused(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "net\udcff.onnx"
    model.write_bytes(model_path().read_bytes())
    assert run_command([arguments[0], str(model), *arguments[1:]]) == 2
    assert "its path is no UTF-8, which engines cannot open; rename it" in capsys.readouterr().err


def test_no_output_goes_where_no_engine_finds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "net\udcff.onnx")
    assert run_command(["run", str(model_path()), "-p", "cleanup", "-o", output]) == 2
    assert "its path is no UTF-8" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
