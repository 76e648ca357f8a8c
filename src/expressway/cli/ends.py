"""How a command ends: a user's mistake, an interrupt, warnings on the way."""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from expressway import io

error_console = Console(stderr=True, highlight=False)
# Seconds after which a guess of the time left is worth something.
SOON = 3.0


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


class Shown(NamedTuple):
    """What is to be told how far a command is."""

    watch: Callable[[str], None]
    """A stage begins."""
    tell: Callable[[int, int], None]
    """So many genes are finished of so many."""


@contextmanager
def progress(
    stages: Mapping[str, float], check: Callable[[], None], *, quiet: bool = False
) -> Iterator[Shown]:
    """A bar over the stages, on a terminal only: where it is, genes finished, time left.

    Parameters
    ----------
    stages
        Their share of the time that a large analysis takes, in any unit: what time is left is
        told from them.
    check
        Called now and then (see `interruptible`).
    """
    columns = (
        TextColumn("{task.description:23}"),
        BarColumn(20),
        TextColumn("{task.fields[genes]:>25}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    hidden = quiet or not error_console.is_terminal
    names = list(stages)
    begun = {name: sum(list(stages.values())[:i]) for i, name in enumerate(names)}
    with Progress(*columns, console=error_console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=sum(stages.values()), genes="", left="")
        start, now = time.monotonic(), [names[0]]

        def show(done: float, **fields: str) -> None:
            done = max(done, bar.tasks[0].completed)
            seconds = time.monotonic() - start
            left = seconds * (sum(stages.values()) / done - 1) if done else np.inf
            told = seconds > SOON and left < np.inf
            fields["left"] = f"about {timedelta(seconds=round(left))} left" if told else ""
            bar.update(task, completed=done, **fields)  # pyright: ignore[reportArgumentType]

        def watch(stage: str) -> None:
            check()
            # Stages that few analyses have (weights, iteration) are part of the one before.
            now[0] = stage.split(":")[0] if stage.split(":")[0] in begun else now[0]
            show(float(begun[now[0]]), description=stage, genes="")

        def tell(finished: int, of: int) -> None:
            # A stage goes over its genes several times, over fewer and fewer.
            share = stages[now[0]] * finished / of
            show(begun[now[0]] + share, genes=f"{finished:,} of {of:,} genes")

        yield Shown(watch, tell)
