"""Time courses whose genes follow the curve of their cluster, simulated with known truth."""

from collections.abc import Sequence
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
from scipy.interpolate import BSpline

from expressway._types import Float, Int

from . import draws
from .draws import Simulation

_DEGREE = 3


class Course(NamedTuple):
    """What a simulated time course looks like; the defaults resemble a microarray of a tissue."""

    level: tuple[float, float] = (8.0, 2.0)
    """Mean and sd over genes of the mean expression, log2 (not of counts)."""
    swing: tuple[float, float] = (1.5, 3.0)
    """Least and greatest difference between the extremes of a cluster's curve, log2."""
    evenness: float = 2.0
    """Concentration of the Dirichlet distribution of the clusters' shares: sizes are equal at
    infinity."""
    counts: Simulation = Simulation()
    """Base means, dispersions and size factors of counts."""


_TIMES = (0, 3, 6, 9, 12, 18, 24, 30, 36, 48, 60)
_TISSUE = Course()


def simulate_timecourse(  # noqa: PLR0913 (what a time course is made of)
    genes: int = 500,
    *,
    clusters: int = 8,
    times: Sequence[int | float] | np.ndarray = _TIMES,
    replicates: int = 3,
    seed: int = 0,
    df: int = 6,
    counts: bool = False,
    groups: int = 1,
    differ: float = 0.2,
    flat: bool = False,
    noise: tuple[float, float] = (0.15, 0.5),
    spread: float = 0.0,
    settings: Course = _TISSUE,
) -> anndata.AnnData:
    """AnnData of expression over time (samples x genes) with the clusters of its genes.

    For sample n at time t_n and gene g of cluster k, on the log2 scale::

        y_gn = level_g + curve_k(t_n) + deviation_g(t_n) + noise_gn,   noise_gn ~ Normal(0, sd_g²)

    - curves are cubic B-splines with ``df`` columns: knots equally spaced from the first time to
      the last. Coefficients are ~ Normal(0, 1); a curve is then scaled to a difference between its
      extremes, over the times, ~ Uniform(swing);
    - deviations, a gene's own, are such splines with coefficients ~ Normal(0, spread²);
    - curves and deviations have mean 0 over the times, so that levels are means over the samples;
    - levels ~ Normal(mean, sd²); noise: log sd_g ~ Normal(log median, sd²);
    - clusters have one gene each, and of the others shares ~ Dirichlet(evenness).

    Counts are negative binomial, with size factors s, base means b and dispersions alpha drawn as
    in `simulate`::

        y_gn ~ NB(mean = s_n q_gn, variance = mean + alpha_g mean²),
        log2 q_gn = level_g + curve_k(t_n) + deviation_g(t_n)

    where the level is such that the mean of q over the samples is b; ``noise`` is not used.

    Parameters
    ----------
    genes
        How many, at least one a cluster.
    clusters
        How many.
    times
        Two or more, in any unit, each once.
    replicates
        Samples at each time in each group.
    seed
        Seed of the NumPy generator: the same seed and arguments give the same data. Curves and
        clusters are the same whatever is measured: expression or counts, how often, how noisily.
    df
        Columns of the spline basis, the constant among what they span; at least 4.
    counts
        Counts instead of expression.
    groups
        1 or 2: samples of the second are measured at the same times.
    differ
        Part of the genes, rounded to whole genes, that follow another cluster's curve in the
        second group.
    flat
        The last cluster's curve is 0.
    noise
        Median over genes of the sd of the noise, log2, and sd of its natural logarithm.
    spread
        sd of the coefficients of a gene's deviation from its cluster's curve, log2.
    settings
        Distributions of the above.

    Returns
    -------
    anndata.AnnData
        ``X``: expression (log2) or counts (int64). ``layers["mean"]``: its expectation, given all
        but the noise. ``obs``: time, replicate, group; of counts size_factor. ``var``: cluster,
        level, differs; noise_sd of expression, base_mean and dispersion of counts;
        cluster_group_2 where there are two groups. ``uns["truth"]``: curves (clusters x times),
        times, df.

    Raises
    ------
    ValueError
        A number is out of its range, or times are not two or more different ones.

    Examples
    --------
    >>> adata = simulate_timecourse(genes=100, clusters=4, times=[0, 2, 4, 8], replicates=2)
    >>> adata.shape
    (8, 100)
    """
    changing = round(differ * genes) if groups > 1 else 0
    draws.check(
        ("clusters", clusters, 2 if changing else 1, np.inf),
        ("genes", genes, clusters, np.inf),
        ("replicates", replicates, 1, np.inf),
        ("df", df, _DEGREE + 1, np.inf),
        ("groups", groups, 1, 2),
        ("differ", differ, 0, 1),
        ("the median of noise", noise[0], 0, np.inf),
        ("the sd of noise", noise[1], 0, np.inf),
        ("spread", spread, 0, np.inf),
    )
    rng = np.random.default_rng(seed)
    at = _distinct(times)
    basis = _basis(at, df)
    curves = _curves(rng, basis, clusters, settings.swing)
    if flat:
        curves[-1] = 0
    first = _members(rng, genes, clusters, settings.evenness)
    differs = draws.choose(rng, genes, changing)
    # The remainder is for one cluster, where nothing differs.
    other = (first + rng.integers(1, max(clusters, 2), genes)) % clusters
    cluster = np.stack([first, np.where(differs, other, first)])
    deviation = basis @ (spread * rng.normal(size=(df, genes)))
    deviation -= deviation.mean(axis=0)

    names = draws.names("cluster", clusters)
    var = pd.DataFrame(
        {"cluster": pd.Categorical.from_codes(first, names)}, index=draws.names("gene", genes)
    )
    if groups > 1:
        var["cluster_group_2"] = pd.Categorical.from_codes(cluster[1], names)
    obs, group, time = _samples(at, replicates, groups)
    change = curves[cluster[group], time[:, None]] + deviation[time]
    if counts:
        obs["size_factor"] = draws.size_factors(rng, len(obs), settings.counts)
        x, mean, truth = _counts(rng, change, obs["size_factor"].to_numpy(), settings.counts)
    else:
        x, mean, truth = _expression(rng, change, settings.level, noise)
    var = var.assign(differs=differs, **truth)
    adata = anndata.AnnData(x, obs=obs, var=var, layers={"mean": mean})
    adata.uns["truth"] = {"curves": curves, "times": at, "df": df}
    return adata


