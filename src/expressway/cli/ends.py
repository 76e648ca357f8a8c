"""How a command ends: a user's mistake, an interrupt, warnings on the way."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from expressway import io

error_console = Console(stderr=True, highlight=False)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a text as it stands, broken between words on a terminal and nowhere else."""
    console.print(text, style=style, markup=False, soft_wrap=not console.is_terminal)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """A user's mistake ends in one line and exit code 2; other exceptions keep their traceback."""
    try:
        yield
    except io.InputError as error:
        say(error_console, " ".join(["error:", *str(error).split()]))
        raise typer.Exit(2) from None


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """An interrupt or a request to terminate ends in one line and exit code 128 + signal.

    Python ignores exceptions of some callbacks (JAX has one in the garbage collector), and an
    interrupt there is lost: what is yielded is to be called now and then, and raises it again.
    A second signal does not stop the cleaning up after the first.
    """
    received: list[int] = []
    raised: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        if not raised:
            raised.append(number)
            raise KeyboardInterrupt

    def lost(found: Any) -> None:
        if isinstance(found.exc_value, KeyboardInterrupt):
            raised.clear()
        else:
            hook(found)

    def check() -> None:
        if received:
            raise KeyboardInterrupt

    hook, sys.unraisablehook = sys.unraisablehook, lost
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    except BaseException as error:
        if not (received or isinstance(error, KeyboardInterrupt)):
            raise
        say(error_console, "interrupted: nothing was written")
        raise typer.Exit(128 + (received or [signal.SIGINT])[0]) from None
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


class _Printer(logging.Handler):
    """Shows what the package logs, above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        say(error_console, f"{record.levelname.lower()}: {record.getMessage()}", "yellow")


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Warnings that the package logs go to the terminal, one line each."""
    logger = logging.getLogger("expressway")
    printer = _Printer(logging.WARNING)
    logger.addHandler(printer)
    try:
        yield
    finally:
        logger.removeHandler(printer)
