"""The ``otgraph`` command: the table of commands, and errors to exit codes."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from otgraph.cli.signals import say_stopped, stoppable
from otgraph.errors import DataConverted, OtgraphError, UsageError
from otgraph.foreign import blame
from otgraph.scratch import clear_stale

INTERRUPTED = 130
"""128 + SIGINT, as shells count."""
UNREAD = 141
"""128 + SIGPIPE: who reads the output has seen enough."""
BROKEN = 2
"""A mistake of otgraph itself; never 1, which means that a threshold was missed."""
USAGE_ERROR: type[Exception] = next(
    each for each in typer.BadParameter.__mro__ if each.__name__ == "UsageError"
)
"""Of the parser that typer stands on, which it does not export: click's, or its own copy of it."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room left: on the disk, for the user, in one file."""


class _Commands(TyperGroup):
    """Commands in the order they are added; an interrupt ends with its own exit code, and what killed
    commands left in the folder of temporary files goes before one begins."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        clear_stale()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise typer.Exit(INTERRUPTED) from stop
        except SystemExit as stop:
            # no command ends so, but rich does where its reader has gone (| head); foreign code (a plug-in)
            # must not choose the exit code
            if isinstance(stop.__context__, BrokenPipeError):
                raise typer.Exit(UNREAD) from stop
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
        from importlib.metadata import version  # noqa: PLC0415  (takes longer than all the rest)

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
    _write_any_text()
    with _notes(), stoppable() as stop:
        try:
            code = _run(arguments)
        except KeyboardInterrupt:  # before or after the command itself
            code = INTERRUPTED
        if code == INTERRUPTED or stop.number is not None:
            code = say_stopped(stop.number or signal.SIGINT)
    return code


def _write_any_text() -> None:
    """What a terminal's encoding lacks, and names that are no text, are written as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _notes() -> Iterator[None]:
    """Within the block, what was done to inputs is said on standard error, each once."""
    shown, said = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, DataConverted):
            shown(message, category, *where, **more)
        elif str(message) not in said:
            said.add(str(message))
            sys.stderr.write(f"note: {message}\n")

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataConverted)
        warnings.showwarning = show
        yield


def _run(arguments: Sequence[str]) -> int:
    debug = "--debug" in arguments
    given = [argument for argument in arguments if argument != "--debug"]
    try:
        found = app(args=given, prog_name="otgraph", standalone_mode=False)
        return found if isinstance(found, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BROKEN if stop.code else 0
    except USAGE_ERROR as error:
        return _misused(error, debug=debug)
    except OtgraphError as error:
        return _fail(str(error), error.exit_code, debug=debug)
    except ModuleNotFoundError as error:
        return _fail(_missing(error), BROKEN, debug=debug)
    except OSError as error:
        return _fail(_of_system(error), BROKEN, debug=debug)
    except Exception as error:  # noqa: BLE001  (the border of the process: a crash must not exit with 1)
        return _fail(_mistake(error), BROKEN, debug=debug)


def _misused(error: Any, *, debug: bool) -> int:
    """An argument that is not understood, on one line like all others; no argument at all shows the help."""
    if "NoArgsIsHelp" in type(error).__name__:
        error.show()
        return BROKEN
    where = "otgraph" if error.ctx is None else error.ctx.command_path
    said = error.format_message().replace("Value error, ", "").rstrip(". ")
    return _fail(f"{' '.join(said.split())}; see {where} --help", UsageError.exit_code, debug=debug)


def _missing(error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    if package in ("", "otgraph", "passes"):
        return _mistake(error)
    return (
        f"this command needs the package {package}, which is not installed here; pip install otgraph with"
        " its dependencies (without torch, audit, bench and build take .onnx files and engines)"
    )


def _of_system(error: OSError) -> str:
    """A full disk is nobody's mistake; it may be that of temporary files or of standard output."""
    if error.errno not in FULL and error.filename is None:
        return _mistake(error)
    if error.errno not in FULL:
        return f"{os.fspath(error.filename)}: {error.strerror}; give another path, or check its permissions"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}cannot be written ({error.strerror}); free some room, or set TMPDIR to a folder with room"


def _mistake(error: Exception) -> str:
    return f"{type(error).__name__}: {error}; a mistake of otgraph: run with --debug and report it"


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    line = " ".join(message.splitlines())  # names in damaged files hold whatever ends a line
    sys.stderr.write(f"error: {line}\n")
    return code
