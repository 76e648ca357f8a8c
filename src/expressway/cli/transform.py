"""`expressway transform`: counts made fit for figures and other methods, in one file."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import anndata
import typer
from rich.console import Console

from expressway import io, pp
from expressway.models import deseq
from expressway.pp.fitted import Kind

from . import asked, ends, options

EXAMPLE = """\b
Example:
  expressway transform counts.csv samples.csv --kind vst --out vst.csv.gz --save vst.json
  expressway transform new.csv new_samples.csv --use vst.json --out new_vst.csv.gz
"""
_STAGES = {"reading": 4.0, "transforming": 6.0, "writing": 3.0}
_SUFFIXES = (".csv", ".csv.gz", ".h5ad")


def transform(
    counts: options.Counts,
    samples: options.Samples = None,
    *,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Result: .csv or .csv.gz, genes x samples; .h5ad, the counts with a layer more.",
        ),
    ],
    kind: Annotated[
        Kind | None,
        typer.Option(
            help="Variance-stabilising transformation (vst; it is this when not given), "
            "regularised log2 (rlog), counts over size factors (normalised), log2 of these plus 1 "
            "(log).",
            show_default=False,
        ),
    ] = None,
    design: Annotated[
        str | None,
        typer.Option(
            metavar="FORMULA",
            help="Design over columns of the sample table, for the dispersions. Without it blind: "
            "nothing is known of the samples.",
        ),
    ] = None,
    trend: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Trend of dispersions on means: parametric (when not given), local, mean, or a "
            "csv with the columns mean and dispersion.",
        ),
    ] = None,
    size_factors: options.Medians = "ratio",
    save: Annotated[
        Path | None,
        typer.Option(metavar="FITTED.json", help="Keep what was fitted, for other samples."),
    ] = None,
    use: Annotated[
        Path | None,
        typer.Option(
            metavar="FITTED.json", help="Apply what was fitted to other samples; nothing is fitted."
        ),
    ] = None,
    quiet: options.Quiet = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
) -> None:
    """Counts transformed for figures, distances and clustering.

    Tests of differential expression take the counts themselves (expressway de).
    """
    choices = {"--kind": kind, "--design": design, "--trend": trend}
    with ends.interruptible() as check, ends.one_line_errors(), ends.shown_warnings():
        _check_file(out, _SUFFIXES, overwrite)
        if save is not None:
            _check_file(save, (".json",), overwrite)
        fitted = None if use is None else _to_use(use, choices, save)
        known, nodes = (None, None) if trend is None else asked.trend(trend)
        with ends.progress(_STAGES, check, quiet=quiet) as progress:
            progress.watch("reading")
            adata = io.read_counts(counts, samples)
            progress.watch("transforming")
            if fitted is None:
                settings = deseq.Settings(size_factors=size_factors)
                fitted = _fit(
                    adata, kind or "vst", design, known if nodes is None else nodes, settings
                )
            else:
                fitted.apply(adata)
            progress.watch("writing")
            _write(adata, fitted.kind, out)
            if save is not None:
                fitted.save(save)
            check()
    if not quiet:
        text = f"{fitted.kind} of {adata.n_vars:,} genes x {adata.n_obs:,} samples: {out}"
        ends.say(Console(highlight=False), text)


def _check_file(path: Path, suffixes: tuple[str, ...], overwrite: bool) -> None:
    """Refuse a file that cannot be written."""
    if not path.name.lower().endswith(suffixes):
        msg = f"{path}: the result is written to {', '.join(suffixes)}; name such a file"
    elif not path.absolute().parent.is_dir():
        msg = f"{path}: there is no folder {path.parent}; make it or name another file"
    elif path.is_dir():
        msg = f"{path} is a folder; name a file"
    elif path.exists() and not overwrite:
        msg = f"{path} is there already; name another file or give --overwrite"
    else:
        return
    raise io.InputError(msg)


def _to_use(use: Path, choices: dict[str, str | None], save: Path | None) -> pp.Transform:
    """What was fitted before; nothing else may be asked of it."""
    named = [name for name, value in choices.items() if value is not None]
    if save is not None:
        named.append("--save")
    if named:
        msg = f"{named[0]} goes with a transformation that is fitted; leave it out, or --use"
        raise io.InputError(msg)
    return pp.load_transform(use)


def _fit(
    adata: anndata.AnnData, kind: Kind, design: str | None, trend: Any, settings: deseq.Settings
) -> pp.Transform:
    """Fit and apply a transformation."""
    if kind in ("normalised", "log"):
        for name, value in (("--design", design), ("--trend", trend)):
            if value is not None:
                msg = f"{name} goes with --kind vst or rlog: {kind} counts know no dispersions"
                raise io.InputError(msg)
        return pp.normalise(adata, log=kind == "log", settings=settings)
    verb = pp.vst if kind == "vst" else pp.rlog
    return verb(adata, design, trend=trend, settings=settings)


def _write(adata: anndata.AnnData, kind: Kind, out: Path) -> None:
    """Write a file that is there whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".expressway-", dir=out.absolute().parent) as scratch:
        part = Path(scratch) / out.name.lower()
        if out.name.lower().endswith(".h5ad"):
            adata.write_h5ad(part)
        else:
            io.write_table(adata.to_df(layer=kind).T.rename_axis("gene"), part)
        part.replace(out)
