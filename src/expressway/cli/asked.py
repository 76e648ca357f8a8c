"""What was asked by the options of an analysis, and what its texts mean."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from expressway import io
from expressway.io.contrast import ContrastSpec
from expressway.models import shrinkage, survival, wald
from expressway.models.gene_ranks import Choices, check
from expressway.tl.tested import Kind as TestKind


class Contrasts(NamedTuple):
    """What is compared, as it was typed."""

    contrast: tuple[str, str, str] | None
    groups: tuple[str, str] | None
    plus: list[str] | None
    minus: list[str] | None
    also: list[str] | None
    each: tuple[str, str] | None = None
    reference: list[str] | None = None


class Tests(NamedTuple):
    """How it is tested."""

    kind: TestKind
    reduced: str | None
    lfc_threshold: float
    alternative: wald.Alternative
    shrink: shrinkage.Kind | None


class Rests(NamedTuple):
    """What is asked of what the calls rest on."""

    influence: survival.Kind | None
    intervals: float | None
    top: int | None
    draws: int | None


class Brought(NamedTuple):
    """What is brought beside counts and design."""

    size_factors: str | None
    control_genes: Path | None
    offsets: Path | None
    weights: Path | None
    trend: str


class Output(NamedTuple):
    """Where results go, and in which form."""

    out: Path
    within: str | None
    figures: str
    report: bool
    tables: str
    memory: str | None
    quiet: bool
    overwrite: bool


def given(brought: Brought) -> dict[str, str]:
    """What is brought, in words for a record; the kind of trend is among the settings."""
    own = brought if Path(brought.trend).is_file() else brought._replace(trend="")
    return {name: str(value) for name, value in own._asdict().items() if value}


def ranking(rests: Rests) -> Choices | None:
    """What is asked of intervals and ranks; None where nothing is."""
    _, intervals, top, draws = rests
    if intervals is None:
        if top is not None or draws is not None:
            name, value = ("--top", top) if top is not None else ("--draws", draws)
            msg = f"{name} {value} goes with --intervals: give its level too, --intervals .9"
            raise io.InputError(msg)
        return None
    some = {"draws": draws, "top": top}
    given = {name: value for name, value in some.items() if value is not None}
    choices = Choices(level=intervals)._replace(**given)
    check(choices)
    return choices


def specs(asked: Contrasts) -> list[ContrastSpec | None]:
    """All contrasts; None, the last coefficient, if there are none."""
    found: list[ContrastSpec | None] = [] if asked.contrast is None else [asked.contrast]
    if asked.groups is not None:
        first, second = map(io.parse_group, asked.groups)
        found.append((first, second))
    if asked.plus or asked.minus:
        found.append((asked.plus or [], asked.minus or []))
    return (found + [_spec(text) for text in asked.also or []]) or [None]


def _spec(text: str) -> ContrastSpec:
    """A coefficient's name, a (factor, level, reference) or weights."""
    # A comma in brackets belongs to a name: bs(age, df=3)[1].
    parts = [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", text)]
    try:
        return [float(part) for part in parts]
    except ValueError:
        pass
    if len(parts) == 1:
        return text
    if len(parts) == 3:
        return tuple(parts)
    msg = (
        f"--also {text}: needs a coefficient's name, FACTOR,LEVEL,REFERENCE "
        "or one number a coefficient"
    )
    raise io.InputError(msg)


def levels(asked: Contrasts) -> dict[str, str]:
    """Reference level of each factor; of ``--each``'s its own, unless the contrast has another."""
    each, contrast = asked.each, asked.contrast
    free = each is not None and (contrast is None or contrast[0] != each[0])
    return (dict([each]) if each and free else {}) | dict(map(_level, asked.reference or []))


def check_within(output: Output, asked: Contrasts, tests: Tests, rests: Rests) -> None:
    """Refuse what analyses of several groups have not.

    Raises
    ------
    InputError
        Something beside tables is asked of them, or a second contrast.
    """
    others = {
        "--each": asked.each,
        "--shrink": tests.shrink,
        "--influence": rests.influence,
        "--intervals": rests.intervals,
        "--report": output.report or None,
        "--figures": None if output.figures in ("png", "") else output.figures,
    }
    found = [name for name, value in others.items() if value is not None]
    if len(specs(asked)) > 1:
        found.append("a second contrast")
    if output.within is not None and found:
        msg = (
            f"--within {output.within} gives a table for each group, without {found[0]}; leave it "
            "out, or analyse one group at a time"
        )
        raise io.InputError(msg)


def trend(text: str) -> tuple[str, pd.DataFrame | None]:
    """The kind of trend, or a table of one's own.

    Raises
    ------
    InputError
        It is no kind, and no file with the columns mean and dispersion.
    """
    if text in ("parametric", "local", "mean"):
        return text, None
    path = Path(text)
    if not path.is_file():
        msg = f"--trend {text}: needs parametric, local, mean or a file of means and dispersions"
        raise io.InputError(msg)
    try:
        table = pd.read_csv(path, sep=None, engine="python")
    except (ValueError, OSError, csv.Error) as error:
        msg = f"--trend {text}: cannot be read as a table ({error})"
        raise io.InputError(msg) from error
    if not {"mean", "dispersion"} <= set(table.columns):
        there = ", ".join(map(str, table.columns))
        msg = f"--trend {text}: needs the columns mean and dispersion; it has {there}"
        raise io.InputError(msg)
    for name in ("mean", "dispersion"):
        numbers = np.asarray(pd.to_numeric(table[name], errors="coerce"), float)
        bad = np.flatnonzero(~(numbers > 0))
        if len(bad):
            msg = (
                f"--trend {text}: {name} {table[name].iloc[bad[0]]} in row {bad[0] + 1}; needed "
                "are positive numbers"
            )
            raise io.InputError(msg)
    return "parametric", table


def _level(text: str) -> tuple[str, str]:
    factor, equals, level = text.partition("=")
    if not (factor and equals and level):
        msg = f"--reference {text}: needs FACTOR=LEVEL, for example dex=untrt"
        raise io.InputError(msg)
    return factor, level
