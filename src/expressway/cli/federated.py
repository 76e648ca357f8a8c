"""`expressway federated`: analyses across sites that show totals only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import anndata
import typer

from expressway import federated, io, run
from expressway.models import deseq

from . import ends, folder, options, show

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


@app.command(epilog=EXAMPLE)
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
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    contrast: options.FirstContrast = None,
    test: options.Test = None,
    reference: options.Reference = None,
    size_factors: options.SizeFactors = "ratio",
    alpha: options.Alpha = 0.1,
    prior_variance: options.PriorVariance = None,
    no_replace: options.NoReplace = False,
    no_filter: options.NoFilter = False,
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the stages that an earlier run finished.")
    ] = False,
    quiet: options.Quiet = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Differential expression across sites, in one process.

    Every message is made, checked and counted as it would be between hospitals.

    DIR receives what a coordinator may have (results.csv, genes.csv, run.json, figures, fit.h5ad
    for other contrasts, disclosure.csv with every total that left a site) and, in sites/NAME,
    what stays there.
    """
    settings = deseq.Settings(
        size_factors=size_factors,
        prior_variance=prior_variance,
        replace_outliers=not no_replace,
        independent_filtering=not no_filter,
        alpha=alpha,
    )
    rules = federated.Rules(min_sites, min_samples, common_genes)
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
        specs = options.specs(contrast, test)
        levels = options.levels(reference)
        with ends.progress(dict.fromkeys(_STAGES, 1.0), check, quiet=quiet) as progress:
            watch = progress.watch
            watch("reading")
            with clock.stage("reading"):
                adatas = io.read_sites(sites)
            folder.expect_figures()
            done = federated.simulate(
                adatas,
                design,
                specs[0],
                reference=levels,
                settings=settings,
                rules=rules,
                clock=io.Clock(watch),
                kept=kept,
            )
            tables = folder.tables(done.adata, specs, clock)
            with io.written_folder(out) as scratch:
                watch("what stays at sites")
                with clock.stage("what stays at sites"):
                    _write_sites(done, adatas, scratch)
                watch("writing")
                io.write_table(done.disclosure.set_index("stage"), scratch / "disclosure.csv")
                io.write_table(done.cells, scratch / "cells.csv")
                done.adata.write_h5ad(scratch / "fit.h5ad")
                folder.write(done.adata, tables, scratch, clock, _record(done, sites, rules))
                check()
        for checkpoint in checkpoints:
            checkpoint.remove()
    if not quiet:
        show.summary(done.adata, tables, f"{len(adatas)} sites", out)
        show.rounds(done.ledger)


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
