"""`expressway cluster`: from a table of counts along pseudotime to a folder of results."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from expressway import io, tl
from expressway.clustering import DEFAULTS, REQUEST, Clusters, Prior, Settings, load

from . import cluster_folder, cluster_screen, ends, options, ranges

EXAMPLE = """\b
Examples:
  expressway cluster counts.csv cells.csv --along pseudotime --basis rbf:3 --out results
  expressway cluster --resume results/fit.npz --concentration 2,1 --out other
"""
_STAGES = {
    "reading": 8.0,
    "design": 0.1,
    "counts": 1.0,
    "gene-wise fits": 30.0,
    "clusters": 60.0,
    "modules": 10.0,
    "association": 10.0,
    "tables": 5.0,
    "figures": 15.0,
}
BASIS = "rbf:3"

Named = Literal["default", "request"]
Precision = Literal["model", "sandwich"]
Modules = Literal["all", "shape"]


def cluster(
    counts: Annotated[
        Path | None,
        typer.Argument(
            metavar="COUNTS",
            help="Raw counts: genes x samples or samples x genes; csv, tsv (.gz), Matrix Market, "
            "h5ad, zarr.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Argument(
            metavar="SAMPLES",
            help="Sample (cell) table, csv or tsv (.gz), names in its first column. "
            "h5ad and zarr can do without.",
            show_default=False,
        ),
    ] = None,
    *,
    along: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN[,COLUMN]",
            help="Column of the sample table with time or pseudotime; one for each lineage.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN,COLUMN", help="Weight of each sample in each lineage, at least 0."
        ),
    ] = None,
    basis: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:NUMBER",
            help="Functions of time beside the level: rbf:3, spline:5, natural:4, cyclic:4.  "
            "[default: rbf:3]",
        ),
    ] = None,
    centers: Annotated[
        str | None,
        typer.Option(metavar="TIMES", help="Of radial functions: 0.1,0.4,0.7.  [default: even]"),
    ] = None,
    length: Annotated[
        float | None,
        typer.Option(metavar="TIME", help="Length scale of radial functions; cyclic: the period."),
    ] = None,
    raw_basis: Annotated[
        bool,
        typer.Option(
            "--raw-basis",
            help="Cluster coefficients of the basis as it is, not of an orthonormal one.",
        ),
    ] = False,
    design: Annotated[
        str | None,
        typer.Option(metavar="FORMULA", help="Instead of a basis: '~ bs(pseudotime, df=4)'."),
    ] = None,
    covariates: Annotated[
        str | None,
        typer.Option(
            metavar="FORMULA", help="What else changes means, and is not clustered: '~ batch'."
        ),
    ] = None,
    size_factors: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="auto, ratio, poscounts, library, none, or a column with them.  [default: auto]",
        ),
    ] = None,
    along_sd: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN[,COLUMN]", help="Standard deviation of each sample's pseudotime."
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Use only these samples; VALUE,VALUE is either. Can be repeated.",
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Of estimates; sandwich holds for counts of any distribution.  "
            f"[default: {DEFAULTS.precision}]"
        ),
    ] = None,
    modules: Annotated[
        Modules | None,
        typer.Option(
            help="Made of all coefficients, or of all but the level.  "
            f"[default: {DEFAULTS.modules}]"
        ),
    ] = None,
    prior: Annotated[
        Named | None,
        typer.Option(
            help="Of the mixtures; request has wide components only.  [default: default, or that "
            "of FIT]"
        ),
    ] = None,
    truncation: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Components at most.  [default: 30]")
    ] = None,
    concentration: Annotated[
        str | None,
        typer.Option(metavar="SHAPE,RATE", help="Gamma prior of concentrations.  [default: 1,1]"),
    ] = None,
    spread_prior: Annotated[
        str | None,
        typer.Option(
            metavar="SHAPE,RATE",
            help="Gamma prior of components' precisions (1 / variance, natural logarithms).  "
            "[default: shape 2, rate from the estimates' errors]",
        ),
    ] = None,
    starts: Annotated[
        int | None,
        typer.Option(
            help=f"Searches of each mixture, the best kept.  [default: {DEFAULTS.starts}]"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help=f"Of the searches.  [default: {DEFAULTS.seed}]"),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Refreshes of likelihoods around the posterior, at most.  "
            f"[default: {DEFAULTS.rounds}]"
        ),
    ] = None,
    min_cells: Annotated[
        int | None,
        typer.Option(
            help="Genes with counts in fewer samples are not clustered.  "
            f"[default: {DEFAULTS.min_cells}]"
        ),
    ] = None,
    zero: Annotated[
        float | None,
        typer.Option(
            metavar="SIZE",
            help=f"A coefficient is zero up to this size.  [default: {DEFAULTS.zero}]",
        ),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option(help=f"Probability of intervals.  [default: {DEFAULTS.level}]"),
    ] = None,
    genes: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Genes of a figure of curves, between commas."),
    ] = None,
    cell_types: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Compare modules by this column: composition.csv and a figure."
        ),
    ] = None,
    association: Annotated[
        bool,
        typer.Option(
            "--association", help="Test each gene for any change: association.csv (chi-squared)."
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FIT",
            help="fit.npz of an earlier run: cluster again with another prior from its gene-wise "
            "fits, without COUNTS and SAMPLES.",
        ),
    ] = None,
    quiet: options.Quiet = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Clusters of genes by the coefficients of their curves along time or pseudotime.

    DIR receives coefficients.csv, clusters.csv, modules.csv, components.csv, curves.csv, elbo.csv,
    starts.csv, fit.npz, run.json and figures.
    """
    clock = io.Clock()
    with ends.interruptible() as check, ends.one_line_errors(), ends.shown_warnings():
        io.check_folder(out, overwrite)
        named = _names(genes)
        changes = _changes(truncation, concentration, spread_prior)
        settings = {
            "precision": precision,
            "modules": modules,
            "starts": starts,
            "seed": seed,
            "rounds": rounds,
            "min_cells": min_cells,
            "zero": zero,
            "level": level,
        }
        source: dict[str, Any] = {
            "counts": counts,
            "samples": samples,
            "where": where,
            "along": along and along.split(","),
            "weights": weights and weights.split(","),
            "along_sd": along_sd and along_sd.split(","),
            "basis": basis,
            "centers": ranges.numbers(centers, "--centers") or None,
            "length": length,
            "design": design,
            "covariates": covariates,
            "size_factors": size_factors,
            "cell_types": cell_types,
        }
        if resume is None:
            _expect(source)
        else:
            flags = {"raw_basis": raw_basis, "association": association}
            _refuse_others(source | flags | settings)
            source["resume"] = resume
        wanted = cluster_folder.Wanted(named, cell_types, association, source)
        with (
            ends.progress(_STAGES, check, quiet=quiet) as progress,
            cluster_folder.kept_warnings() as warned,
        ):
            progress.watch("reading")
            if resume is not None:
                found, adata = _again(resume, prior, changes, named, clock, progress.watch), None
            else:
                with clock.stage("reading"):
                    pairs = ranges.pairs(where, "--where") or None
                    adata = io.read_counts(source["counts"], samples, where=pairs)
                cluster_folder.expect(adata, wanted)
                found = tl.cluster(
                    adata,
                    source["along"],
                    basis=source["basis"],
                    centers=source["centers"],
                    length=length,
                    weights=source["weights"],
                    design=design,
                    covariates=covariates,
                    size_factors=source["size_factors"],
                    time_sd=source["along_sd"],
                    orthonormal=not raw_basis,
                    prior=_prior(prior)._replace(**changes),
                    settings=Settings(**{k: v for k, v in settings.items() if v is not None}),
                    watch=progress.watch,
                )
            with io.written_folder(out) as scratch:
                cluster_folder.write(found, adata, wanted, scratch, clock, warned, progress.watch)
                check()
    if not quiet:
        cluster_screen.summary(found, wanted, out, len(warned))


