"""Steps of `timecourse`: data and plan, curves for one df, clusters, which genes change."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway import _rows, io
from expressway._errors import Unfinished
from expressway._types import Bool, Float, Int
from expressway.core.cohort import Cohort, Pooled, samples
from expressway.models import clusters, deseq, spline, timecourse
from expressway.models.cells import groups as cells_of
from expressway.models.count_curves import CountCurves, count_curves
from expressway.models.course import Plan, design
from expressway.models.curves import Curves, Frame, frame
from expressway.models.mixture import RIDGE, Mixture, terms
from expressway.models.spline import Basis
from expressway.models.timecourse import Stage, TimeCourse

logger = logging.getLogger(__name__)

# Of genes, in choosing the number of clusters.
FOLDS = 5

STATUSES = {
    "ok": "nothing to report",
    "constant": "values that the curve meets exactly: there is no variance to estimate",
    "too_few_values": "values are missing, and too few are left for the curve",
    "all_zero": "no counts",
    "low_count": "mean of normalised counts below min_mean",
    "not_fitted": "no dispersion or coefficients",
}


class Settings(NamedTuple):
    """Choices of a time-course analysis; by default what the published code gets wrong is right."""

    kind: str = "b-spline"
    """Of curves: b-spline, natural, cyclic, factor (a mean for each time)."""
    degree: int = 3
    knots: str | tuple[float, ...] = "equal"
    """Interior knots: equal (equally spaced), quantile (of distinct times), or where they are."""
    indicators: tuple[float, ...] = ()
    """Times with a mean of their own, outside of the spline: sparse late ones."""
    period: float | None = None
    """Of cyclic curves; the range of the times when not given."""
    spread: float = 0.1
    """Variance of genes about the centroid of their cluster, of each coordinate of a curve (squared
    units of expression; natural log for counts; a coordinate has the size of a whole curve, not of
    a value): what regularises covariances."""
    ridge: float = RIDGE
    """Of centroids."""
    starts: int = 20
    seed: int = 0
    error: str = "squared"
    """Of cross-validation: mean squared or absolute error; for counts squared is the deviance."""
    corrected: bool = True
    """Predictions of the jackknife are also corrected by a few steps of Newton's method."""
    leak: bool = False
    """As published: genes are classified and centred with the values that were left out, too."""
    singular: str = "skip"
    """What to do with a fold without which a curve cannot be estimated: skip or refuse."""
    information: float = 0.01
    """Share of the information on curves that a fold must leave, in every direction and with every
    df, for its errors to be compared."""
    most_folds: int = 200
    min_mean: float = 5.0
    """Of normalised counts: genes below are not clustered."""
    alpha: float = 0.1
    """False-discovery rate, for independent filtering of counts."""
    points: int = 25
    """Of the time grid on which curves are written."""
    level: float = 0.95
    """Probability of intervals."""


DEFAULTS = Settings()
PUBLISHED = Settings(spread=0.0, starts=1, error="absolute", leak=True, information=0.0)


class Data(NamedTuple):
    """Expression or counts, and the plan of the samples."""

    plan: Plan
    genes: tuple[str, ...]
    y: Float[np.ndarray, "g n"]
    """NaN where a value is missing."""
    counts: bool
    held: Bool[np.ndarray, "g"]
    """Genes held out of clustering, to test it."""


class Analysis(NamedTuple):
    """The gene models' analysis of counts with the curves' design."""

    fit: deseq.DESeqFit
    cohort: Cohort
    """With size factors."""


class OneFit(NamedTuple):
    """Curves with one df, and their clusters."""

    df: int
    basis: Basis
    stage: Stage
    """Of the genes that are clustered."""
    test: Stage | None
    """Of those held out."""
    genes: Int[np.ndarray, "k"]
    """Places of the clustered genes in the data; then those held out."""
    status: tuple[str, ...]
    """Of every gene."""
    found: TimeCourse
    analysis: Analysis | None = None
    """Of counts, from which tests come; it is not kept in files."""


def plan(adata: anndata.AnnData, time: str, group: str | None, replicate: str | None) -> Plan:
    """When samples were taken, from the sample table.

    Raises
    ------
    InputError
        A column is not there, or the time is no number for some sample.
    """
    obs = pd.DataFrame(adata.obs)
    times = io.numeric(obs, time, called="time column")
    coded, names = _levels(obs, group)
    series = None if replicate is None else _levels(obs, replicate)[0]
    return Plan(times, coded, names, series, tuple(map(str, adata.obs_names)))


