"""More that is asked of several sites: other tests, shrinkage, and what stays at each."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from expressway import _steps, _store, io
from expressway.core.nested import without
from expressway.io.contrast import ContrastSpec
from expressway.run.remote import RemoteSite

from .analysis import Direct, Run
from .part import Kept


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


def stays(run: Run, site: str) -> Kept:
    """What stays at a site of `simulate`: computed there, from what the coordinator sends."""
    keep(run, site)
    one = next(s for s in run.cohort.sites if s.name == site)
    assert isinstance(one, RemoteSite)
    assert isinstance(one.line.channel, Direct)
    assert one.line.channel.kept is not None
    return one.line.channel.kept


def keep(run: Run, site: str) -> None:
    """Let a site compute and keep what is its own: size factors, and means of the model."""
    one = next(s for s in run.cohort.sites if s.name == site)
    assert isinstance(one, RemoteSite)
    one.line.of(one.cohort, {"beta": np.asarray(run.fit.gene.beta)}, "stays")
