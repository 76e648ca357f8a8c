"""Differential expression across sites that show totals only: the protocol, in one process.

The statistics are those of `tl.de`, and so are the numbers, to rounding; only where the rows live
is another matter. Before any number moves the sites agree on genes, levels and the design
(`io.agreement`); then nothing but the sums of `run.protocol.STATISTICS` leaves a site.
"""

import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import anndata
import numpy as np
import pandas as pd

from expressway import io
from expressway.core.cohort import Pooled, compiled, samples
from expressway.core.nested import without
from expressway.core.order import Groups
from expressway.core.sparse import Sparse, library_size
from expressway.io.agreement import Agreement, Census, Coded, agree, code, describe, take
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq, nb
from expressway.models.trend import Trend
from expressway.run import Federation, Ledger, Site

from . import _steps, _store, get

logger = logging.getLogger(__name__)


class Rules(NamedTuple):
    """What the sites insist on before anything leaves them."""

    min_sites: int = 2
    min_samples: int = 3
    """Samples of all sites together in every combination of levels that there is."""
    common_genes: bool = False
    """Use the genes that all sites have; otherwise different genes are refused."""


class Kept(NamedTuple):
    """What stays at a site."""

    samples: pd.DataFrame
    """Size factor and library size of each of its samples.

    Where sites bring a matrix of normalisation, the size factor is the geometric mean over the
    genes of the sample's factors.
    """
    fitted: pd.DataFrame
    """Means that the model gives its samples of each gene (counts); NaN for genes not fitted."""


class Run(NamedTuple):
    """An analysis of several sites: what a coordinator may have, and the sites to ask more of."""

    adata: anndata.AnnData
    """Genes and no samples; results where `get` finds them, and `tl.contrast` adds others."""
    cohort: Federation
    fit: deseq.DESeqFit
    agreement: Agreement
    cells: pd.DataFrame
    """Samples of each site in each combination of levels."""
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
        agreed = _agreed(sites, design, contrast, dict(reference or {}), rules)
        agreement, reference, enrolled = agreed
        wanted = io.contrast(agreement.design, contrast)
        for doubt in agreement.design.warnings:
            logger.warning("%s", doubt)
        cells = take([one.census for one in enrolled.values()], agreement, rules.min_samples)
        numbers, groups = _design_cells([one.census for one in enrolled.values()])
        members = [
            _member(name, sites[name], agreement, one, numbers, inputs)
            for name, one in enrolled.items()
        ]
        given = _given(sites, agreement, inputs)._replace(trend=own.trend)
        ledger = _ledger(sites, design, agreement, enrolled, cells)
    p, g = len(agreement.design.names), len(agreement.genes)
    settings = settings._replace(keep_if_larger=False)
    stage = kept(_identity(agreement, settings, members, given))

    def counted(name: str, compute: Callable[[], Any]) -> Any:
        """A stage of which also the ledger's pages are kept."""
        ledger.stage = name

        def with_pages() -> Any:
            return compute(), ledger.said()

        result, said = clock.run(name, lambda: stage(name, with_pages))
        ledger.restore(said)
        return result

    raw = Federation(members, g, p, ledger)
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


def shrink(
    run: Run,
    contrast: ContrastSpec | None = None,
    *,
    kind: str = "apeglm",
    interval: float = 0.95,
    lfc_threshold: float | int = 0,
    exact: bool = False,
) -> pd.DataFrame:
    """Table of shrunken fold changes, as of `tl.shrink`; `get.shrunken` of ``run.adata`` reads it.

    The sites add up log-likelihoods, gradients and informations at points the coordinator chooses.
    Rounds are in the ledger under "shrinkage". Where counts were replaced, the sites find the
    replacements again: some fifty rounds more.

    Parameters
    ----------
    run
        What `simulate` returned.
    contrast, kind, interval, lfc_threshold, exact
        As for `tl.shrink`.
    """
    design = run.agreement.design
    choices = _steps.choices_of(design, kind, interval, lfc_threshold, exact=exact)
    wanted = io.contrast(design, contrast)
    run.ledger.stage = "shrinkage"
    genes = pd.Index(run.agreement.genes)
    table, found = _steps.shrunken(run.fit, wanted, run.cohort, choices, genes, run.groups)
    about = {"contrast": wanted.name, "prior_scale": found.prior_scale}
    about |= {"kind": kind, "interval": interval, "lfc_threshold": lfc_threshold}
    about |= {"exact": exact}
    _store.store_shrunken(run.adata, "de", table, about)
    return table


