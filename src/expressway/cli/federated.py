"""`expressway federated`: analyses across sites that show totals only."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import anndata
import pandas as pd
import typer

from expressway import federated, io, run, tl
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq, shrinkage
from expressway.models.trend import Kind as Trend
from expressway.models.wald import threshold
from expressway.tl.tested import check_test

from . import asked, brought, ends, folder, options, show

EXAMPLE = """\b
Example:
  expressway federated simulate sites --design '~ study + gender' \\
      --contrast gender female male --out results
"""
_STAGES = (
    *("reading", "agreement", *deseq.STAGES, "refit", "tests"),
    *("what stays at sites", "writing"),
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def main() -> None:
    """Analyses across sites that show totals only."""


@app.command(epilog=EXAMPLE, cls=options.Sectioned)
def simulate(
    sites: Annotated[
        Path,
        typer.Argument(
            metavar="SITES",
            help="Folder with one folder a site: counts.csv and samples.csv (also tsv, mtx, .gz), "
            "or an h5ad.",
            show_default=False,
        ),
    ],
    *,
    design: options.Design,
    out: options.Out,
    contrast: options.FirstContrast = None,
    groups: options.Groups = None,
    plus: options.Plus = None,
    minus: options.Minus = None,
    also: options.Also = None,
    reference: options.Reference = None,
    test: options.Test = "wald",
    reduced: options.Reduced = None,
    lfc_threshold: options.LfcThreshold = 0.0,
    alternative: options.Alternative = "greaterAbs",
    shrink: options.Shrink = None,
    alpha: options.Alpha = 0.1,
    no_filter: options.NoFilter = False,
    size_factors: options.SizeFactors = "ratio",
    size_factors_column: options.SizeFactorsColumn = None,
    control_genes: options.ControlGenes = None,
    offsets: options.Offsets = None,
    weights: options.Weights = None,
    trend: options.Trend = "parametric",
    prior_variance: options.PriorVariance = None,
    cooks_cutoff: options.CooksCutoff = None,
    no_refit: options.NoRefit = False,
    min_sites: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Refuse to start with fewer sites.")
    ] = federated.Rules().min_sites,
    min_samples: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            min=1,
            help="Refuse designs with fewer samples, over all sites, in a combination of levels.",
        ),
    ] = federated.Rules().min_samples,
    common_genes: Annotated[
        bool,
        typer.Option("--common-genes", help="Use the genes that every site has; else all must."),
    ] = False,
    masks: Annotated[
        bool | None,
        typer.Option(
            "--masks/--no-masks",
            help="Sites add masks that cancel in their sum: the coordinator sees totals of all "
            "sites and nothing of one. On with three sites or more.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the stages that an earlier run finished.")
    ] = False,
    figures: options.Figures = "png",
    report: options.Report = False,
    tables: options.Tables = "csv",
    quiet: options.Quiet = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Differential expression across sites, in one process.

    Every message is made, checked and counted as it would be between hospitals.

    FILE of --offsets and --weights is in each site's folder, that of --control-genes and --trend is
    one for all.

    DIR receives what a coordinator may have (results.csv, genes.csv, run.json, figures, fit.h5ad
    for other contrasts, disclosure.csv with every total that left a site) and, in sites/NAME,
    what stays there.
    """
    contrasts = asked.Contrasts(contrast, groups, plus, minus, also, reference=reference)
    tests = asked.Tests(test, reduced, lfc_threshold, alternative, shrink)
    files = asked.Brought(size_factors_column, control_genes, offsets, weights, trend)
    rules = federated.Rules(min_sites, min_samples, common_genes, masks)
    stages, clock = out.with_name(f"{out.name}.stages"), io.Clock()
    checkpoints: list[run.Checkpoint] = []

    def kept(what: Mapping[str, Any]) -> deseq.Stage:
        checkpoints.append(run.Checkpoint(stages, what, resume=resume))
        return checkpoints[0].run

    def left() -> str:
        if not checkpoints:
            return "nothing was written"
        return f"finished stages are in {stages}; the same command with --resume goes on"

    with ends.interruptible(left) as check, ends.one_line_errors(), ends.shown_warnings():
        io.check_folder(out, overwrite)
        io.check_table_path(out / f"results.{tables}")
        check_test(*tests[:4])
        threshold(lfc_threshold, alternative)
        kind, own = asked.trend(trend)
        settings = deseq.Settings(
            size_factors=size_factors,
            trend=cast("Trend", kind),
            prior_variance=prior_variance,
            replace_outliers=not no_refit,
            cooks_cutoff=cooks_cutoff,
            independent_filtering=not no_filter,
            alpha=alpha,
        )
        specs, formats = asked.specs(contrasts), folder.parse_formats(figures)
        with ends.progress(dict.fromkeys(_STAGES, 1.0), check, quiet=quiet) as progress:
            watch = progress.watch
            watch("reading")
            with clock.stage("reading"):
                adatas = io.read_sites(sites)
                for name, adata in adatas.items():
                    brought.bring(adata, files, sites / name)
            folder.expect_figures()
            done = federated.simulate(
                adatas,
                design,
                specs[0],
                reference=asked.levels(contrasts),
                inputs=brought.named(files),
                settings=settings,
                trend=own,
                rules=rules,
                clock=io.Clock(watch),
                kept=kept,
            )
            tested = folder.tables(done.adata, specs, clock, _test(done, tests))
            shrunken = {} if shrink is None else _shrunken(done, tested, shrink, clock)
            with io.written_folder(out) as scratch:
                watch("what stays at sites")
                with clock.stage("what stays at sites"):
                    _write_sites(done, adatas, scratch)
                watch("writing")
                place = folder.Place(scratch, clock, tables, formats, report)
                for name, table in shrunken.items():
                    place.write(table, name)
                place.write(done.disclosure.set_index("stage"), "disclosure")
                place.write(done.cells, "cells")
                done.adata.write_h5ad(scratch / "fit.h5ad")
                record = _record(done, sites, rules) | {"test": tests._asdict()}
                record["input"] |= asked.given(files)
                folder.write(done.adata, tested, place, record)
                check()
        for checkpoint in checkpoints:
            checkpoint.remove()
    if not quiet:
        show.summary(done.adata, tested, f"{len(adatas)} sites", out)
        show.rounds(done.ledger)


