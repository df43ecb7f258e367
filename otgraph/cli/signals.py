"""Signals that ask a command to end: it ends in order, soon, and says so.

A handler of Python's runs between two of its instructions, so a solver or an engine may hold it up for as
long as they compute. A thread waits beside it and ends what has not ended after ``GRACE_SECONDS``, once the
temporary files are removed. Only code that holds Python's lock all that time can hold up the thread too.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

from otgraph.files import discard_unfinished
from otgraph.scratch import discard_scratch

GRACE_SECONDS = 5.0
"""Half of what supervisors wait before they kill."""

WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}


class Stopped(KeyboardInterrupt):
    """The signal, as an exception: it is handled like an interrupt wherever that is."""


@dataclass
class Stop:
    """``number``: that of the signal which came, None as long as there was none."""

    number: int | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def handle(self, number: int, _: FrameType | None) -> None:
        """End the command; further signals must not disturb its end."""
        if self.number is None:
            self.number = number
            raise Stopped

    def watch(self, bell: socket.socket) -> None:
        """Wait for a signal at ``bell``, and end the process where the handler does not."""
        with bell:
            while numbers := bell.recv(1):
                if numbers[0] in _signals():
                    break
        if numbers and not self._over.wait(GRACE_SECONDS):
            os._exit(say_stopped(numbers[0]))

    def over(self) -> None:
        """The command has ended."""
        self._over.set()


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within the block a signal raises ``Stopped``, and at last ends the process. Signals that are ignored
    (``nohup``, a job in the background) or handled by somebody else stay so, and all do in other threads."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    free = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in _signals()}
    bell, button = socket.socketpair()
    button.setblocking(False)
    watch = threading.Thread(target=stop.watch, args=(bell,), daemon=True)
    watch.start()
    waking = signal.set_wakeup_fd(button.fileno(), warn_on_full_buffer=False)
    try:
        for number in (number for number, handler in before.items() if handler in free):
            signal.signal(number, stop.handle)
        yield stop
    finally:
        stop.over()
        signal.set_wakeup_fd(waking)
        button.close()
        watch.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def say_stopped(number: int) -> int:
    """Remove what is left of the command and say that it was stopped; returns its exit code, 128 and the
    number, as shells count."""
    discard_unfinished()
    discard_scratch()
    with suppress(OSError):  # the terminal may be what went away
        sys.stderr.write(f"error: {WORDS[signal.Signals(number).name]}; nothing is left half-written\n")
        sys.stderr.flush()
    return 128 + number


def _signals() -> list[int]:
    """Those of this system."""
    return [int(getattr(signal, name)) for name in WORDS if hasattr(signal, name)]