def lrt(run: Run, reduced: str | None = None, contrast: ContrastSpec | None = None) -> pd.DataFrame:
    """Table of likelihood-ratio tests across sites: what `tl.lrt` finds, from sums.

    Parameters
    ----------
    run
        An analysis; ``run.table`` becomes the new table. Its rounds are counted in the ledger as
        the stage "likelihood-ratio test". Where counts were replaced, those genes are fitted again
        first: nobody kept the replaced counts.
    reduced, contrast
        As for `tl.lrt`. The reduced formula names columns of the design only.

    Raises
    ------
    io.InputError
        As for `tl.lrt`.
    run.ProtocolError
        As for `simulate`.
    """
    return _tested(run, reduced, contrast, "likelihood-ratio test", _steps.likelihood_ratio)


def ql(run: Run, reduced: str | None = None, contrast: ContrastSpec | None = None) -> pd.DataFrame:
    """Table of quasi-likelihood F tests across sites: what `tl.ql` finds, from sums.

    Parameters
    ----------
    run, reduced, contrast
        As for `lrt`; the stage is "quasi-likelihood test".

    Raises
    ------
    io.InputError
        As for `tl.ql`.
    run.ProtocolError
        As for `simulate`.
    """
    return _tested(run, reduced, contrast, "quasi-likelihood test", _steps.quasi_likelihood)


def _tested(
    run: Run,
    reduced: str | None,
    contrast: ContrastSpec | None,
    stage: str,
    test: Callable[..., _steps.Nested],
) -> pd.DataFrame:
    """Table of a test of nested designs, stored too."""
    adata, of = run.adata, run.agreement
    wanted = io.contrast(of.design, contrast)
    if reduced is None:
        matrix = without(wanted.vector)
    else:
        reference = adata.uns["de"]["reference"]
        matrix = io.nested_across(of.design.formula, reduced, of.columns, reference)
    run.ledger.stage = stage
    found = test(run.fit, run.cohort, matrix, run.groups)
    table, rest = _steps.tested(run.fit, wanted, adata.var_names, found.other)
    said = found.stored | {"reduced": reduced or ""}
    _store.store_results(adata, "de", table, rest, wanted.name, said)
    if found.table is not None:
        _store.store_quasi(adata, "de", found.table)
    return table


def stays(run: Run, site: str, names: Sequence[str]) -> Kept:
    """What stays at a site: computed there, from what the coordinator sent.

    Parameters
    ----------
    names
        Of the site's samples.
    """
    one = next(s for s in run.cohort.sites if s.name == site)
    assert isinstance(one, Site)
    rows = one.rows.rows
    mean = np.asarray(compiled(nb.mean)(run.fit.gene.beta, rows._replace(y=np.zeros((0, 0)))))
    library = library_size(rows.y).astype(int)
    sizes = io.samples_table(np.mean(rows.offset, axis=1), library, pd.Index(names))
    return Kept(sizes, pd.DataFrame(mean, index=sizes.index, columns=run.adata.var_names))


def _agreed(
    sites: Mapping[str, anndata.AnnData],
    formula: str,
    contrast: ContrastSpec | None,
    reference: dict[str, str],
    rules: Rules,
) -> tuple[Agreement, dict[str, str], dict[str, Coded]]:
    """What the sites agree on, and each one's samples coded by it."""
    if len(sites) < rules.min_sites:
        message = (
            f"{len(sites)} site{'' if len(sites) == 1 else 's'}; at least {rules.min_sites} are "
            "needed (--min-sites)"
        )
        raise io.InputError(message)
    descriptions = [describe(name, adata, formula) for name, adata in sites.items()]
    agreement = agree(descriptions, formula, reference, intersect=rules.common_genes)
    base = _steps.base_level(contrast, agreement.design, reference)
    if base:
        reference |= base
        agreement = agree(descriptions, formula, reference, intersect=rules.common_genes)
    # The sites' own: the coordinator of a real run never sees it.
    key = secrets.token_bytes(32)
    coded = {name: code(name, agreement, adata, key) for name, adata in sites.items()}
    return agreement, reference, coded