def _distinct(times: Sequence[int | float] | np.ndarray) -> Float[np.ndarray, "t"]:
    at = np.array(times, dtype=float)
    if at.ndim != 1 or len(at) < 2 or len(np.unique(at)) < len(at) or not np.isfinite(at).all():
        told = ", ".join(map(str, np.ravel(times))) or "none"
        message = (
            f"times are {told}; they must be two or more different finite numbers (replicates "
            "says how many samples each has)."
        )
        raise ValueError(message)
    return at


def _basis(at: Float[np.ndarray, "t"], df: int) -> Float[np.ndarray, "t d"]:
    """Cubic B-splines of equal intervals over the range of the times."""
    low, high = at.min(), at.max()
    breaks = np.linspace(low, high, df - _DEGREE + 1)
    knots = np.concatenate([[low] * _DEGREE, breaks, [high] * _DEGREE])
    return BSpline.design_matrix(at, knots, _DEGREE).toarray()


def _curves(
    rng: np.random.Generator,
    basis: Float[np.ndarray, "t d"],
    clusters: int,
    swing: tuple[float, float],
) -> Float[np.ndarray, "k t"]:
    """Random splines of mean 0 over the times."""
    curves = (basis @ rng.normal(size=(basis.shape[1], clusters))).T
    curves -= curves.mean(axis=1, keepdims=True)
    return curves * (rng.uniform(*swing, clusters) / np.ptp(curves, axis=1))[:, None]


def _members(
    rng: np.random.Generator, genes: int, clusters: int, evenness: float
) -> Int[np.ndarray, "g"]:
    """Cluster of each gene, at random; none is empty."""
    shares = rng.dirichlet(np.full(clusters, evenness))
    sizes = 1 + rng.multinomial(genes - clusters, shares)
    return rng.permutation(np.repeat(np.arange(clusters), sizes))


def _samples(
    at: Float[np.ndarray, "t"], replicates: int, groups: int
) -> tuple[pd.DataFrame, Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Annotation of the samples, and the numbers of their groups and times."""
    shape = groups, len(at), replicates
    group, time, replicate = (i.ravel() for i in np.indices(shape))
    obs = pd.DataFrame(
        {
            "time": at[time],
            "replicate": replicate + 1,
            "group": pd.Categorical.from_codes(group, draws.names("group", groups)),
        },
        index=draws.names("sample", len(time)),
    )
    return obs, group, time


def _expression(
    rng: np.random.Generator,
    change: Float[np.ndarray, "n g"],
    level: tuple[float, float],
    noise: tuple[float, float],
) -> tuple[Float[np.ndarray, "n g"], Float[np.ndarray, "n g"], dict[str, Float[np.ndarray, "g"]]]:
    """Expression, its mean, and the truth of each gene."""
    genes = change.shape[1]
    truth = {
        "level": rng.normal(*level, genes),
        "noise_sd": draws.lognormal(rng, genes, *noise),
    }
    mean = truth["level"] + change
    return mean + truth["noise_sd"] * rng.normal(size=mean.shape), mean, truth


def _counts(
    rng: np.random.Generator,
    change: Float[np.ndarray, "n g"],
    size_factor: Float[np.ndarray, "n"],
    settings: Simulation,
) -> tuple[Int[np.ndarray, "n g"], Float[np.ndarray, "n g"], dict[str, Float[np.ndarray, "g"]]]:
    """Counts, their mean, and the truth of each gene."""
    log_change = np.log(2) * change
    base_mean = draws.lognormal(rng, change.shape[1], *settings.base_mean)
    intercept = draws.intercept(base_mean, log_change)
    dispersion = draws.dispersions(rng, base_mean, settings)
    mean = size_factor[:, None] * np.exp(intercept + log_change)
    truth = {"level": intercept / np.log(2), "base_mean": base_mean, "dispersion": dispersion}
    return draws.negative_binomial(rng, mean, dispersion), mean, truth
