"""Counts along pseudotime whose coefficients are clustered, simulated with known truth."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway._types import Float, Int

from . import draws
from .draws import Simulation


class Pseudotime(NamedTuple):
    """What simulated counts along pseudotime look like."""

    mean: float = 5.0
    """exp(level) in the middle of the levels' clusters: a geometric mean over cells."""
    level_step: float | None = None
    """Distance of neighbouring clusters of levels, natural log, instead of standard errors: some
    genes are seen so much less than others that errors of all their coordinates differ."""
    dispersion: float = 0.5
    """In the middle of the clusters of log dispersion."""
    size_sd: float = 0.2
    """sd over cells of the natural logarithm of the size factor."""
    centers: tuple[float, ...] = (0.1, 0.4, 0.7)
    """Of the radial basis functions, on [0, 1]; one coordinate each."""
    length: float = 0.5
    """Their length scale."""


class Component(NamedTuple):
    """The clusters of a coordinate; natural-logarithm units."""

    mean: Float[np.ndarray, "k"]
    sd: Float[np.ndarray, "k"]
    weight: Float[np.ndarray, "k"]
    """Shares of the genes, as they are in the data."""
    standard_error: float
    """What means and sds are multiples of."""


_CELLS = Pseudotime()
# Genes whose median standard error is taken.
_TYPICAL = 500
# Log means on which information about dispersions is tabulated, and nodes of its quadrature.
_TABLE = 64
_NODES = 64
# In so many rounds distances and standard errors agree, or never: clusters so far from the middle
# (natural logarithm) only move on.
_ROUNDS = 200
_FAR = 20.0


def simulate_pseudotime(  # noqa: PLR0913 (what a simulation along pseudotime is made of)
    genes: int = 500,
    cells: int = 200,
    *,
    clusters: Sequence[int] = (3, 3, 3, 2, 2),
    separation: float = 6.0,
    within: float = 0.5,
    sizes: Literal["equal", "uneven"] = "equal",
    seed: int = 0,
    settings: Pseudotime = _CELLS,
) -> anndata.AnnData:
    """AnnData of counts along pseudotime (cells x genes) with the clusters of each coordinate.

    For cell n at pseudotime t_n and gene g::

        y_gn ~ NB(mean = s_n exp(x_n'b_g), variance = mean + alpha_g mean²)

    - x_n are rows of an orthonormal basis (X'X = cells times the identity, first column ones) of
      what a constant and radial basis functions ``exp(-(t - center)² / (2 length²))`` span;
    - coordinates of a gene are its coefficients b and log alpha, natural logarithms. Each has
      clusters of its own, independent of those of the others;
    - means of a coordinate's clusters that are neighbours are ``separation`` standard errors
      apart, and a gene's value is ~ Normal(mean of its cluster, (``within`` standard errors)²);
    - that standard error is the coordinate's median over genes of the one that the expected
      information gives with every gene at the means of its clusters. Means depend on it and it on
      them: both are such that they agree. It differs between genes, so that ``separation`` is that
      of a typical one;
    - cluster 1 of a basis coordinate has mean 0, the next ones lie in turn above and below. Levels
      and log dispersions have the middle of their clusters at log ``mean`` and log ``dispersion``;
    - pseudotime ~ Uniform, stretched to [0, 1]; log size factors ~ Normal(0, size_sd²), scaled to
      a geometric mean of 1.

    Parameters
    ----------
    genes, cells
        How many of each.
    clusters
        Of level, each basis coordinate and log dispersion: how many, 1 or more.
    separation
        Distance of neighbouring clusters in standard errors.
    within
        sd within a cluster in standard errors.
    sizes
        Clusters have equally many genes, or proportional to 1, 1/2, 1/3, ...
    seed
        Seed of the NumPy generator: the same seed and arguments give the same data.
    settings
        Mean counts, dispersions, size factors and the basis.

    Returns
    -------
    anndata.AnnData
        ``X``: counts (int64). ``obs``: pseudotime, size_factor. ``var``: of each coordinate
        (level, basis[1], ..., log_dispersion) label_<coordinate>, from 1, and true_<coordinate>.
        ``obsm["design"]``: the basis. ``uns["truth"]``: of each coordinate mean, sd and weight of
        its clusters and the standard_error they are multiples of.

    Raises
    ------
    ValueError
        A number is out of its range, or clusters so far apart cannot be told apart whatever the
        distance: information is lost faster than means move.

    Examples
    --------
    >>> adata = simulate_pseudotime(genes=100, cells=50, clusters=(2, 2, 1, 1, 1))
    >>> adata.shape
    (50, 100)
    """
    names = coordinates(len(settings.centers))
    _check(genes, cells, clusters, separation, within, sizes, settings)
    rng = np.random.default_rng(seed)
    time = _pseudotime(rng, cells)
    size = draws.size_factors(rng, cells, Simulation(size_factor_sd=settings.size_sd))
    design = _orthonormal(time, settings)
    label = np.column_stack([_labels(rng, genes, k, sizes) for k in clusters])
    components = _components(label, list(clusters), design, size, separation, settings)
    spread = within * np.array([each.standard_error for each in components])
    means = np.column_stack([c.mean[z] for c, z in zip(components, label.T, strict=True)])
    value = means + spread * rng.normal(size=label.shape)
    expected = size[:, None] * np.exp(design @ value[:, :-1].T)
    counts = draws.negative_binomial(rng, expected, np.exp(value[:, -1]))

    obs = pd.DataFrame({"pseudotime": time, "size_factor": size}, index=draws.names("cell", cells))
    var = pd.DataFrame(index=draws.names("gene", genes))
    for name, z, x in zip(names, label.T, value.T, strict=True):
        var[f"label_{name}"], var[f"true_{name}"] = z + 1, x
    adata = anndata.AnnData(counts, obs=obs, var=var)
    adata.obsm["design"] = design
    adata.uns["truth"] = {
        name: each._replace(sd=each.sd * within)._asdict()
        for name, each in zip(names, components, strict=True)
    }
    return adata


