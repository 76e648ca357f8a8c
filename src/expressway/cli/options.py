"""Options that commands share, and what their texts mean."""

import csv
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import typer
from typer.core import TyperCommand

from expressway import io
from expressway.io.contrast import ContrastSpec
from expressway.models import shrinkage, survival, wald
from expressway.models.gene_ranks import Choices, check
from expressway.tl.tested import Kind as TestKind

CONTRASTS, TESTS = "Contrasts", "Tests"
RESTS, MODEL, OUTPUT = "What calls rest on", "Model", "Output"

Design = Annotated[
    str,
    typer.Option(
        metavar="FORMULA", help="Design over columns of the sample table: '~ cell + dex'."
    ),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")]

FirstContrast = Annotated[
    tuple[str, str, str] | None,
    typer.Option(
        metavar="FACTOR LEVEL REF",
        help="Compare two levels of a factor. Without any contrast: the last coefficient.",
        rich_help_panel=CONTRASTS,
    ),
]
Groups = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="GROUP GROUP",
        help="Compare averages over groups: 'dex=trt' 'dex=untrt cell=N061011,N052611'. What is "
        "not named is averaged over.",
        rich_help_panel=CONTRASTS,
    ),
]
Plus = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Sum of coefficients: all --plus less all --minus. Can be repeated.",
        rich_help_panel=CONTRASTS,
    ),
]
Minus = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="See --plus.", rich_help_panel=CONTRASTS)
]
Also = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SPEC",
        help="Another contrast of the same fit: FACTOR,LEVEL,REF or a coefficient's name or one "
        "weight a coefficient (0,1,-1). Can be repeated.",
        rich_help_panel=CONTRASTS,
    ),
]
Each = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="FACTOR REF",
        help="Compare every level of a factor with one: contrasts.h5ad and contrasts.csv.",
        rich_help_panel=CONTRASTS,
    ),
]
Reference = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FACTOR=LEVEL",
        help="Reference level of a factor, else the contrast's or the first. Can be repeated.",
        rich_help_panel=CONTRASTS,
    ),
]

Test = Annotated[
    TestKind,
    typer.Option(
        help="Wald's test, the likelihood-ratio test or edgeR's quasi-likelihood F test.",
        rich_help_panel=TESTS,
    ),
]
Reduced = Annotated[
    str | None,
    typer.Option(
        metavar="FORMULA",
        help="With --test lrt or ql: the design without what is tested, '~ cell'. Without it each "
        "contrast is tested.",
        rich_help_panel=TESTS,
    ),
]
LfcThreshold = Annotated[
    float,
    typer.Option(
        "--lfc-threshold",
        metavar="NUMBER",
        min=0.0,
        help="With --test wald: is the log2 fold change larger than this?",
        rich_help_panel=TESTS,
    ),
]
Alternative = Annotated[
    wald.Alternative,
    typer.Option(
        "--alternative",
        help="Beyond plus or minus the threshold (2014: as DESeq2 had it), between, above, below.",
        rich_help_panel=TESTS,
    ),
]
Shrink = Annotated[
    shrinkage.Kind | None,
    typer.Option(
        help="Shrunken fold changes of each contrast: shrunken.csv.", rich_help_panel=TESTS
    ),
]
Alpha = Annotated[
    float,
    typer.Option(
        metavar="RATE", help="False-discovery rate, between 0 and 1.", rich_help_panel=TESTS
    ),
]
NoFilter = Annotated[
    bool,
    typer.Option(
        "--no-filter", help="No independent filtering by mean count.", rich_help_panel=TESTS
    ),
]

Influence = Annotated[
    survival.Kind | None,
    typer.Option(
        metavar="KIND",
        help="Which calls would survive without any single sample: influence.csv. conditional "
        "keeps dispersions, pipeline fits them and their trend again.",
        rich_help_panel=RESTS,
    ),
]
Intervals = Annotated[
    float | None,
    typer.Option(
        metavar="LEVEL",
        help="Intervals of fold changes and of ranks, for example .9: intervals.csv, and a figure "
        "of the first genes.",
        rich_help_panel=RESTS,
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER",
        help="With --intervals: probability of being one of so many genes with the largest fold "
        "changes; 100 when not given.",
        rich_help_panel=RESTS,
    ),
]
Draws = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER",
        help="With --intervals: draws of ranks; 1000 when not given.",
        rich_help_panel=RESTS,
    ),
]

SizeFactors = Annotated[
    Literal["ratio", "poscounts", "iterate"],
    typer.Option(
        help="Median of ratios over genes without zeros, or over positive counts; or fitted.",
        rich_help_panel=MODEL,
    ),
]
Medians = Annotated[
    Literal["ratio", "poscounts"],
    typer.Option(
        "--size-factors", help="Median of ratios over genes without zeros, or positive counts."
    ),
]
SizeFactorsColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Size factors that the sample table has, instead of estimates.",
        rich_help_panel=MODEL,
    ),
]
ControlGenes = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Genes that size factors are made of, a line each; all when not given.",
        rich_help_panel=MODEL,
    ),
]
Offsets = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Lengths of transcripts (tximport) or another normalisation, genes x samples: counts "
        "are divided by it.",
        rich_help_panel=MODEL,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Weights of observations, genes x samples.", rich_help_panel=MODEL
    ),
]
Trend = Annotated[
    str,
    typer.Option(
        metavar="parametric|local|mean|FILE",
        help="Dispersion as a function of the mean; or a table with columns mean, dispersion.",
        rich_help_panel=MODEL,
    ),
]
PriorVariance = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Variance of log dispersions about their trend, instead of an estimate.",
        rich_help_panel=MODEL,
    ),
]
CooksCutoff = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Cook's distance above which a count is an outlier; inf for never. The .99 quantile "
        "of F when not given.",
        rich_help_panel=MODEL,
    ),
]
NoRefit = Annotated[
    bool,
    typer.Option("--no-refit", help="Do not replace outlying counts.", rich_help_panel=MODEL),
]
NoKeepLarger = Annotated[
    bool,
    typer.Option(
        "--no-keep-larger",
        help="Withhold the p-value of an outlier's gene also where three samples have more "
        "counts, as an analysis across sites does.",
        rich_help_panel=MODEL,
    ),
]

Within = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="An analysis for each value of a column, such as cell_type: results_VALUE.csv each.",
        rich_help_panel=OUTPUT,
    ),
]
Figures = Annotated[
    str,
    typer.Option(
        metavar="FORMATS", help="Figures as png, pdf, svg: png,pdf.", rich_help_panel=OUTPUT
    ),
]
Report = Annotated[
    bool,
    typer.Option(
        "--report",
        help="report.html: summary, figures and a table to sort and search, in one file.",
        rich_help_panel=OUTPUT,
    ),
]
Tables = Annotated[
    Literal["csv", "parquet", "xlsx"],
    typer.Option(help="Format of the tables.", rich_help_panel=OUTPUT),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="What the process may take, for example 1GB: counts that need more stay in a scratch "
        "file. Of h5ad and zarr only blocks are read at a time.",
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        help="Print nothing but errors and warnings: no progress.",
        rich_help_panel=OUTPUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace the results that are in DIR.", rich_help_panel=OUTPUT
    ),
]


class Sectioned(TyperCommand):
    """A command that lists its options by section in its help."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a list a section, in the order of the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None:
                section = "Arguments" if one.param_type_name == "argument" else "Options"
                name = getattr(one, "rich_help_panel", None) or section
                sections.setdefault(name, []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)


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
