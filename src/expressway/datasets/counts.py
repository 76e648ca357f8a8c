"""Counts of two conditions, simulated with known truth."""

import anndata
import numpy as np
import pandas as pd

from expressway._types import Float

from . import draws
from .draws import Simulation

_BULK = Simulation()


def simulate(
    genes: int = 5000,
    samples: int = 12,
    *,
    seed: int = 0,
    de_fraction: float = 0.1,
    batches: int = 1,
    outliers: int = 0,
    settings: Simulation = _BULK,
) -> anndata.AnnData:
    """AnnData of negative-binomial counts (samples x genes) with their truth beside them.

    For sample i and gene j, with design row x of ``~ batch + condition`` (treatment coding)::

        y_ij ~ NB(mean = s_i q_ij, variance = mean + alpha_j mean²),   q_ij = exp(x_i · beta_j)

    - size factors: log s ~ Normal(0, size_factor_sd²), scaled to a geometric mean of 1;
    - base means: log b ~ Normal(log median, sd²). The intercept is such that the mean of q_ij
      over the samples *is* b_j, so that a change does not tell by the base mean;
    - effects: log2 fold changes ~ Normal(0, effect_sd²) for the changed genes, 0 for the others,
      ~ Normal(0, batch_sd²) for each batch but the first;
    - dispersions: alpha_j = (a0 + a1 / b_j) exp(Normal(0, dispersion_sd²)).

    The first half of the samples is control; batches take turns within each condition.

    Parameters
    ----------
    genes, samples
        How many of each; samples are at least 2.
    seed
        Seed of the NumPy generator: the same seed and arguments give the same data.
    de_fraction
        Part of the genes that change with the condition, rounded to whole genes.
    batches
        Batches, at most half as many as samples, so that each is in both conditions.
    outliers
        Genes in which one sample's count, at least 1, is multiplied by ``outlier_factor``.
    settings
        Distributions of the above.

    Returns
    -------
    anndata.AnnData
        ``X``: counts (int64). ``obs``: condition (control, treated), batch where there are
        several, size_factor. ``var``: base_mean (normalised counts, without the outlier),
        log2_fold_change (treated against control), dispersion, is_de, outlier. ``varm["beta"]``:
        the coefficients, natural logarithm, named as formulaic names them.

    Raises
    ------
    ValueError
        A number is out of its range.

    Examples
    --------
    >>> adata = simulate(genes=100, samples=6, batches=2)
    >>> adata.shape
    (6, 100)
    """
    draws.check(
        ("genes", genes, 1, np.inf),
        ("samples", samples, 2, np.inf),
        ("de_fraction", de_fraction, 0, 1),
        ("batches", batches, 1, samples // 2),
        ("outliers", outliers, 0, genes),
    )
    rng = np.random.default_rng(seed)
    obs, x, coefficients = _design(samples, batches)
    obs["size_factor"] = draws.size_factors(rng, samples, settings)
    base_mean = draws.lognormal(rng, genes, *settings.base_mean)
    is_de = draws.choose(rng, genes, round(de_fraction * genes))
    change = np.where(is_de, rng.normal(0, settings.effect_sd, genes), 0.0)
    shift = rng.normal(0, settings.batch_sd, (genes, batches - 1))
    beta = np.log(2) * np.column_stack([np.zeros(genes), shift, change])
    beta[:, 0] = draws.intercept(base_mean, x @ beta.T)
    mean = obs["size_factor"].to_numpy()[:, None] * np.exp(x @ beta.T)

    dispersion = draws.dispersions(rng, base_mean, settings)
    counts = draws.negative_binomial(rng, mean, dispersion)
    outlier = draws.choose(rng, genes, outliers)
    hit = rng.integers(samples, size=outliers), np.flatnonzero(outlier)
    counts[hit] = np.round(np.maximum(counts[hit], 1) * settings.outlier_factor)
    var = pd.DataFrame(
        {
            "base_mean": base_mean,
            "log2_fold_change": change,
            "dispersion": dispersion,
            "is_de": is_de,
            "outlier": outlier,
        },
        index=draws.names("gene", genes),
    )
    adata = anndata.AnnData(counts, obs=obs, var=var)
    adata.varm["beta"] = pd.DataFrame(beta, index=var.index, columns=coefficients)
    return adata


def _design(samples: int, batches: int) -> tuple[pd.DataFrame, Float[np.ndarray, "n p"], pd.Index]:
    """Annotation of the samples, their design matrix and the names of its columns."""
    number = np.arange(samples)
    treated = number >= samples // 2
    batch = (number - treated * (samples // 2)) % batches
    obs = pd.DataFrame(
        {"condition": pd.Categorical.from_codes(treated.astype(int), ["control", "treated"])},
        index=draws.names("sample", samples),
    )
    levels = draws.names("batch", batches)
    if batches > 1:
        obs["batch"] = pd.Categorical.from_codes(batch, levels)
    x = np.column_stack([np.ones(samples), batch[:, None] == np.arange(1, batches), treated])
    shifts = [f"batch[T.{level}]" for level in levels[1:]]
    return obs, x, pd.Index(["Intercept", *shifts, "condition[T.treated]"])