def _test(
    done: federated.Run, tests: asked.Tests
) -> Callable[[ContrastSpec | None], pd.DataFrame] | None:
    """What tests a contrast, by more rounds where the test needs them."""
    kind, reduced, threshold, alternative, _ = tests
    if kind == "lrt":
        return lambda spec: federated.lrt(done, reduced, spec)
    if kind == "ql":
        return lambda spec: federated.ql(done, reduced, spec)
    limit: dict[str, Any] = {"lfc_threshold": threshold, "alternative": alternative}
    return lambda spec: tl.contrast(done.adata, spec, **limit)


def _shrunken(
    done: federated.Run, tested: Sequence[folder.Tested], kind: shrinkage.Kind, clock: io.Clock
) -> dict[str, pd.DataFrame]:
    """Shrunken fold changes of each contrast, by more rounds."""
    return folder.shrunken(tested, lambda spec: federated.shrink(done, spec, kind=kind), clock)


def _write_sites(done: federated.Run, adatas: Mapping[str, anndata.AnnData], scratch: Path) -> None:
    """A folder a site with what stays there."""
    for name, adata in adatas.items():
        place = scratch / "sites" / name
        place.mkdir(parents=True)
        own = federated.stays(done, name, list(adata.obs_names))
        io.write_table(own.samples, place / "samples.csv")
        anndata.AnnData(own.fitted, obs=own.samples).write_h5ad(place / "fitted.h5ad")


def _record(done: federated.Run, sites: Path, rules: federated.Rules) -> dict[str, Any]:
    """What a coordinator records of the messages."""
    ledger = done.ledger
    return {
        "input": {"sites": str(sites)},
        "rounds": ledger.round,
        "rounds_by_stage": ledger.rounds,
        "bytes_up": ledger.up,
        "bytes_down": ledger.down,
        "rules": rules._asdict(),
        "genes_left_out": dict(done.agreement.left_out),
    }
