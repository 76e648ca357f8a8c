"""Options that commands share, and what their texts mean."""

import re
from typing import Annotated

import typer

from expressway import io
from expressway.io.contrast import ContrastSpec
from expressway.models.gene_ranks import Choices, check
from expressway.models.size_factors import Method
from expressway.models.survival import Kind

Design = Annotated[
    str,
    typer.Option(
        metavar="FORMULA", help="Design over columns of the sample table: '~ cell + dex'."
    ),
]
FirstContrast = Annotated[
    tuple[str, str, str] | None,
    typer.Option(
        metavar="FACTOR LEVEL REF",
        help="Compare two levels of a factor. Without it: the last coefficient.",
    ),
]
Test = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SPEC",
        help="Another test of the same fit: FACTOR,LEVEL,REF or a coefficient's name or one "
        "weight a coefficient (0,1,-1). Can be repeated.",
    ),
]
Each = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="FACTOR REF",
        help="Compare every level of a factor with one: contrasts.h5ad and contrasts.csv.",
    ),
]
Influence = Annotated[
    Kind | None,
    typer.Option(
        metavar="KIND",
        help="Which calls would survive without any single sample: influence.csv. conditional "
        "keeps dispersions, pipeline fits them and their trend again.",
    ),
]
Intervals = Annotated[
    float | None,
    typer.Option(
        metavar="LEVEL",
        help="Intervals of fold changes and of ranks, for example .9: intervals.csv, and a figure "
        "of the first genes.",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER",
        help="With --intervals: probability of being one of so many genes with the largest fold "
        "changes; 100 when not given.",
    ),
]
Draws = Annotated[
    int | None,
    typer.Option(metavar="NUMBER", help="With --intervals: draws of ranks; 1000 when not given."),
]
Reference = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FACTOR=LEVEL",
        help="Reference level of a factor, else the contrast's or the first. Can be repeated.",
    ),
]
SizeFactors = Annotated[
    Method,
    typer.Option(help="Median of ratios over genes without zeros, or over positive counts."),
]
Alpha = Annotated[
    float, typer.Option(metavar="RATE", help="False-discovery rate, between 0 and 1.")
]
PriorVariance = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Variance of log dispersions about their trend, instead of an estimate.",
    ),
]
NoReplace = Annotated[bool, typer.Option("--no-replace", help="Do not replace outlying counts.")]
NoFilter = Annotated[
    bool, typer.Option("--no-filter", help="No independent filtering by mean count.")
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="What the process may take, for example 1GB: counts that need more stay in a scratch "
        "file. Of h5ad and zarr only blocks are read at a time.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Print nothing but errors and warnings: no progress.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the results that are in DIR.")
]


def ranking(intervals: float | None, top: int | None, draws: int | None) -> Choices | None:
    """What is asked of intervals and ranks; None where nothing is."""
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


def specs(
    contrast: tuple[str, str, str] | None, test: list[str] | None
) -> list[ContrastSpec | None]:
    """All contrasts; None, the last coefficient, if there are none."""
    first: list[ContrastSpec | None] = [] if contrast is None else [contrast]
    return (first + [_spec(text) for text in test or []]) or [None]


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
        f"--test {text}: needs a coefficient's name, FACTOR,LEVEL,REFERENCE "
        "or one number a coefficient"
    )
    raise io.InputError(msg)


def levels(
    texts: list[str] | None,
    each: tuple[str, str] | None = None,
    contrast: tuple[str, str, str] | None = None,
) -> dict[str, str]:
    """Reference level of each factor; of ``--each``'s its own, unless the contrast has another."""
    free = each is not None and (contrast is None or contrast[0] != each[0])
    return (dict([each]) if each and free else {}) | dict(map(_level, texts or []))


def _level(text: str) -> tuple[str, str]:
    factor, equals, level = text.partition("=")
    if not (factor and equals and level):
        msg = f"--reference {text}: needs FACTOR=LEVEL, for example dex=untrt"
        raise io.InputError(msg)
    return factor, level