def coordinates(basis: int) -> list[str]:
    """Names of a gene's coordinates, of which so many are of the basis."""
    return ["level", *(f"basis[{i + 1}]" for i in range(basis)), "log_dispersion"]


def two_programs(genes: int = 40, times: int = 200, *, seed: int = 0) -> anndata.AnnData:
    """AnnData of counts (times x genes) of two programs, rising and falling.

    With ``log mean = 2.45 + sum_j w_j exp(-(t - c_j)² / (2 × .59²))`` at equally spaced times on
    [0, 1] and variance ``mean + mean² / phi``: phi is 23.7 for genes of the first program and 3.7
    for those of the second. Without size factors.

    Parameters
    ----------
    genes
        The first half, rounded up, is of the program "up", the others of "down".
    times
        How many, two or more.
    seed
        Seed of the NumPy generator.

    Returns
    -------
    anndata.AnnData
        ``X``: counts (int64). ``obs``: pseudotime. ``var``: program, dispersion (1 / phi).
        ``layers["mean"]``: expected counts.

    Raises
    ------
    ValueError
        A number is out of its range.

    Examples
    --------
    >>> two_programs(genes=4, times=10).var["program"].tolist()
    ['up', 'up', 'down', 'down']
    """
    draws.check(("genes", genes, 2, np.inf), ("times", times, 2, np.inf))
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, times)
    bumps = _radial(time, (0.15, 0.23, 0.4, 0.67, 0.7, 0.8), 0.59)
    up, down = (-1.0, -0.76, 0.1, 0.5, 1.1, 1.4), (1.2, 0.46, -0.1, -0.9, -1.1, -1.4)
    second = np.arange(genes) >= (genes + 1) // 2
    mean = np.exp(2.45 + bumps @ np.array([up, down]).T)[:, second.astype(int)]
    dispersion = np.where(second, 1 / 3.7, 1 / 23.7)
    var = pd.DataFrame(
        {
            "program": pd.Categorical.from_codes(second.astype(int), ["up", "down"]),
            "dispersion": dispersion,
        },
        index=draws.names("gene", genes),
    )
    obs = pd.DataFrame({"pseudotime": time}, index=draws.names("cell", times))
    counts = draws.negative_binomial(rng, mean, dispersion)
    return anndata.AnnData(counts, obs=obs, var=var, layers={"mean": mean})


