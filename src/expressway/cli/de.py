"""`expressway de`: from a table of counts to a folder of results."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from expressway import io, tl
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq
from expressway.models.size_factors import Method

from . import ends, folder, show

EXAMPLE = """\b
Example:
  expressway de counts.csv samples.csv --design '~ cell + dex' \\
      --contrast dex trt untrt --out results
"""
_STAGES = ("reading", "design", *deseq.STAGES, "refit", "tests", "writing")


def de(
    counts: Annotated[
        Path,
        typer.Argument(
            metavar="COUNTS",
            help="Counts, genes x samples or samples x genes: csv, tsv (.gz), Matrix Market, h5ad.",
            show_default=False,
        ),
    ],
    samples: Annotated[
        Path | None,
        typer.Argument(
            metavar="SAMPLES",
            help="Sample table, csv or tsv (.gz), names in its first column. "
            "An h5ad can do without.",
            show_default=False,
        ),
    ] = None,
    *,
    design: Annotated[
        str,
        typer.Option(
            metavar="FORMULA", help="Design over columns of the sample table: '~ cell + dex'."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    contrast: Annotated[
        tuple[str, str, str] | None,
        typer.Option(
            metavar="FACTOR LEVEL REF",
            help="Compare two levels of a factor. Without it: the last coefficient.",
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="Another test of the same fit: FACTOR,LEVEL,REF or a coefficient's name or one "
            "weight a coefficient (0,1,-1). Can be repeated.",
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FACTOR=LEVEL",
            help="Reference level of a factor, else the contrast's or the first. Can be repeated.",
        ),
    ] = None,
    size_factors: Annotated[
        Method,
        typer.Option(help="Median of ratios over genes without zeros, or over positive counts."),
    ] = "ratio",
    alpha: Annotated[
        float, typer.Option(metavar="RATE", help="False-discovery rate, between 0 and 1.")
    ] = 0.1,
    prior_variance: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Variance of log dispersions about their trend, instead of an estimate.",
        ),
    ] = None,
    no_replace: Annotated[
        bool, typer.Option("--no-replace", help="Do not replace outlying counts.")
    ] = False,
    no_filter: Annotated[
        bool, typer.Option("--no-filter", help="No independent filtering by mean count.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the results that are in DIR.")
    ] = False,
) -> None:
    """Differential expression of counts, with DESeq2's statistics.

    DIR receives results.csv, genes.csv, samples.csv, run.json and figures.
    """
    clock = io.Clock()
    settings = deseq.Settings(
        size_factors=size_factors,
        prior_variance=prior_variance,
        replace_outliers=not no_replace,
        independent_filtering=not no_filter,
        alpha=alpha,
    )
    with ends.interruptible() as check, ends.one_line_errors(), ends.shown_warnings():
        io.check_folder(out, overwrite)
        specs = _specs(contrast, test)
        levels = dict(map(_level, reference or []))
        with _progress(check) as watch:
            watch("reading")
            with clock.stage("reading"):
                adata = io.read_counts(counts, samples)
            tl.check(adata, design, specs, reference=levels, settings=settings)
            tl.de(adata, design, specs[0], reference=levels, settings=settings, watch=watch)
            tables = folder.tables(adata, specs, clock)
            watch("writing")
            with io.written_folder(out) as scratch:
                folder.write(adata, tables, scratch, clock, [counts, samples])
                check()
    show.summary(adata, tables, counts, out)


def _specs(
    contrast: tuple[str, str, str] | None, test: list[str] | None
) -> list[ContrastSpec | None]:
    """All contrasts; None, the last coefficient, if there are none."""
    specs: list[ContrastSpec | None] = [] if contrast is None else [contrast]
    return (specs + [_spec(text) for text in test or []]) or [None]


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


def _level(text: str) -> tuple[str, str]:
    factor, equals, level = text.partition("=")
    if not (factor and equals and level):
        msg = f"--reference {text}: needs FACTOR=LEVEL, for example dex=untrt"
        raise io.InputError(msg)
    return factor, level


@contextmanager
def _progress(check: Callable[[], None]) -> Iterator[deseq.Watch]:
    """A bar over the stages, on a terminal only."""
    console = ends.error_console
    columns = (TextColumn("{task.description:23}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=len(_STAGES))

        def watch(stage: str) -> None:
            check()
            progress.update(task, description=stage, completed=_STAGES.index(stage.split(":")[0]))

        yield watch