def _again(
    fit: Path,
    prior: Named | None,
    changes: dict[str, Any],
    genes: list[str],
    clock: io.Clock,
    watch: Any,
) -> Clusters:
    """An earlier clustering with another prior; its seconds are not those of this run."""
    with clock.stage("reading"):
        found = load(fit)
        cluster_folder.refuse_unknown(genes, found.data.genes)
    watch("clusters")
    with clock.stage("clusters"):
        found = found.again(None if prior is None else _prior(prior), **changes)
        doubts = (*found.doubts, *found.full())
    for doubt in doubts:
        cluster_folder.logger.warning("%s", doubt)
    return replace(found, seconds={}, joint=found.together, stale=False)


def _prior(name: Named | None) -> Prior:
    return REQUEST if name == "request" else Prior()


def _changes(
    truncation: int | None, concentration: str | None, spread_prior: str | None
) -> dict[str, Any]:
    """Fields of a prior that are given."""
    if truncation is not None and truncation < 1:
        msg = f"--truncation {truncation}: at least 1 component is needed"
        raise io.InputError(msg)
    found: dict[str, Any] = {} if truncation is None else {"truncation": truncation}
    for text, option, fields in (
        (concentration, "--concentration", ("concentration_shape", "concentration_rate")),
        (spread_prior, "--spread-prior", ("shape", "rate")),
    ):
        if text is not None:
            found |= zip(fields, _pair(text, option), strict=True)
    return found


def _pair(text: str, option: str) -> tuple[float, ...]:
    """Shape and rate."""
    found = ranges.numbers(text, option)
    if len(found) != 2 or not min(found) > 0:
        msg = f"{option} {text}: needed are shape and rate, two numbers above 0, like 2,0.5"
        raise io.InputError(msg)
    return found


def _names(genes: str | None) -> list[str]:
    found = [name.strip() for name in genes.split(",") if name.strip()] if genes else []
    if len(found) > cluster_folder.MOST:
        msg = f"--genes: {len(found)} genes; a figure has room for {cluster_folder.MOST}"
        raise io.InputError(msg)
    return found


def _refuse_others(given: dict[str, Any]) -> None:
    """Refuse what an earlier fit has settled, or would need counts."""
    words = {"counts": "COUNTS", "samples": "SAMPLES"}
    if others := [
        words.get(name, f"--{name.replace('_', '-')}")
        for name, value in given.items()
        if value is not None and value is not False
    ]:
        msg = (
            f"{', '.join(others)} with --resume, which takes the fits as they are: give --prior, "
            "--truncation, --concentration or --spread-prior, or run without --resume"
        )
        raise io.InputError(msg)


def _expect(source: dict[str, Any]) -> None:
    """Refuse a command line without what is needed, or with two designs; fill in defaults."""
    if source["counts"] is None:
        msg = "there are no COUNTS: name the file of counts, or an earlier fit by --resume FIT"
        raise io.InputError(msg)
    if not source["along"]:
        msg = (
            "--along is missing: name the column of the sample table with time or pseudotime, "
            "for example --along pseudotime"
        )
        raise io.InputError(msg)
    shape = [f"--{name}" for name in ("basis", "centers", "length") if source[name] is not None]
    if source["design"] and shape:
        msg = f"--design is instead of a basis: leave out either it or {', '.join(shape)}"
        raise io.InputError(msg)
    source["basis"] = source["basis"] or BASIS
    source["size_factors"] = source["size_factors"] or "auto"
