"""Shrunken fold changes of the analysis that `de` stored."""

import anndata
import pandas as pd

from expressway import _rows, _steps, _store, io
from expressway.io.contrast import ContrastSpec


def shrink(
    adata: anndata.AnnData,
    contrast: ContrastSpec | None = None,
    *,
    key: str = "de",
    kind: str = "apeglm",
    interval: float = 0.95,
    lfc_threshold: float | int = 0,
    exact: bool = False,
) -> pd.DataFrame:
    """Table of shrunken fold changes: to rank and draw genes by, where single ones are noisy.

    A prior about 0 on the contrast, whose width the fold changes of all genes tell, draws those of
    which the data say little to 0 and leaves the others. P-values stay those of `de`.

    Parameters
    ----------
    adata
        As `de` left it, with its counts. ``varm[f"{key}_shrunken"]`` and ``uns[key]["shrunken"]``
        are added; `get.shrunken` reads the table.
    contrast
        As for `de`: any, also one that is no coefficient.
    key
        Name under which `de` stored its results.
    kind
        ``"apeglm"``: a Cauchy prior on the contrast alone, which leaves large fold changes as they
        are (Zhu, Ibrahim & Love 2019). ``"normal"``: DESeq2's first, a normal prior on all
        coefficients but the intercept or, if the contrast is no coefficient, on it alone.
    interval
        Probability of the posterior intervals.
    lfc_threshold
        Log2 fold change that matters: with one above 0, lfsr is the probability that the fold
        change is of the other sign or smaller than that.
    exact
        Intervals and lfsr of ``"apeglm"`` by integration of the posterior. Otherwise they are of a
        normal approximation at its mode, as R's: rough where counts are low, and some fifteen
        times as fast.

    Returns
    -------
    DataFrame
        Index gene; base_mean, log2_fold_change (the posterior's mode), posterior_sd (Laplace's
        approximation), lfc_se (as DESeq2 has it: of ``"apeglm"`` posterior_sd, of ``"normal"`` the
        ridge estimate's standard error), lower, upper (log2), lfsr (probability of a false sign),
        s_value (share of false signs among this gene and those with a smaller lfsr),
        log2_fold_change_mle, lfc_se_mle (without a prior, as `contrast` has them), status.

    Raises
    ------
    io.InputError
        As for `contrast`; a choice cannot be used, the counts are not there, or the design has too
        many columns.
    """
    fit, origin = _store.load_fit(adata, key)
    choices = _steps.choices_of(origin.coded, kind, interval, lfc_threshold, exact=exact)
    wanted = io.contrast(origin.coded, contrast)
    cohort = _rows.cohort(
        adata, origin.coded, origin.layer, _store.log_sizes(adata, key), origin.inputs
    )
    table, found = _steps.shrunken(fit, wanted, cohort, choices, adata.var_names)
    about = {"contrast": wanted.name, "prior_scale": found.prior_scale}
    about |= {"kind": kind, "interval": interval, "lfc_threshold": lfc_threshold}
    about |= {"exact": exact}
    _store.store_shrunken(adata, key, table, about)
    return table
