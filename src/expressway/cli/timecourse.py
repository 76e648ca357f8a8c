"""`expressway timecourse`: from a table of expression or counts to a folder of results."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from expressway import io, tl
from expressway.models.course import Of
from expressway.timecourse import CV, DEFAULTS, PUBLISHED, Settings, load

from . import course_folder, ends, options, ranges

EXAMPLE = """\b
Example:
  expressway timecourse expression.csv samples.csv --time hour --where group=C \\
      --df 4:8 --clusters 10 --leave-out 1 --cv both --out results
"""
_STAGES = {
    "reading": 1.0,
    "design": 0.1,
    "number of clusters": 3.0,
    "clusters": 5.0,
    "cross-validation": 15.0,
    "tests": 0.5,
    "curves": 1.0,
    "writing": 8.0,
}

Basis = Literal["b-spline", "natural", "cyclic", "factor"]
Error = Literal["squared", "absolute"]


def timecourse(
    expression: Annotated[
        Path,
        typer.Argument(
            metavar="EXPRESSION",
            help="Expression or, with --counts, counts: genes x samples or samples x genes; csv, "
            "tsv (.gz), Matrix Market, h5ad, zarr. Empty cells and NA are missing values.",
            show_default=False,
        ),
    ],
    samples: Annotated[
        Path | None,
        typer.Argument(
            metavar="SAMPLES",
            help="Sample table, csv or tsv (.gz), names in its first column. "
            "h5ad and zarr can do without.",
            show_default=False,
        ),
    ] = None,
    *,
    time: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the sample table with times: numbers.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Use only these samples; VALUE,VALUE is either. Can be repeated.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Each group of samples has its own curve."),
    ] = None,
    replicate: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Series of samples, for --of replicates."),
    ] = None,
    counts: Annotated[
        bool, typer.Option("--counts", help="Counts: negative-binomial curves.")
    ] = False,
    df: Annotated[
        str | None,
        typer.Option(
            metavar="RANGE",
            help="Columns of the spline: 7, or 4:8 to choose from; that is the default, as far as "
            "there are distinct times.",
        ),
    ] = None,
    basis: Annotated[
        Basis, typer.Option(help="Curves; factor is a mean for each time and no curve.")
    ] = "b-spline",
    degree: Annotated[int, typer.Option(help="Of the pieces of a spline.")] = DEFAULTS.degree,
    knots: Annotated[
        str,
        typer.Option(
            metavar="WHERE", help="Interior knots: equal, quantile, or times between commas."
        ),
    ] = "equal",
    indicator_times: Annotated[
        str | None,
        typer.Option(
            metavar="TIMES", help="Times with a mean of their own, outside of the spline: 72,120."
        ),
    ] = None,
    period: Annotated[
        float | None, typer.Option(metavar="TIME", help="Of a cyclic basis, else the times' range.")
    ] = None,
    clusters: Annotated[
        str,
        typer.Option(metavar="RANGE", help="How many clusters: 10, or 4:16 to choose from."),
    ] = "10",
    spread: Annotated[
        float | None,
        typer.Option(
            metavar="VARIANCE",
            help="Of genes about their cluster's curve, each coordinate.  [default: 0.1]",
        ),
    ] = None,
    starts: Annotated[
        int | None, typer.Option(help="Starts of clustering, the best kept.  [default: 20]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first start.")] = 0,
    cv: Annotated[
        CV, typer.Option(help="Errors without what is left out: predicted, refitted, or both.")
    ] = "both",
    leave_out: Annotated[
        str,
        typer.Option(
            metavar="RANGE", help="How many are left out together: 1, or 1:3; the first chooses df."
        ),
    ] = "1",
    of: Annotated[Of, typer.Option(help="What is left out.")] = "times",
    among: Annotated[
        str | None,
        typer.Option(metavar="TIMES", help="Times that may be left out, else all of the spline."),
    ] = None,
    error: Annotated[
        Error | None, typer.Option(help="Of cross-validation.  [default: squared]")
    ] = None,
    singular: Annotated[
        Literal["skip", "refuse"],
        typer.Option(help="Folds without which curves cannot be estimated."),
    ] = "skip",
    test_genes: Annotated[
        int, typer.Option(metavar="NUMBER", help="Genes held out of clustering, to test it.")
    ] = 0,
    genes: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Genes of the figure of curves, between commas."),
    ] = None,
    as_published: Annotated[
        bool,
        typer.Option(
            "--as-published",
            help="As Giordano et al. 2019: no spread, one start, absolute errors, genes classified "
            "with the values left out, all folds averaged.",
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FIT", help="fit.npz of an earlier run, from whose clusters to go on."
        ),
    ] = None,
    quiet: options.Quiet = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Curves of genes over time, clusters of curves, and cross-validation without refitting.

    DIR receives cv.csv, folds.csv, clusters.csv, curves.csv, differential.csv, influence.csv,
    starts.csv, fit.npz, run.json and figures; with several numbers of clusters also
    selection.csv.
    """
    clock = io.Clock()
    with ends.interruptible() as check, ends.one_line_errors(), ends.shown_warnings():
        io.check_folder(out, overwrite)
        base = PUBLISHED if as_published else DEFAULTS
        settings = Settings(
            kind=basis,
            degree=degree,
            knots=knots if knots in ("equal", "quantile") else ranges.numbers(knots, "--knots"),
            indicators=ranges.numbers(indicator_times, "--indicator-times"),
            period=period,
            spread=base.spread if spread is None else spread,
            starts=base.starts if starts is None else starts,
            seed=seed,
            error=base.error if error is None else error,
            leak=base.leak,
            information=base.information,
            singular=singular,
        )
        wanted = None if df is None else ranges.whole(df, "--df")
        with ends.progress(_STAGES, check, quiet=quiet) as progress:
            progress.watch("reading")
            with clock.stage("reading"):
                read = io.read_counts if counts else io.read_expression
                adata = read(expression, samples, where=ranges.pairs(where, "--where") or None)
                start = None if resume is None else load(resume)
            named = genes.split(",") if genes else []
            course_folder.expect(adata, named)
            found = tl.timecourse(
                adata,
                time,
                df=wanted,
                clusters=ranges.whole(clusters, "--clusters"),
                group=group,
                replicate=replicate,
                leave_out=ranges.whole(leave_out, "--leave-out"),
                of=of,
                among=ranges.numbers(among, "--among") or None,
                cv=cv,
                test_genes=test_genes,
                counts=counts,
                settings=settings,
                start=start,
                watch=progress.watch,
            )
            inputs = {
                "input": {
                    "expression": str(expression),
                    "samples": samples and str(samples),
                    "where": where,
                    "time": time,
                    "group": group,
                    "resume": resume and str(resume),
                }
            }
            progress.watch("curves")
            with io.written_folder(out) as scratch:
                course_folder.write(found, named, scratch, clock, inputs, progress.watch)
                check()
    if not quiet:
        course_folder.summary(found, expression.name, out)
