"""The ``otgraph`` command: the table of commands, and errors to exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from otgraph.cli.audit import audit
from otgraph.cli.demo import demo
from otgraph.cli.engine import bench, build, engines
from otgraph.cli.inspect import inspect
from otgraph.cli.optimize import optimize
from otgraph.cli.passes import passes
from otgraph.cli.plan import apply, plan
from otgraph.cli.run import run
from otgraph.errors import OtgraphError
from otgraph.foreign import blame

INTERRUPTED = 130
"""128 + SIGINT, as shells count."""
BROKEN = 2
"""A mistake of otgraph itself; never 1, which means that a threshold was missed."""


class _Commands(TyperGroup):
    """Commands in the order they are added; an interrupt ends with its own exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            sys.stderr.write("error: interrupted; nothing is left half-written\n")
            raise typer.Exit(INTERRUPTED) from stop
        except (
            SystemExit
        ) as stop:  # no command ends so; foreign code (a plug-in) must not choose the exit code
            text = f"{blame(stop)}; a command is never ended by sys.exit: take it out of that code"
            raise OtgraphError(text) from stop


app = typer.Typer(
    cls=_Commands,
    name="otgraph",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (optimize, plan, apply, audit, inspect, run, passes, engines, build, bench, demo):
    app.command(name=_command.__name__)(_command)


def _show_version(*, value: bool) -> None:
    if value:
        sys.stdout.write(f"otgraph {version('otgraph')}\n")
        raise typer.Exit


@app.callback()
def _root(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (may stand anywhere).")
    ] = False,
) -> None:
    """Make trained networks faster: measured, explained, nothing to retrain.

    Exit codes: 0 done · 1 a stated threshold was missed · 2 wrong usage or unusable input · 3 the engine or
    device is missing.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. Errors go to standard error as ``error: …``."""
    debug = "--debug" in arguments
    try:
        app(args=[argument for argument in arguments if argument != "--debug"], prog_name="otgraph")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BROKEN if stop.code else 0
    except OtgraphError as error:
        return _fail(str(error), error.exit_code, debug=debug)
    except ModuleNotFoundError as error:
        return _fail(_missing(error), BROKEN, debug=debug)
    except Exception as error:  # noqa: BLE001  (the border of the process: a crash must not exit with 1)
        what = f"{type(error).__name__}: {error}"
        return _fail(f"{what}; a mistake of otgraph: run with --debug and report it", BROKEN, debug=debug)
    return 0


def _missing(error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    if package in ("", "otgraph", "passes"):
        return f"ModuleNotFoundError: {error}; a mistake of otgraph: run with --debug and report it"
    return (
        f"this command needs the package {package}, which is not installed here; pip install otgraph with"
        " its dependencies (without torch, audit, bench and build take .onnx files and engines)"
    )


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n")
    return code
