"""How a command ends: a user's mistake, an interrupt, warnings on the way."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

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
def interruptible(
    what_is_left: Callable[[], str] = lambda: "nothing was written",
) -> Iterator[Callable[[], None]]:
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
        say(error_console, f"interrupted: {what_is_left()}")
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


@contextmanager
def progress(stages: Sequence[str], check: Callable[[], None]) -> Iterator[Callable[[str], None]]:
    """A bar over the stages, on a terminal only."""
    console = error_console
    columns = (TextColumn("{task.description:23}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=len(stages))

        def watch(stage: str) -> None:
            check()
            progress.update(task, description=stage, completed=stages.index(stage.split(":")[0]))

        yield watch