def _design_cells(censuses: Sequence[Census]) -> tuple[dict[str, int], Groups]:
    """A number for each design row that any site has, and how many samples have it.

    Numbered by size and then as met, so that they do not depend on the key.
    """
    size: dict[str, int] = {}
    for census in censuses:
        for row, count in census.rows.items():
            size[row] = size.get(row, 0) + count
    numbers = {row: i for i, row in enumerate(size)}
    return numbers, Groups(np.arange(len(size)), np.array(list(size.values())))


def _member(
    name: str,
    adata: anndata.AnnData,
    agreement: Agreement,
    coded: Coded,
    numbers: Mapping[str, int],
    inputs: io.Inputs,
) -> Site:
    """A site with its rows: the agreed genes in the agreed order, its design cells numbered."""
    part = adata[:, list(agreement.genes)]
    owner = f"site {name}: adata"
    rows = samples(_steps.counts(part, None, owner), coded.matrix)
    rows = io.rows_with(rows, part, inputs, owner, alone=False)
    cell = np.array([numbers[row] for row in coded.rows])
    return Site(name, Pooled(rows._replace(cell=cell)))


def _given(
    sites: Mapping[str, anndata.AnnData], agreement: Agreement, inputs: io.Inputs
) -> deseq.Given:
    """What the sites bring beside counts and design.

    Raises
    ------
    InputError
        They differ in their control genes.
    """
    genes = list(agreement.genes)
    parts = {name: adata[:, genes] for name, adata in sites.items()}
    if inputs.control_genes is not None:
        found = {
            name: io.control_genes(part, inputs, f"site {name}: adata")
            for name, part in parts.items()
        }
        (first, one), *others = found.items()
        for name, other in others:
            differ = np.flatnonzero(np.asarray(one) != np.asarray(other))
            if len(differ):
                message = (
                    f"sites {first} and {name} differ in whether gene {genes[differ[0]]} is a "
                    f"control gene ({len(differ)} such): mark the same genes everywhere"
                )
                raise io.InputError(message)
    return io.given(next(iter(parts.values())), inputs)


def _ledger(
    sites: Mapping[str, anndata.AnnData],
    formula: str,
    agreement: Agreement,
    enrolled: Mapping[str, Coded],
    cells: pd.DataFrame,
) -> Ledger:
    """A ledger that has the two rounds of the agreement: descriptions, and the census."""
    present = cells.where(cells > 0)
    smallest = {name: int(present[name].min()) for name in enrolled}
    behind = {name: adata.n_obs for name, adata in sites.items()}
    ledger = Ledger(behind, smallest, int(cells.sum(axis=1).min()))
    names = ["\n".join(agreement.genes), str(dict(agreement.columns)), formula]
    text = len(" ".join(names).encode())
    ledger.begin()
    for name in enrolled:
        ledger.up[name] += text
    ledger.begin()
    for name, one in enrolled.items():
        ledger.down[name] += text
        ledger.receive(name, "census", _Totals.of(one.census))
    return ledger


class _Totals(NamedTuple):
    """The numbers of a census."""

    cells: np.ndarray
    rows: np.ndarray
    crossproduct: np.ndarray

    @classmethod
    def of(cls, census: Census) -> "_Totals":
        """Those of one site."""
        cells, rows = (np.array(list(part.values())) for part in (census.cells, census.rows))
        return cls(cells, rows, census.crossproduct)


def _identity(
    agreement: Agreement, settings: deseq.Settings, members: Sequence[Site], given: deseq.Given
) -> dict[str, Any]:
    """What a run is, to tell whether the stages kept on a disk are its own."""
    digests = {site.name: _digest(site) for site in members}
    own, controls = given.trend, given.controls
    nodes = [own.log_mean, own.log_dispersion] if isinstance(own, Trend) else []
    return {
        "formula": agreement.design.formula,
        "coefficients": agreement.design.names,
        "genes": json.dumps(agreement.genes),
        "settings": settings._asdict(),
        "sites": digests,
        "controls": None if controls is None else io.digest(controls),
        "trend": io.digest(*nodes),
    }


def _digest(site: Site) -> str:
    """Of a site's counts, design and what else it brings, made there."""
    rows = site.rows.rows
    y: Any = rows.y
    parts = y if isinstance(y, Sparse) else (np.asarray(y, float),)
    brought = (rows.x, rows.offset, rows.precision)
    return io.digest(*map(np.asarray, (*parts, *brought)))
