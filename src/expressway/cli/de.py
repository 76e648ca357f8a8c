"""`expressway de`: from a table of counts to a folder of results."""

from pathlib import Path
from typing import Annotated

import anndata
import typer

from expressway import io, tl
from expressway.models import deseq

from . import ends, folder, options, show

EXAMPLE = """\b
Example:
  expressway de counts.csv samples.csv --design '~ cell + dex' \\
      --contrast dex trt untrt --out results
"""
# Seconds of a large table.
_STAGES = {
    "reading": 4.0,
    "design": 0.5,
    "counts": 1.0,
    **dict.fromkeys(deseq.STAGES, 2.0),
    "means": 6.0,
    "gene-wise dispersions": 12.0,
    "MAP dispersions": 5.0,
    "coefficients": 5.0,
    "refit": 2.0,
    "tests": 1.0,
    "influence": 5.0,
    "writing": 3.0,
}


def de(
    counts: Annotated[
        Path,
        typer.Argument(
            metavar="COUNTS",
            help="Counts, genes x samples or samples x genes: csv, tsv (.gz), Matrix Market, h5ad, "
            "zarr.",
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
    design: options.Design,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    contrast: options.FirstContrast = None,
    test: options.Test = None,
    each: options.Each = None,
    influence: options.Influence = None,
    intervals: options.Intervals = None,
    top: options.Top = None,
    draws: options.Draws = None,
    reference: options.Reference = None,
    size_factors: options.SizeFactors = "ratio",
    alpha: options.Alpha = 0.1,
    prior_variance: options.PriorVariance = None,
    no_replace: options.NoReplace = False,
    no_filter: options.NoFilter = False,
    no_keep_larger: Annotated[
        bool,
        typer.Option(
            "--no-keep-larger",
            help="Withhold the p-value of an outlier's gene also where three samples have more "
            "counts, as an analysis across sites does.",
        ),
    ] = False,
    memory: options.Memory = None,
    quiet: options.Quiet = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Differential expression of counts, with DESeq2's statistics.

    DIR receives results.csv, genes.csv, samples.csv, run.json and figures; with --each also
    contrasts.h5ad (contrasts x genes) and contrasts.csv (a row a contrast); with --influence also
    influence.csv (a row a gene: would its call survive without any single sample); with --intervals
    also intervals.csv (a row a gene: intervals of its fold change and of its rank).
    """
    clock = io.Clock()
    settings = deseq.Settings(
        size_factors=size_factors,
        prior_variance=prior_variance,
        replace_outliers=not no_replace,
        independent_filtering=not no_filter,
        alpha=alpha,
        keep_if_larger=not no_keep_larger,
    )
    inputs = {"input": {"counts": str(counts), "samples": samples and str(samples)}}
    with ends.interruptible() as check, ends.one_line_errors(), ends.shown_warnings():
        io.check_folder(out, overwrite)
        specs = options.specs(contrast, test)
        ranking = options.ranking(intervals, top, draws)
        levels = options.levels(reference, each, contrast)
        stages = {k: v for k, v in _STAGES.items() if influence or k != "influence"}
        with ends.progress(stages, check, quiet=quiet) as progress:
            progress.watch("reading")
            with clock.stage("reading"):
                if samples is not None and not io.has_samples(counts):
                    table = anndata.AnnData(obs=io.read_samples(samples))
                    tl.check(table, design, specs, each=each, reference=levels, settings=settings)
                adata = io.read_counts(counts, samples, backed=True)
            tl.check(adata, design, specs, each=each, reference=levels, settings=settings)
            folder.expect_figures()
            tl.de(
                adata,
                design,
                specs[0],
                reference=levels,
                settings=settings,
                memory=memory,
                watch=progress.watch,
                tell=progress.tell,
            )
            tables = folder.tables(adata, specs, clock)
            every = folder.every(adata, each, clock)
            if influence is not None:
                progress.watch("influence")
            moved = folder.influences(adata, specs, tables, influence, clock)
            ranked = folder.intervals(adata, tables, ranking, clock)
            progress.watch("writing")
            with io.written_folder(out) as scratch:
                folder.write_every(every, scratch, clock)
                folder.write_influences(moved, scratch, clock)
                folder.write_intervals(ranked, ranking, scratch, clock)
                folder.write(adata, tables, scratch, clock, inputs)
                check()
    show.excess(memory)
    if not quiet:
        show.summary(adata, tables, counts.name, out)
        show.survival(moved)
        show.ranked(ranked, ranking.top if ranking else 0)
