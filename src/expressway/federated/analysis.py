"""An analysis of several sites, and the protocol played in one process."""

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import anndata
import numpy as np
import pandas as pd

from expressway import _steps, _store, get, io
from expressway.core.order import Groups
from expressway.io.agreement import Agreement, take
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq
from expressway.run import Federation, Ledger
from expressway.run.masked import MaskedSite

from . import joining
from .joining import Rules

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """An analysis of several sites: what a coordinator may have, and the sites to ask more of."""

    adata: anndata.AnnData
    """Genes and no samples; results where `get` finds them, and `tl.contrast` adds others."""
    cohort: Federation
    fit: deseq.DESeqFit
    agreement: Agreement
    cells: pd.DataFrame
    """Samples of each site in each combination of levels; under masks those of all together."""
    ledger: Ledger
    groups: Groups
    """Design cells of all sites, and how many samples are in each."""

    @property
    def table(self) -> pd.DataFrame:
        """Results of the last contrast tested (`tl.contrast`), as of `tl.de`."""
        return get.de(self.adata)

    @property
    def rounds(self) -> int:
        """Round trips, of one message to every site each, so far."""
        return self.ledger.round

    @property
    def disclosure(self) -> pd.DataFrame:
        """Every total that left a site (`run.federation.Left`)."""
        return pd.DataFrame(self.ledger.left)


def simulate(
    sites: Mapping[str, anndata.AnnData],
    design: str,
    contrast: ContrastSpec | None = None,
    *,
    reference: Mapping[str, str] | None = None,
    inputs: io.Inputs = io.NOTHING,
    settings: deseq.Settings = deseq.DEFAULTS,
    trend: Any = None,
    rules: Rules = Rules(),  # noqa: B008 (immutable)
    clock: io.Clock | None = None,
    kept: Callable[[Mapping[str, Any]], deseq.Stage] = lambda _: deseq.at_once,
) -> Run:
    """Differential expression across sites, every message as it would be between them.

    Parameters
    ----------
    sites
        Name to samples × genes with raw counts in ``X``. A site may lack levels, have one sample,
        or genes without a count.
    design, contrast, reference, settings, trend
        As for `tl.de`. The rule that keeps an outlier's gene if three samples have more counts
        needs single samples and is off (``Settings.keep_if_larger``).
    inputs
        As for `tl.de`, of the same names at every site. All sites must name the same control genes;
        weights are not divided by each gene's largest, which is no total: it must be 1 over all
        sites (or 0).
    rules
        What the sites insist on.
    clock
        Times the stages.
    kept
        Given what the run is, how to run a stage: `run.Checkpoint` reads it back from a disk.

    Raises
    ------
    io.InputError
        Sites are too few or differ in genes or columns, a design cell has fewer samples than the
        rules ask for, or whatever `tl.de` refuses.
    run.ProtocolError
        A site sent what is not finite, of another shape or of another round.
    """
    clock = clock or io.Clock()
    settings, own = _steps.with_trend(settings, trend)
    _steps.check_settings(settings)
    settings = io.chosen(settings, inputs)
    with clock.stage("agreement"):
        agreed = joining.agreed(sites, design, contrast, dict(reference or {}), rules)
        agreement, reference, enrolled = agreed
        wanted = io.contrast(agreement.design, contrast)
        for doubt in agreement.design.warnings:
            logger.warning("%s", doubt)
        masked, sent = rules.masked(len(sites)), {}
        censuses = [one.census for one in enrolled.values()]
        masks = joining.masks(list(sites), secrets.token_bytes(32)) if masked else {}
        if masked:
            total, sent = joining.census_of_all(enrolled, masks)
            censuses = [total]
        cells = take(censuses, agreement, rules.min_samples)
        numbers, groups = joining.design_cells(censuses)
        members = [
            joining.member(name, sites[name], agreement, one, numbers, inputs)
            for name, one in enrolled.items()
        ]
        given = joining.given(sites, agreement, inputs)._replace(trend=own.trend)
        ledger = joining.ledger(sites, design, agreement, enrolled, cells, sent)
    p, g = len(agreement.design.names), len(agreement.genes)
    settings = settings._replace(keep_if_larger=False)
    stage = kept(joining.identity(agreement, settings, members, given))

    def counted(name: str, compute: Callable[[], Any]) -> Any:
        """A stage of which also the ledger's pages are kept."""
        ledger.stage = name

        def with_pages() -> Any:
            return compute(), ledger.said()

        result, said = clock.run(name, lambda: stage(name, with_pages))
        ledger.restore(said)
        return result

    one = [MaskedSite(m, masks[m.name]) for m in members] if masked else members
    raw = Federation(one, g, p, ledger, masked=masked)
    fit, cohort = deseq.fit(raw, groups, settings, counted, given)
    warned = (*_steps.trend_doubts(fit), *_steps.weight_doubts(fit))
    doubts = [*agreement.design.warnings, *warned]
    genes = pd.Index(agreement.genes)
    with clock.stage("tests"):
        table, found = _steps.test(fit, wanted, genes)
    adata = anndata.AnnData(np.zeros((0, g)), var=pd.DataFrame(index=genes))
    nobody = np.zeros((0, p))
    coded = agreement.design.__class__(**{**vars(agreement.design), "matrix": nobody})
    _store.store_fit(adata, "de", fit, _store.Origin(coded, reference, None, inputs))
    # A largest distance is one sample's: `flagged` counts them instead.
    adata.varm["de_genes"] = io.genes_table(fit, genes).drop(columns="max_cooks")
    _store.store_results(adata, "de", table, found, wanted.name)
    columns = {name: column._asdict() for name, column in agreement.columns.items()}
    columns = {name: {**c, "levels": list(c["levels"])} for name, c in columns.items()}
    more = {"seconds": clock.seconds, "warnings": doubts, "columns": columns}
    adata.uns["de"] |= more
    return Run(adata, cast("Federation", cohort), fit, agreement, cells, ledger, groups)