def _levels(obs: pd.DataFrame, column: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Places and names of a column's values."""
    if column is None:
        return np.zeros(len(obs), int), ("",)
    if column not in obs.columns:
        msg = f"there is no column {column!r} in the sample table; it has {', '.join(obs.columns)}"
        raise io.InputError(msg)
    coded, names = pd.factorize(obs[column], sort=True)
    if np.any(coded < 0):
        sample = obs.index[int(np.flatnonzero(coded < 0)[0])]
        msg = f"column {column!r} has no value for sample {sample}; fill it in or leave it out"
        raise io.InputError(msg)
    return coded.astype(int), tuple(map(str, names))


def data(
    adata: anndata.AnnData, of: Plan, layer: str | None, *, counts: bool, held: int, seed: int
) -> Data:
    """Values of every gene, checked.

    Raises
    ------
    InputError
        They are not what they should be, or more genes are to be held out than there are.
    """
    if counts:
        table = _rows.counts(adata, layer)
        y = np.asarray(
            table if isinstance(table, np.ndarray) else table.rows(0, adata.n_obs), float
        ).T
    else:
        y = _rows.expression(adata, layer).T
        if np.any(np.isinf(y)):
            gene, sample = (int(i[0]) for i in np.nonzero(np.isinf(y)))
            msg = (
                f"expression of {adata.var_names[gene]} in {adata.obs_names[sample]} is infinite; "
                "needed are numbers, or NaN where a value is missing"
            )
            raise io.InputError(msg)
    g = len(y)
    if not g:
        msg = "there are no genes; give a table with some"
        raise io.InputError(msg)
    if not 0 <= held < g:
        msg = f"{held} genes to hold out of {g}; needed are fewer"
        raise io.InputError(msg)
    mask = np.zeros(g, bool)
    mask[np.random.default_rng(seed).choice(g, held, replace=False)] = True
    return Data(of, tuple(map(str, adata.var_names)), np.ascontiguousarray(y), counts, mask)


def borne(of: Plan, settings: Settings) -> list[int]:
    """Numbers of columns from 4 to 8, as far as the distinct times of every group bear them."""
    if settings.kind == "factor":
        return [len(np.unique(of.time))]
    if not isinstance(settings.knots, str):
        found = spline.basis(
            of.time,
            kind=settings.kind,
            degree=settings.degree,
            knots=settings.knots,
            indicators=settings.indicators,
            period=settings.period,
        )
        return [found.columns - len(found.indicators)]
    inside = ~np.isin(of.time, settings.indicators)
    distinct = min(len(np.unique(of.time[inside & (of.group == k)])) for k in range(len(of.groups)))
    least = settings.degree + 1 if settings.kind == "b-spline" else 4
    return list(range(least, max(least, min(least + 4, distinct)) + 1))


def basis_of(given: Data, df: int, settings: Settings) -> Basis:
    """The basis for one df, which the samples of every group can bear.

    Raises
    ------
    InputError
        They cannot: a group has too few distinct times, or no residual is left.
    """
    times = given.plan.time
    found = spline.basis(
        times,
        None if settings.kind == "factor" or not isinstance(settings.knots, str) else df,
        kind=settings.kind,
        degree=settings.degree,
        knots=settings.knots,
        indicators=settings.indicators,
        period=settings.period,
    )
    for number, name in enumerate(given.plan.groups):
        try:
            spline.check(found, times[given.plan.group == number])
        except io.InputError as error:
            msg = f"group {name}: {error}" if name else str(error)
            raise io.InputError(msg) from None
    columns = found.columns * len(given.plan.groups)
    if columns >= len(times):
        msg = (
            f"{len(times)} samples for {columns} coefficients (df {df}): nothing is left to "
            "estimate errors from; lower df, or add replicates"
        )
        raise io.InputError(msg)
    return found


def frame_of(given: Data, basis: Basis) -> Frame:
    """Coordinates of curves of all groups."""
    of = given.plan
    return frame(design(basis, of.time, of.group, len(of.groups)))


def fit_one(
    given: Data,
    df: int,
    k: int,
    settings: Settings,
    start: Mixture | None = None,
) -> OneFit:
    """Curves with one df and their clusters.

    Parameters
    ----------
    given
        The data.
    df
        Columns of the spline.
    k
        Number of clusters.
    settings
        Choices.
    start
        Clusters found before, from which Newton's method goes on; none are sought then.
    """
    bare = curves_of(given, df, settings)
    t = terms(bare.stage.observed(np.ones(len(given.plan.time))))
    try:
        if start is None or start.centroids.shape != (k, t.pull.shape[1]):
            found = clusters.fit(t, k, settings.starts, settings.seed, settings.ridge)
        else:
            found = clusters.distinct(start, t, settings.ridge)
    except (ValueError, Unfinished) as error:
        raise io.InputError(str(error)) from None
    if len(found.mixture.weight) < k:
        msg = "df %d: %d clusters asked for, %d found: the others would coincide with these"
        logger.warning(msg, df, k, len(found.mixture.weight))
    order = np.argsort(-found.mixture.log_weight, kind="stable")
    sorted_ = Mixture(found.mixture.centroids[order], found.mixture.log_weight[order])
    found = timecourse.differentiated(
        bare.stage, found._replace(mixture=sorted_), t, settings.ridge
    )
    return bare._replace(found=found)


def curves_of(given: Data, df: int, settings: Settings) -> OneFit:
    """Curves of every gene with one df; their clusters are still to be found."""
    basis = basis_of(given, df, settings)
    of = given.plan
    matrix = design(basis, of.time, of.group, len(of.groups))
    coordinates = frame_of(given, basis)
    analysis = None
    if given.counts:
        stage, status, analysis = _counted(given, matrix, coordinates, settings)
    else:
        stage, status = _measured(given, coordinates, settings)
    usable = status == "ok"
    trained = np.flatnonzero(usable & ~given.held)
    held = np.flatnonzero(usable & given.held)
    if len(trained) < 2:
        what = ", ".join(
            f"{n} {s}" for s, n in zip(*np.unique(status, return_counts=True), strict=True)
        )
        msg = f"{len(trained)} genes can be clustered, at least 2 are needed; genes are: {what}"
        raise io.InputError(msg)
    nothing: Any = None
    return OneFit(
        df,
        basis,
        stage.some(trained),
        stage.some(held) if len(held) else None,
        np.concatenate([trained, held]),
        tuple(status),
        nothing,
        analysis,
    )


def _measured(given: Data, coordinates: Frame, settings: Settings) -> tuple[Curves, np.ndarray]:
    """Expression: curves and what is to be said of each gene."""
    there = np.isfinite(given.y)
    seen = None if np.all(there) else there.astype(float)
    stage = Curves(np.where(there, given.y, 0.0), seen, coordinates, settings.spread)
    fitted = stage.fit(np.ones(len(given.plan.time)))
    status = np.full(len(given.y), "ok", dtype=object)
    status[~fitted.usable] = "constant"
    status[~fitted.determined] = "too_few_values"
    return stage, status


def _counted(
    given: Data,
    matrix: Float[np.ndarray, "n p"],
    coordinates: Frame,
    settings: Settings,
) -> tuple[CountCurves, np.ndarray, Analysis]:
    """Counts: size factors and dispersions from the gene models, then curves."""
    cohort = Pooled(samples(np.ascontiguousarray(given.y.T), matrix))
    fit, sized = deseq.fit(cohort, cells_of(matrix), deseq.Settings(alpha=settings.alpha))
    mean, alpha = fit.gene.base_mean, fit.gene.dispersion
    status = np.full(len(given.y), "ok", dtype=object)
    status[~np.isfinite(alpha)] = "not_fitted"
    status[~(mean >= settings.min_mean)] = "low_count"
    status[~(mean > 0)] = "all_zero"
    offset = np.asarray(sized.rows.offset)[:, 0]  # pyright: ignore[reportAttributeAccessIssue]
    some = np.flatnonzero(status == "ok")
    part = count_curves(given.y[some], offset, alpha[some], coordinates, settings.spread)
    status[some[~np.all(np.isfinite(part.beta), axis=1)]] = "not_fitted"
    beta = np.zeros((len(given.y), part.beta.shape[1]))
    beta[some] = part.beta
    stage = part._replace(y=given.y, alpha=alpha, beta=beta)
    return stage, status, Analysis(fit, sized)


def choose_number(
    given: Data, df: int, numbers: Sequence[int], settings: Settings, *, exact: bool
) -> list[clusters.HeldOut]:
    """Likelihood of left-out genes for several numbers of clusters, of curves with one df."""
    bare = curves_of(given, df, settings)
    t = terms(bare.stage.observed(np.ones(len(given.plan.time))))
    order = np.random.default_rng(settings.seed).permutation(len(t.pull))
    parts = np.array_split(order, FOLDS) if exact else None
    told = []
    for k in numbers:
        try:
            found = clusters.fit(t, k, settings.starts, settings.seed, settings.ridge)
        except ValueError as error:
            raise io.InputError(str(error)) from None
        told.append(clusters.held_out(found, t, parts, settings.ridge))
    return told