def _check(
    genes: int,
    cells: int,
    clusters: Sequence[int],
    separation: float,
    within: float,
    sizes: str,
    settings: Pseudotime,
) -> None:
    """Refuse what cannot be simulated."""
    columns = 1 + len(settings.centers)
    if len(clusters) != columns + 1:
        told = ", ".join(map(str, clusters)) or "none"
        message = (
            f"clusters are {told}; give {columns + 1} numbers: of level, {columns - 1} of the "
            "basis (one a center), and log dispersion."
        )
        raise ValueError(message)
    if sizes not in ("equal", "uneven"):
        message = f"sizes is {sizes!r}; it must be 'equal' or 'uneven'."
        raise ValueError(message)
    draws.check(
        ("the least number of clusters", min(clusters), 1, np.inf),
        ("genes", genes, max(clusters), np.inf),
        ("cells", cells, columns + 1, np.inf),
        ("separation", separation, 0, np.inf),
        ("within", within, 0, np.inf),
        ("mean", settings.mean, np.finfo(float).tiny, 1e9),
        ("dispersion", settings.dispersion, np.finfo(float).tiny, 1e9),
        ("level_step", settings.level_step or 0.0, 0, np.inf),
        ("size_sd", settings.size_sd, 0, np.inf),
        ("length", settings.length, np.finfo(float).tiny, np.inf),
    )


def _pseudotime(rng: np.random.Generator, cells: int) -> Float[np.ndarray, "n"]:
    """Uniform numbers in order, from 0 to 1 exactly, so that scaling to [0, 1] changes nothing."""
    time = np.sort(rng.uniform(size=cells))
    return (time - time[0]) / (time[-1] - time[0])


def _radial(
    time: Float[np.ndarray, "n"], centers: tuple[float, ...], length: float
) -> Float[np.ndarray, "n b"]:
    """Radial basis functions."""
    return np.exp(-((time[:, None] - np.array(centers)) ** 2) / (2 * length**2))


def _orthonormal(time: Float[np.ndarray, "n"], settings: Pseudotime) -> Float[np.ndarray, "n p"]:
    """Gram and Schmidt's basis, of mean square 1, of a constant and the radial functions in order.

    Every column has a positive product with the function it was made of.
    """
    raw = np.column_stack([np.ones(len(time)), _radial(time, settings.centers, settings.length)])
    q, r = np.linalg.qr(raw)
    return q * np.sign(np.diag(r)) * np.sqrt(len(time))


def _labels(
    rng: np.random.Generator, genes: int, clusters: int, sizes: str
) -> Int[np.ndarray, "g"]:
    """Cluster of each gene from 0, at random; none is empty, none larger than those before it."""
    share = np.ones(clusters) if sizes == "equal" else 1 / np.arange(1, clusters + 1)
    upto = np.round((genes - clusters) * np.cumsum(share) / np.sum(share)).astype(int)
    size = np.sort(1 + np.diff(upto, prepend=0))[::-1]
    return rng.permutation(np.repeat(np.arange(clusters), size))


