"""From samples × genes to what is clustered: counts, designs along pseudotime, gene-wise fits."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway import _rows, io
from expressway._types import Float, Int
from expressway.core.cohort import Pooled, samples
from expressway.models import along, nb, robust_sites, size_factors
from expressway.models.along import Curve, Frame, Lineages
from expressway.models.dirichlet import Prior
from expressway.models.expected_counts import Counts, counts
from expressway.models.gene_clusters import definite
from expressway.models.gene_mixtures import Sites
from expressway.models.nb import MaximumLikelihood

LEVEL, DISPERSION = "level", "log_dispersion"
# Genes without a zero from which the median of ratios is a size factor; with fewer it is not sure
# that most of them do not change.
ENOUGH_GENES = 100
# A condition number above which coefficients of a raw basis are not identified: their standard
# errors are as many times those of the curve.
ILL = 100.0

Sizes = Literal["auto", "ratio", "poscounts", "library", "none"]


class Settings(NamedTuple):
    """Choices of the analysis."""

    starts: int = 4
    """Searches of each mixture from which the best is taken, and the seed of the first."""
    seed: int = 0
    rounds: int = 12
    """Of refreshing the likelihoods around the posterior, at most; 0 for the two steps alone."""
    min_cells: int = 6
    """Genes with counts in fewer samples get a status and nothing else."""
    precision: Literal["model", "sandwich"] = "model"
    """Of gene-wise estimates: from the negative-binomial likelihood, or for counts of any
    distribution with these means; then likelihoods are not refreshed."""
    modules: Literal["all", "shape"] = "all"
    """Coefficients that modules are made of: all, or all but the level."""
    zero: float = 0.1
    """A coefficient is zero where its size is at most this."""
    level: float = 0.9
    """Probability of intervals."""
    points: int = 30
    """Times at which curves are written."""


DEFAULTS = Settings()


class Rows(NamedTuple):
    """Where curves are evaluated."""

    lineage: str
    time: Float[np.ndarray, "m"]
    z: Float[np.ndarray, "m k"]


class Data(NamedTuple):
    """Counts, design and gene-wise fits."""

    genes: tuple[str, ...]
    samples: tuple[str, ...]
    along: tuple[str, ...]
    """Names of the pseudotimes."""
    size_factors: str
    """What they are: a method, a column, given."""
    status: tuple[str, ...]
    """Of every gene: ok, rarely_seen, all_zero, not_fitted."""
    used: Int[np.ndarray, "u"]
    """Places of the genes that are clustered."""
    counts: Counts | None
    """Of those; not kept in files."""
    frame: Frame
    curves: tuple[Rows, ...]
    names: tuple[str, ...]
    """Of the coordinates: coefficients of curves, of covariates, log dispersion."""
    raw_names: tuple[str, ...]
    shape: int
    """Number of the first."""
    beta: Float[np.ndarray, "u p"]
    log_alpha: Float[np.ndarray, "u"]
    log_likelihood: Float[np.ndarray, "u"]
    sites: Sites
    """Gaussian likelihoods around the gene-wise estimates."""

    @property
    def estimates(self) -> Float[np.ndarray, "u c"]:
        """Gene-wise estimates of all coordinates."""
        return np.column_stack([self.beta, self.log_alpha])


class Design(NamedTuple):
    """The curves' part of the design."""

    frame: Frame
    names: tuple[str, ...]
    raw_names: tuple[str, ...]
    curves: tuple[Rows, ...]
    slopes: tuple[Float[np.ndarray, "n k"], ...]
    """In each lineage's time, for uncertain pseudotimes."""


def lineages(obs: pd.DataFrame, times: Sequence[str], weights: Sequence[str] | None) -> Lineages:
    """Pseudotimes and weights of the samples.

    Raises
    ------
    InputError
        A column is not there, or has values that are none.
    """
    if weights is not None and len(weights) != len(times):
        msg = (
            f"{len(weights)} weights for {len(times)} pseudotimes ({', '.join(times)}); "
            "give one a lineage"
        )
        raise io.InputError(msg)
    if weights is None and len(times) > 1:
        msg = f"{len(times)} pseudotimes without weights; name a column of weights for each"
        raise io.InputError(msg)
    given = None
    if weights is not None:
        given = np.column_stack(
            [io.numeric(obs, name, called="weights column") for name in weights]
        )
    found = []
    for j, name in enumerate(times):
        inside = np.ones(len(obs), bool) if given is None else given[:, j] != 0
        column = np.full(len(obs), np.nan)
        # A sample outside of a lineage need not have a time in it.
        rows = obs if name not in obs.columns else pd.DataFrame(obs[inside])
        values = io.numeric(rows, name, called="pseudotime column")
        column[inside] = values
        found.append(column)
    names = None if len(times) == 1 else tuple(times)
    return along.lineages(np.column_stack(found), given, names)


