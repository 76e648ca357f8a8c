"""`expressway federated publish`: totals with noise, for everybody."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from expressway import federated, io

from . import ends, follow, options

EXAMPLE = """\b
Example:
  expressway federated publish kits/admin@example.org --by study --by gender \\
      --genes genes.txt --rho 0.5 --out published
"""
_TABLE = "published.csv"


def publish(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="Folder of the administrator's kit.")],
    by: Annotated[
        list[str],
        typer.Option(
            metavar="COLUMN",
            help="Column of the sample tables; can be repeated: groups are all combinations.",
        ),
    ],
    genes: Annotated[Path, typer.Option(metavar="FILE", help="Names of genes, one a line.")],
    rho: Annotated[
        float, typer.Option(metavar="RHO", help="What it costs of every site's --privacy-budget.")
    ],
    out: options.Out,
    limits: Annotated[
        tuple[float, float],
        typer.Option(
            "--range",
            metavar="LOW HIGH",
            help="Values of log2(1 + counts per million) beyond these count as these. A narrower "
            "range has less noise.",
        ),
    ] = (0.0, 16.0),
    site: follow.Only = None,
    patience: follow.Patience = federated.PATIENCE,
    limit: follow.Limit = federated.LIMIT,
    quiet: options.Quiet = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Mean expression of groups of samples over all sites, with noise, for everybody.

    Whether any one sample is among them cannot be told from the table, to the degree RHO
    (differential privacy). Sites answer if they were started with --privacy-budget, until it is
    spent. A run that fails may have cost its RHO; see KIT/privacy.csv at the sites.

    DIR receives published.csv (samples of each group, mean of log2(1 + counts per million) of each
    gene, and what the noise adds to its error) and run.json.
    """
    clock = io.Clock()

    def left() -> str:
        return "nothing was written"

    with ends.interruptible(left) as check, ends.one_line_errors(), ends.shown_warnings():
        io.check_folder(out, overwrite)
        of = federated.Publication(tuple(by), tuple(io.read_genes(genes)), rho, *limits)
        of.check()
        mine = follow.administrator(kit)
        names = tuple(follow.chosen(mine, site))
        plan = federated.Plan(names, of, patience, limit)
        with (
            ends.progress({"run": 1.0}, check, quiet=quiet) as progress,
            clock.stage("run"),
            tempfile.TemporaryDirectory(prefix="expressway-") as scratch,
        ):
            received = follow.carried_out(kit, mine, plan, Path(scratch), progress.watch)
            found = federated.Published.load(received)
        record = {
            "input": {"project": mine.project, "coordinator": mine.coordinator},
            "publication": found.said | {"genes": len(of.genes)},
            "seconds": clock.seconds,
            "versions": io.versions(),
        }
        with io.written_folder(out) as folder:
            io.write_table(found.table.set_index("gene"), folder / _TABLE)
            files = sorted([_TABLE, "run.json"])
            io.write_json(record | {"files": files}, folder / "run.json")
        if not quiet:
            _say(found, out)


def _say(found: federated.Published, out: Path) -> None:
    """How much noise there is, and what it cost."""
    console, said, table = Console(highlight=False), found.said, found.table
    genes = table["gene"].nunique()
    small = int(table["noise"].isna().sum()) // genes
    size = f"{genes:,} genes in {len(table) // genes:,} groups of {', '.join(said['by'])}"
    ends.say(console, f"{len(said['sites'])} sites: {size}")
    noise = table["noise"].dropna()
    if len(noise):
        ends.say(console, f"noise of a mean: {noise.min():.2g} to {noise.max():.2g} (log2)")
    if small:
        ends.say(console, f"{small} of the groups have too few samples to tell them from noise")
    cost = f"rho {said['rho']:g} (epsilon {said['epsilon']:.3g} at delta {said['delta']:g})"
    ends.say(console, f"{cost} of every site's budget is spent; results in {out}")