def _components(
    label: Int[np.ndarray, "g c"],
    clusters: list[int],
    design: Float[np.ndarray, "n p"],
    size: Float[np.ndarray, "n"],
    separation: float,
    settings: Pseudotime,
) -> list[Component]:
    """Clusters of each coordinate with an sd of one standard error."""
    steps = [_steps(k) for k in clusters]
    middle = np.zeros(len(steps))
    middle[0], middle[-1] = np.log(settings.mean), np.log(settings.dispersion)
    for end in (0, -1):
        steps[end] = steps[end] - (steps[end].min() + steps[end].max()) / 2
    some = label[:_TYPICAL]

    def means(error: Float[np.ndarray, "c"]) -> list[Float[np.ndarray, "_"]]:
        far = separation * error
        far[0] = far[0] if settings.level_step is None else settings.level_step
        return [m + f * s for m, f, s in zip(middle, far, steps, strict=True)]

    error = np.full(len(steps), len(size) ** -0.5)
    for _ in range(_ROUNDS):
        last = error
        at = means(error)
        if max(np.abs(m - c).max() for m, c in zip(at, middle, strict=True)) > _FAR:
            break
        beta = np.column_stack([m[z] for m, z in zip(at[:-1], some.T[:-1], strict=True)])
        error = _standard_errors(beta, at[-1], some[:, -1], design, size)
        if np.allclose(error, last, rtol=1e-9, atol=0):
            shares = [
                np.bincount(z, minlength=k) / len(z) for z, k in zip(label.T, clusters, strict=True)
            ]
            return [
                Component(m, np.full(len(m), e), w, float(e))
                for m, e, w in zip(means(error), error, shares, strict=True)
            ]
    message = (
        f"clusters that are {separation} standard errors apart do not exist: the further apart, "
        "the larger the standard errors. Give a smaller separation, fewer clusters or more cells."
    )
    raise ValueError(message)


def _steps(clusters: int) -> Float[np.ndarray, "k"]:
    """0, 1, -1, 2, -2, ..."""
    j = np.arange(clusters)
    return np.where(j % 2, 1.0, -1.0) * ((j + 1) // 2)


def _standard_errors(
    beta: Float[np.ndarray, "g p"],
    log_alpha: Float[np.ndarray, "k"],
    label: Int[np.ndarray, "g"],
    design: Float[np.ndarray, "n p"],
    size: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "c"]:
    """Medians over genes by expected information, in which coefficients and dispersion part.

    The coefficients' is ``X'WX`` with ``W = mu / (1 + alpha mu)``; that of log alpha is a smooth
    function of log mu, tabulated once for each dispersion.
    """
    log_mu = np.log(size) + beta @ design.T
    mu = np.exp(log_mu)
    weight = mu / (1 + np.exp(log_alpha)[label][:, None] * mu)
    info = np.einsum("gn,np,nq->gpq", weight, design, design, optimize=True)
    variance = np.diagonal(np.linalg.inv(info), axis1=1, axis2=2)
    nodes = np.linspace(log_mu.min(), log_mu.max(), _TABLE)
    of_dispersion = np.zeros(len(beta))
    for j, a in enumerate(log_alpha):
        known = _dispersion_information(np.exp(nodes), np.exp(-a))
        of_dispersion[label == j] = np.interp(log_mu[label == j], nodes, known).sum(axis=1)
    return np.append(np.median(np.sqrt(variance), axis=0), np.median(of_dispersion) ** -0.5)


def _dispersion_information(mu: Float[np.ndarray, "m"], r: float) -> Float[np.ndarray, "m"]:
    """Expected information of one count about log alpha = -log r.

    ``r² (E[trigamma(r) - trigamma(r + y)] - mu / (r (r + mu)))``. With ``trigamma(z) = integral of
    u exp(-z u) / (1 - exp(-u)) du`` and ``E[exp(-u y)] = (1 + mu (1 - exp(-u)) / r)^-r`` the
    expectation is an integral for Gauss-Laguerre quadrature, right to a thousandth where counts are
    moderate and to two hundredths at means of hundreds.
    """
    u, weight = np.polynomial.laguerre.laggauss(_NODES)
    gap = -np.expm1(-u / r)
    transform = -np.expm1(-r * np.log1p(mu[:, None] * gap / r))
    return transform @ (weight * u / gap) - r * mu / (r + mu)
