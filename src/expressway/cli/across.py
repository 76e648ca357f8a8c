"""What is asked of an analysis across sites, and its folder of results."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import pandas as pd
import typer

from expressway import federated, io, tl
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq
from expressway.models.trend import Kind as Trend
from expressway.models.wald import threshold
from expressway.tl.tested import check_test

from . import asked, folder, options, show

_RULES = federated.Rules()


class Across(NamedTuple):
    """Options of an analysis across sites."""

    design: options.Design
    out: options.Out
    contrast: options.FirstContrast = None
    groups: options.Groups = None
    plus: options.Plus = None
    minus: options.Minus = None
    also: options.Also = None
    reference: options.Reference = None
    test: options.Test = "wald"
    reduced: options.Reduced = None
    lfc_threshold: options.LfcThreshold = 0.0
    alternative: options.Alternative = "greaterAbs"
    shrink: options.Shrink = None
    alpha: options.Alpha = 0.1
    no_filter: options.NoFilter = False
    size_factors: options.SizeFactors = "ratio"
    size_factors_column: options.SizeFactorsColumn = None
    control_genes: options.ControlGenes = None
    offsets: options.Offsets = None
    weights: options.Weights = None
    trend: options.Trend = "parametric"
    prior_variance: options.PriorVariance = None
    cooks_cutoff: options.CooksCutoff = None
    no_refit: options.NoRefit = False
    min_sites: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Refuse to start with fewer sites.")
    ] = _RULES.min_sites
    min_samples: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            min=1,
            help="Refuse designs with fewer samples, over all sites, in a combination of levels.",
        ),
    ] = _RULES.min_samples
    common_genes: Annotated[
        bool,
        typer.Option("--common-genes", help="Use the genes that every site has; else all must."),
    ] = False
    masks: Annotated[
        bool | None,
        typer.Option(
            "--masks/--no-masks",
            help="Sites add masks that cancel in their sum: the coordinator sees totals of all "
            "sites and nothing of one. On with three sites or more.",
            show_default=False,
        ),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the stages that an earlier run finished.")
    ] = False
    figures: options.Figures = "png"
    report: options.Report = False
    tables: options.Tables = "csv"
    quiet: options.Quiet = False
    overwrite: options.Overwrite = False


class Understood(NamedTuple):
    """What the options mean."""

    settings: deseq.Settings
    trend: pd.DataFrame | None
    """Of one's own."""
    specs: list[ContrastSpec | None]
    reference: dict[str, str]
    files: asked.Brought
    rules: federated.Rules
    tests: asked.Tests
    formats: tuple[str, ...]

    @property
    def wanted(self) -> federated.Wanted:
        """What takes more rounds than the fit."""
        kind, reduced, _, _, shrink = self.tests
        return federated.Wanted(tuple(self.specs), kind, reduced, shrink)


def understood(of: Across) -> Understood:
    """What the options mean.

    Raises
    ------
    InputError
        They are not as they must be; all that can be told before a table is read.
    """
    io.check_folder(of.out, of.overwrite)
    io.check_table_path(of.out / f"results.{of.tables}")
    tests = asked.Tests(of.test, of.reduced, of.lfc_threshold, of.alternative, of.shrink)
    check_test(*tests[:4])
    threshold(of.lfc_threshold, of.alternative)
    kind, own = asked.trend(of.trend)
    settings = deseq.Settings(
        size_factors=of.size_factors,
        trend=cast("Trend", kind),
        prior_variance=of.prior_variance,
        replace_outliers=not of.no_refit,
        cooks_cutoff=of.cooks_cutoff,
        independent_filtering=not of.no_filter,
        alpha=of.alpha,
    )
    contrasts = asked.Contrasts(
        of.contrast, of.groups, of.plus, of.minus, of.also, reference=of.reference
    )
    return Understood(
        settings,
        own,
        asked.specs(contrasts),
        asked.levels(contrasts),
        asked.Brought(of.size_factors_column, of.control_genes, of.offsets, of.weights, of.trend),
        federated.Rules(of.min_sites, of.min_samples, of.common_genes, of.masks),
        tests,
        tuple(folder.parse_formats(of.figures)),
    )


def write(
    found: federated.Outcome,
    of: Across,
    what: Understood,
    inputs: Mapping[str, Any],
    clock: io.Clock,
    *,
    check: Callable[[], None],
    more: Callable[[Path], None] = lambda _: None,
) -> list[folder.Tested]:
    """Write the folder of results, and return those of each contrast.

    Parameters
    ----------
    inputs
        What the run read, for the record.
    check
        Called now and then (see `ends.interruptible`).
    more
        Writes something else into the folder.
    """
    adata, ledger = found.adata, found.ledger
    tested = folder.tables(adata, what.specs, clock, _test(found, what))
    with io.written_folder(of.out) as scratch:
        more(scratch)
        place = folder.Place(scratch, clock, of.tables, what.formats, of.report)
        if found.shrunken:
            again = folder.shrunken(tested, lambda s: found.shrunken[what.specs.index(s)], clock)
            for name, table in again.items():
                place.write(table, name)
        place.write(found.received.set_index("stage"), "disclosure")
        place.write(found.cells, "cells")
        adata.write_h5ad(scratch / "fit.h5ad")
        record = {
            "input": {**inputs, **asked.given(what.files)},
            "rounds": ledger.round,
            "rounds_by_stage": ledger.rounds,
            "bytes_up": ledger.up,
            "bytes_down": ledger.down,
            "rules": what.rules._asdict(),
            "genes_left_out": found.left_out,
            "test": what.tests._asdict(),
        }
        folder.write(adata, tested, place, record)
        check()
    return tested


def say(found: federated.Outcome, of: Across, tested: list[folder.Tested]) -> None:
    """Say what is in the folder."""
    if not of.quiet:
        show.summary(found.adata, tested, f"{len(found.ledger.up)} sites", of.out)
        show.rounds(found.ledger)


def _test(
    found: federated.Outcome, what: Understood
) -> Callable[[ContrastSpec | None], pd.DataFrame]:
    """What tests a contrast: Wald's of the fit, or what the sites were asked for."""
    limit: dict[str, Any] = {
        "lfc_threshold": what.tests.lfc_threshold,
        "alternative": what.tests.alternative,
    }
    if not found.tables:
        return lambda spec: tl.contrast(found.adata, spec, **limit)

    def asked_for(spec: ContrastSpec | None) -> pd.DataFrame:
        one = found.tables[what.specs.index(spec)]
        found.adata.uns["de"] |= {"contrast": one.name, "filter_threshold": one.threshold}
        return one.table

    return asked_for