def along_design(
    of: Lineages, basis: str, settings: Settings, shape: Mapping[str, object], orthonormal: bool
) -> Design:
    """Design of a named basis: `centers` and `length` are in ``shape``."""
    kind, number = along.parse(basis)
    options: dict[str, object] = {k: v for k, v in shape.items() if v is not None}
    each = [
        along.curve(kind, number, of.times[:, j], **options)  # type: ignore[arg-type]
        for j in range(of.times.shape[1])
    ]
    x = along.design(each, of)
    raw_names = tuple(along.names(each))
    frame = along.frame(x, raw_names, orthonormal=orthonormal)
    curves = []
    for j in range(len(each)):
        own = of.times[of.weights[:, j] > 0, j]
        grid = np.linspace(own.min(), own.max(), settings.points)
        curves.append(Rows(of.names[j], grid, along.at(frame, along.rows_at(each, j, grid))))
    return Design(frame, raw_names, raw_names, tuple(curves), _slopes(each, of, frame))


def _slopes(each: list[Curve], of: Lineages, frame: Frame) -> tuple[np.ndarray, ...]:
    """Derivative of the design in the time of each lineage, the others' times kept."""
    whole = along.design_slopes(each, of)
    names = along.names(each)
    found = []
    for j in range(len(each)):
        own = [len(each) == 1 or name.startswith(f"basis[{j + 1}:") for name in names]
        found.append(along.raw_slope(frame, whole * np.array(own)))
    return tuple(found)


def formula_design(
    obs: pd.DataFrame, formula: str, of: Lineages, settings: Settings, orthonormal: bool
) -> Design:
    """Design of a formula; its curves are averages of rows over neighbours in pseudotime."""
    coded = io.design(formula, obs)
    x = np.asarray(coded.matrix, float)
    names = (LEVEL, *coded.names[1:])
    frame = along.frame(x, coded.names, orthonormal=orthonormal)
    curves = []
    for j, name in enumerate(of.names):
        inside = np.flatnonzero(of.weights[:, j] > 0)
        order = inside[np.argsort(of.times[inside, j], kind="stable")]
        parts = np.array_split(order, min(settings.points, len(order)))
        time = np.array([np.mean(of.times[part, j]) for part in parts])
        rows = np.array([np.mean(frame.z[part], axis=0) for part in parts])
        curves.append(Rows(name, time, rows))
    return Design(frame, names, tuple(coded.names), tuple(curves), ())


