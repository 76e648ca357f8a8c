"""`expressway pseudobulk`: from cells to samples."""

import tempfile
from pathlib import Path
from typing import Annotated

import anndata
import typer
from rich.console import Console

from expressway import io, pp

from . import ends, options

EXAMPLE = """\b
Example:
  expressway pseudobulk cells.h5ad --by donor --by cell_type --out bulk.h5ad
"""
_STAGES = {"reading": 1.0, "adding up": 5.0, "writing": 1.0}


def pseudobulk(
    cells: Annotated[
        Path,
        typer.Argument(
            metavar="CELLS",
            help="Counts of cells: h5ad or zarr (read in parts), or a table as for expressway de.",
            show_default=False,
        ),
    ],
    table: Annotated[
        Path | None,
        typer.Argument(
            metavar="TABLE",
            help="Table of cells, csv or tsv (.gz), names in its first column. "
            "h5ad and zarr can do without.",
            show_default=False,
        ),
    ] = None,
    *,
    by: Annotated[
        list[str],
        typer.Option(
            metavar="COLUMN",
            help="Column of the table: cells with the same value are added up. Can be repeated: "
            "each combination is a sample.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File of the sums: h5ad.")],
    layer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Layer of h5ad or zarr that has the counts, not X."),
    ] = None,
    min_cells: Annotated[
        int, typer.Option(metavar="NUMBER", help="Leave out samples of fewer cells.")
    ] = 10,
    min_counts: Annotated[
        int, typer.Option(metavar="NUMBER", help="Leave out samples with fewer counts in all.")
    ] = 0,
    quiet: options.Quiet = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
) -> None:
    """Sums of the counts of cells, by donor and cell type say: samples that can be compared.

    FILE has a row a sample: the columns it was added up by, every other column with one value in
    each sample, and cells (how many). Go on with: expressway de FILE --design ... --within
    cell_type.
    """
    with ends.interruptible() as check, ends.one_line_errors(), ends.shown_warnings():
        _check_out(out, overwrite)
        with ends.progress(_STAGES, check, quiet=quiet) as progress:
            progress.watch("reading")
            adata = io.read_counts(cells, table, backed=True, layer=layer)
            progress.watch("adding up")
            found = pp.pseudobulk(adata, by, min_cells=min_cells, min_counts=min_counts)
            progress.watch("writing")
            _write(found, out)
    if not quiet:
        console = Console(highlight=False)
        size = f"{found.n_obs:,} samples x {found.n_vars:,} genes of {adata.n_obs:,} cells"
        ends.say(console, f"{cells.name}: {size}, in {out}")


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written."""
    if out.suffix != ".h5ad":
        msg = f"--out {out}: the sums are written as .h5ad; name the file so"
        raise io.InputError(msg)
    if not out.parent.is_dir():
        msg = f"--out {out}: there is no folder {out.parent}"
        raise io.InputError(msg)
    if out.exists() and not overwrite:
        msg = f"{out} is there already; name another file or give --overwrite"
        raise io.InputError(msg)


def _write(found: anndata.AnnData, out: Path) -> None:
    """Write the file whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(prefix=".expressway-", dir=out.parent) as scratch:
            found.write_h5ad(Path(scratch, out.name))
            Path(scratch, out.name).replace(out)
    except OSError as error:
        msg = f"cannot write {out}: {error}"
        raise io.InputError(msg) from error
