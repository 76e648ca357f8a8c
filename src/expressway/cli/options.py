"""Options that commands share, by the sections of their help."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from typer.core import TyperCommand

from expressway.models import shrinkage, survival, wald
from expressway.tl.tested import Kind as TestKind

CONTRASTS, TESTS = "Contrasts", "Tests"
RESTS, MODEL, OUTPUT = "What calls rest on", "Model", "Output"

Counts = Annotated[
    Path,
    typer.Argument(
        metavar="COUNTS",
        help="Counts, genes x samples or samples x genes: csv, tsv (.gz), Matrix Market, h5ad, "
        "zarr.",
        show_default=False,
    ),
]
Samples = Annotated[
    Path | None,
    typer.Argument(
        metavar="SAMPLES",
        help="Sample table, csv or tsv (.gz), names in its first column. "
        "h5ad and zarr can do without.",
        show_default=False,
    ),
]
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


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with an option for each field of the one NamedTuple among its parameters.

    Its other parameters stay as they are; a field's annotation and default are the option's.
    """
    signature = inspect.signature(command, eval_str=True)
    (group,) = (p for p in signature.parameters.values() if hasattr(p.annotation, "_fields"))
    kind = group.annotation
    hints = get_type_hints(kind, include_extras=True)
    own = [p for p in signature.parameters.values() if p is not group]
    fields = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=kind._field_defaults.get(name, inspect.Parameter.empty),
            annotation=hints[name],
        )
        for name in kind._fields
    ]
    first = [p for p in own if p.default is inspect.Parameter.empty]
    last = [p for p in own if p.default is not inspect.Parameter.empty]
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*first, *fields, *last)]

    @functools.wraps(command)
    def spread_out(**given: Any) -> Any:
        packed = kind(**{name: given.pop(name) for name in kind._fields})
        return command(**given, **{group.name: packed})

    del spread_out.__wrapped__
    spread_out.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    spread_out.__annotations__ = {p.name: p.annotation for p in named}
    return spread_out


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