def covariates(obs: pd.DataFrame, formula: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Columns of covariates, centred: curves are those at average covariates."""
    if formula is None:
        return np.zeros((len(obs), 0)), ()
    coded = io.design(formula, obs)
    x = np.asarray(coded.matrix, float)
    vary = np.ptp(x, axis=0) > 0
    if not np.any(vary):
        msg = f"covariates {formula!r} do not vary between samples; leave them out"
        raise io.InputError(msg)
    x = x[:, vary] - np.mean(x[:, vary], axis=0)
    return x, tuple(name for name, some in zip(coded.names, vary, strict=True) if some)


def log_sizes(
    y: Float[np.ndarray, "n g"], obs: pd.DataFrame, wanted: str | Sequence[float] | np.ndarray
) -> tuple[Float[np.ndarray, "n"], str, list[str]]:
    """Log size factors, what they are, and doubts about them.

    Parameters
    ----------
    y
        Counts.
    obs
        Sample table.
    wanted
        The factors themselves, a method, or a column with them. ``auto``: the median of ratios
        (`ratio`) where at least `ENOUGH_GENES` genes have no zero; else library sizes, as cells
        are too sparse for it; none where there are fewer than `ENOUGH_GENES` genes, of which
        nobody can say that most do not change.
    """
    if not isinstance(wanted, str):
        return _logs(np.asarray(wanted, float), "size factors", len(y)), "given", []
    if wanted in obs.columns and wanted not in ("auto", "none"):
        column = io.numeric(obs, wanted, called="size-factor column")
        return _logs(column, wanted, len(y)), wanted, []
    method, doubts = wanted, []
    if method == "auto":
        whole = int(np.sum(np.all(y > 0, axis=0)))
        method = "ratio" if whole >= ENOUGH_GENES else "library"
        if y.shape[1] < ENOUGH_GENES:
            method = "none"
            doubts = [
                f"{y.shape[1]} genes are too few to tell depth from change: size factors are 1"
            ]
    if method == "none":
        return np.zeros(len(y)), method, doubts
    if method == "library":
        total = np.log(np.sum(y, axis=1))
        return total - np.mean(total), method, doubts
    if method not in ("ratio", "poscounts"):
        msg = (
            f"size factors {wanted!r}; give auto, ratio, poscounts, library, none, or a column of "
            "the sample table"
        )
        raise io.InputError(msg)
    pooled = Pooled(samples(y, np.ones((len(y), 1))))
    counted = pooled.sum(size_factors.log_counts)
    sized = size_factors.normalised(pooled, counted, method)  # type: ignore[arg-type]
    assert isinstance(sized, Pooled)
    return np.asarray(sized.rows.offset)[:, 0], method, doubts


def _logs(sizes: np.ndarray, name: str, n: int) -> np.ndarray:
    if sizes.shape != (n,) or not np.all(sizes > 0) or not np.all(np.isfinite(sizes)):
        msg = (
            f"{name}: {len(sizes)} size factors, some not above 0; needed are {n} positive numbers"
        )
        raise io.InputError(msg)
    return np.log(sizes)


def dense(adata: anndata.AnnData, layer: str | None) -> Float[np.ndarray, "n g"]:
    """Checked counts.

    Raises
    ------
    InputError
        They are no counts, or there are none.
    """
    table = _rows.counts(adata, layer)
    y = np.asarray(table if isinstance(table, np.ndarray) else table.rows(0, adata.n_obs), float)
    if not y.size or not np.any(y):
        msg = "every count is zero: there is nothing to cluster; check the count table"
        raise io.InputError(msg)
    return y


def genewise(
    y: Float[np.ndarray, "n g"],
    of: Design,
    others: tuple[np.ndarray, tuple[str, ...]],
    offset: Float[np.ndarray, "n"],
    settings: Settings,
) -> tuple[np.ndarray, MaximumLikelihood, Counts, np.ndarray]:
    """Statuses of all genes, and fits of those that are clustered, their counts and places."""
    seen = np.sum(y > 0, axis=0)
    status = np.full(y.shape[1], "ok", dtype=object)
    status[seen < min(settings.min_cells, len(y))] = "rarely_seen"
    status[seen == 0] = "all_zero"
    some = np.flatnonzero(status == "ok")
    z = np.column_stack([of.frame.z, others[0]])
    rows = samples(np.ascontiguousarray(y[:, some]), z)
    found = nb.fit(Pooled(rows._replace(offset=offset[:, None])))
    fine = np.all(np.isfinite(found.beta), axis=1) & np.isfinite(found.log_alpha)
    fine &= np.all(np.isfinite(found.information), axis=(1, 2))
    status[some[~fine]] = "not_fitted"
    if np.sum(fine) < 2:
        what = ", ".join(
            f"{n} {s}" for s, n in zip(*np.unique(status, return_counts=True), strict=True)
        )
        msg = (
            f"{int(np.sum(fine))} genes can be clustered, at least 2 are needed; genes are: {what}"
        )
        raise io.InputError(msg)
    used = some[fine]
    kept = MaximumLikelihood(*(np.asarray(part)[fine] for part in found))
    table = counts(np.ascontiguousarray(y[:, used].T), offset, z)
    return status, kept, table, used


def likelihoods(
    found: MaximumLikelihood,
    of: Counts,
    settings: Settings,
    slopes: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Sites:
    """Gaussian likelihoods of the values of genes.

    Parameters
    ----------
    found
        Gene-wise fits.
    of
        Counts.
    settings
        Which precision.
    slopes
        Derivative of the design in uncertain times, and the times' standard deviations.
    """
    at = np.column_stack([found.beta, found.log_alpha])
    field = np.einsum("gac,gc->ga", found.information, at)
    sites = definite(Sites(field, np.asarray(found.information)))
    sites = sites._replace(field=np.einsum("gac,gc->ga", sites.precision, at))
    model = sites
    if settings.precision == "sandwich":
        sites = robust_sites.sandwich(of, sites, at)
    if slopes:
        sites = robust_sites.displaced(of, sites, at, list(slopes), model=model)
    return sites


def priors(
    wanted: Prior | Mapping[str, Prior], names: Sequence[str], shape: int
) -> tuple[Prior, ...]:
    """One prior a coordinate; coefficients of covariates have one normal over genes.

    Raises
    ------
    InputError
        A prior is for a coordinate that there is not, or makes no sense.
    """
    given = dict.fromkeys(names, wanted) if isinstance(wanted, Prior) else dict(wanted)
    unknown = [name for name in given if name not in names and name != "default"]
    if unknown:
        msg = f"a prior for {', '.join(unknown)}; there are {', '.join(names)} (or default)"
        raise io.InputError(msg)
    found = []
    for i, name in enumerate(names):
        own = given.get(name, given.get("default", Prior()))
        _check_prior(own, name)
        if shape <= i < len(names) - 1:
            own = own._replace(truncation=1)
        found.append(own)
    return tuple(found)


def _check_prior(prior: Prior, name: str) -> None:
    positive = {
        "concentration_shape": prior.concentration_shape,
        "concentration_rate": prior.concentration_rate,
        "mean_sd": prior.mean_sd,
        "shape": prior.shape,
        "rate": prior.rate,
    }
    for key, value in positive.items():
        if value is not None and not 0 < value < np.inf:
            msg = f"prior of {name}: {key} is {value}; it must be above 0"
            raise io.InputError(msg)
    if prior.truncation < 1:
        msg = f"prior of {name}: truncation is {prior.truncation}; at least 1 component is needed"
        raise io.InputError(msg)
