"""An analysis of several sites, and the protocol played in one process."""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import anndata
import numpy as np
import pandas as pd

from expressway import _steps, _store, get, io
from expressway.core.order import Groups
from expressway.io.agreement import Agreement
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq
from expressway.run import Federation, Ledger, ProtocolError
from expressway.run.privacy import Account
from expressway.run.remote import Line, RemoteSite

from . import joining
from .joining import Question, Rules
from .member import Member
from .part import Kept, Permissions

logger = logging.getLogger(__name__)

Keeping = Callable[[Mapping[str, Any]], deseq.Stage]


def nothing_kept(_: Mapping[str, Any]) -> deseq.Stage:
    """Every stage is run."""
    return deseq.at_once


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


class Direct:
    """A channel to a member in this process; mistakes in its table are raised as they are."""

    elsewhere = False

    def __init__(
        self,
        name: str,
        adata: anndata.AnnData,
        permissions: Permissions,
        account: Account | None = None,
    ) -> None:
        self.kept: Kept | None = None
        self.member = Member(name, lambda _: adata, permissions, keep=self._keep, account=account)

    def ask(self, body: bytes) -> bytes:  # noqa: D102
        try:
            return self.member.answer(body)
        except ProtocolError as error:
            return self.member.refusal(body, str(error))

    def _keep(self, _: str, kept: Kept) -> None:
        self.kept = kept


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
    kept: Keeping = nothing_kept,
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
    allowed = Permissions(None, rules.min_sites, rules.min_samples, plain=True)
    run = secrets.token_hex(16)
    lines = [Line(name, Direct(name, adata, allowed), run) for name, adata in sites.items()]
    question = Question(design, contrast, dict(reference or {}), inputs, rules, {})
    return analyse(lines, question, settings, trend=trend, clock=clock, kept=kept)


def analyse(
    lines: Sequence[Line],
    question: Question,
    settings: deseq.Settings = deseq.DEFAULTS,
    *,
    trend: Any = None,
    clock: io.Clock | None = None,
    kept: Keeping = nothing_kept,
) -> Run:
    """Differential expression of whatever sites are at the other ends of some lines.

    Parameters
    ----------
    lines
        To the sites, new ones.
    question
        What is asked.
    settings, trend, clock, kept
        As for `simulate`, which raises the same.
    """
    clock = clock or io.Clock()
    settings, own = _steps.with_trend(settings, trend)
    _steps.check_settings(settings)
    settings = io.chosen(settings, question.inputs)
    with clock.stage("agreement"):
        joined = joining.join(lines, question)
        agreement, reference, ledger = joined.agreement, joined.reference, joined.ledger
        wanted = io.contrast(agreement.design, question.contrast)
        for doubt in agreement.design.warnings:
            logger.warning("%s", doubt)
        given = joined.given._replace(trend=own.trend)
    p, g = len(agreement.design.names), len(agreement.genes)
    settings = settings._replace(keep_if_larger=False)
    stage = kept(joining.identity(joined, question.formula, settings, given.trend))

    def counted(name: str, compute: Callable[[], Any]) -> Any:
        """A stage of which also the ledger's pages are kept."""
        ledger.stage = name

        def with_pages() -> Any:
            return compute(), ledger.said()

        result, said = clock.run(name, lambda: stage(name, with_pages))
        ledger.restore(said)
        return result

    raw = Federation([RemoteSite(line) for line in lines], g, p, ledger, masked=joined.masked)
    fit, cohort = deseq.fit(raw, joined.groups, settings, counted, given)
    warned = (*_steps.trend_doubts(fit), *_steps.weight_doubts(fit))
    doubts = [*agreement.design.warnings, *warned]
    genes = pd.Index(agreement.genes)
    with clock.stage("tests"):
        table, found = _steps.test(fit, wanted, genes)
    adata = anndata.AnnData(np.zeros((0, g)), var=pd.DataFrame(index=genes))
    nobody = np.zeros((0, p))
    coded = agreement.design.__class__(**{**vars(agreement.design), "matrix": nobody})
    _store.store_fit(adata, "de", fit, _store.Origin(coded, reference, None, question.inputs))
    # A largest distance is one sample's: `flagged` counts them instead.
    adata.varm["de_genes"] = io.genes_table(fit, genes).drop(columns="max_cooks")
    _store.store_results(adata, "de", table, found, wanted.name)
    columns = {name: column._asdict() for name, column in agreement.columns.items()}
    columns = {name: {**c, "levels": list(c["levels"])} for name, c in columns.items()}
    more = {"seconds": clock.seconds, "warnings": doubts, "columns": columns}
    adata.uns["de"] |= more
    cells, groups = joined.cells, joined.groups
    return Run(adata, cast("Federation", cohort), fit, agreement, cells, ledger, groups)
