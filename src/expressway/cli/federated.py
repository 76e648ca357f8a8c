"""`expressway federated`: analyses across sites that show totals only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import anndata
import typer

from expressway import federated, io, run
from expressway.models import deseq

from . import across, brought, deploy, ends, folder, options

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
@options.spread
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
    of: across.Across,
) -> None:
    """Differential expression across sites, in one process.

    Every message is made, checked and counted as it would be between hospitals.

    FILE of --offsets and --weights is in each site's folder, that of --control-genes and --trend is
    one for all.

    DIR receives what a coordinator may have (results.csv, genes.csv, run.json, figures, fit.h5ad
    for other contrasts, disclosure.csv with every total that left a site) and, in sites/NAME,
    what stays there.
    """
    stages, clock = of.out.with_name(f"{of.out.name}.stages"), io.Clock()
    checkpoints: list[run.Checkpoint] = []

    def kept(what: Mapping[str, Any]) -> deseq.Stage:
        checkpoints.append(run.Checkpoint(stages, what, resume=of.resume))
        return checkpoints[0].run

    def left() -> str:
        if not checkpoints:
            return "nothing was written"
        return f"finished stages are in {stages}; the same command with --resume goes on"

    with ends.interruptible(left) as check, ends.one_line_errors(), ends.shown_warnings():
        what = across.understood(of)
        with ends.progress(dict.fromkeys(_STAGES, 1.0), check, quiet=of.quiet) as progress:
            watch = progress.watch
            watch("reading")
            with clock.stage("reading"):
                adatas = io.read_sites(sites)
                for name, adata in adatas.items():
                    brought.bring(adata, what.files, sites / name)
            folder.expect_figures()
            done = federated.simulate(
                adatas,
                of.design,
                what.specs[0],
                reference=what.reference,
                inputs=brought.named(what.files),
                settings=what.settings,
                trend=what.trend,
                rules=what.rules,
                clock=io.Clock(watch),
                kept=kept,
            )
            found = federated.outcome(done, what.wanted, clock)

            def sites_own(scratch: Path) -> None:
                watch("what stays at sites")
                with clock.stage("what stays at sites"):
                    _write_sites(done, list(adatas), scratch)
                watch("writing")

            inputs = {"sites": str(sites)}
            tested = across.write(found, of, what, inputs, clock, check=check, more=sites_own)
        across.say(found, of, tested)
        for checkpoint in checkpoints:
            checkpoint.remove()


def _write_sites(done: federated.Run, names: list[str], scratch: Path) -> None:
    """A folder a site with what stays there."""
    for name in names:
        place = scratch / "sites" / name
        place.mkdir(parents=True)
        own = federated.stays(done, name)
        io.write_table(own.samples, place / "samples.csv")
        anndata.AnnData(own.fitted, obs=own.samples).write_h5ad(place / "fitted.h5ad")


deploy.add(app)
