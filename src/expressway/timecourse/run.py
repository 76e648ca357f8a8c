"""The analysis of a time course, from samples × genes to `Courses`."""

import logging
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import anndata
import numpy as np

from expressway import io
from expressway.io import course_tables as tables
from expressway.io.course_tables import Scheme
from expressway.models import course, timecourse
from expressway.models.clusters import HeldOut
from expressway.models.course import Of
from expressway.models.timecourse import Fold

from .result import Courses
from .steps import (
    DEFAULTS,
    Data,
    OneFit,
    Settings,
    basis_of,
    choose_number,
    data,
    differential,
    fit_one,
    plan,
)

logger = logging.getLogger(__name__)

CV = Literal["both", "jackknife", "exact", "none"]
# By which error the number of columns is chosen: the first of these that was computed.
CHOICE = ("exact", "corrected", "ij")
_ERRORS = ("squared", "absolute")


def analyse(
    adata: anndata.AnnData,
    time: str,
    *,
    df: int | Sequence[int] = (4, 5, 6, 7, 8),
    clusters: int | Sequence[int] = 10,
    group: str | None = None,
    replicate: str | None = None,
    leave_out: int | Sequence[int] = 1,
    of: Of = "times",
    among: Sequence[float | int] | None = None,
    cv: CV = "both",
    test_genes: int = 0,
    counts: bool = False,
    layer: str | None = None,
    settings: Settings = DEFAULTS,
    start: Courses | None = None,
    watch: Callable[[str], None] = lambda _: None,
) -> Courses:
    """See `tl.timecourse`."""
    clock = io.Clock(watch)
    dfs = [df] if isinstance(df, int) else list(df)
    sizes = [leave_out] if isinstance(leave_out, int) else list(leave_out)
    numbers = [clusters] if isinstance(clusters, int) else list(clusters)
    _check(settings, dfs, numbers, of, cv)
    if cv != "none" and not sizes:
        msg = "how many to leave out together is not given; give one, or cv='none'"
        raise io.InputError(msg)
    with clock.stage("design"):
        given_plan = plan(adata, time, group, replicate)
        given = data(adata, given_plan, layer, counts=counts, held=test_genes, seed=settings.seed)
        for each in dfs:
            basis_of(given, each, settings)
        wanted = _folds(given, sizes, of, among, settings) if cv != "none" else []
    told: list[HeldOut] = []
    number = numbers[0]
    if len(numbers) > 1:
        with clock.stage("number of clusters"):
            middle = dfs[len(dfs) // 2]
            told = choose_number(given, middle, numbers, settings, exact=cv != "jackknife")
            number = max(told, key=_likelihood).clusters
    fits, schemes = {}, []
    for each in dfs:
        with clock.stage(f"clusters: df {each}"):
            begin = None
            if start is not None and each in start.fits:
                begin = start.fits[each].found.clusters.mixture
            fits[each] = fit_one(given, each, number, settings, begin, differential=counts)
        with clock.stage(f"cross-validation: df {each}"):
            schemes += [
                _validated(fits[each], size, of, folds, settings, cv) for size, folds in wanted
            ]
    chosen = _chosen(schemes, dfs, cv, settings.information)
    with clock.stage("tests"):
        one = fits[chosen]
        changed = one.differential if one.differential is not None else differential(given, one)
    return Courses(
        given,
        settings,
        fits,
        chosen,
        tables.cv_table(schemes, chosen, settings.information),
        tables.folds_table(schemes, settings.information),
        tables.selection_table(told, number),
        tables.starts_table({each: fits[each].found.clusters for each in dfs}),
        changed,
        clock.seconds,
    )


def _likelihood(one: HeldOut) -> float:
    exact = one.exact
    return float(np.nanmean(one.predicted if exact is None or np.all(np.isnan(exact)) else exact))


def _check(
    settings: Settings, dfs: Sequence[int], numbers: Sequence[int], of: str, cv: str
) -> None:
    """Refuse choices that are none."""
    checks = (
        ("of", of, get_args(Of)),
        ("cv", cv, get_args(CV)),
        ("error", settings.error, _ERRORS),
        ("singular", settings.singular, ("skip", "refuse")),
    )
    for name, got, needed in checks:
        if got not in needed:
            msg = f"{name} must be one of {', '.join(needed)}, but is {got}"
            raise io.InputError(msg)
    if not dfs or not numbers:
        msg = "no df or no number of clusters given; give at least one of each"
        raise io.InputError(msg)
    if len(set(dfs)) > 1 and (settings.kind == "factor" or not isinstance(settings.knots, str)):
        what = "a factor of time has" if settings.kind == "factor" else "with given knots there is"
        msg = f"{what} no df to choose: give one"
        raise io.InputError(msg)
    if len(set(dfs)) > 1 and cv == "none":
        msg = f"choosing among df {', '.join(map(str, dfs))} needs cross-validation: give one df"
        raise io.InputError(msg)
    least = {"spread": 0, "ridge": 0, "starts": 1, "seed": 0, "most_folds": 1, "points": 0}
    for name, bound in least.items():
        if not bound <= (got := getattr(settings, name)) < np.inf:
            msg = f"{name} must be {bound} or more, but is {got}"
            raise io.InputError(msg)
    for name in ("level", "alpha"):
        if not 0 < (got := getattr(settings, name)) < 1:
            msg = f"{name} must lie between 0 and 1, but is {got}"
            raise io.InputError(msg)


def _folds(
    given: Data,
    sizes: Sequence[int],
    of: Of,
    among: Sequence[float | int] | None,
    settings: Settings,
) -> list[tuple[int, list[Fold]]]:
    """Sets of each size to leave out.

    Raises
    ------
    InputError
        There is no such time.
    """
    times = np.unique(given.plan.time)
    if among is None:
        among = [float(t) for t in times if t not in settings.indicators]
    if unknown := [f"{t:g}" for t in among if t not in times]:
        msg = f"no sample is at time {', '.join(unknown)}, to be left out; times are "
        msg += ", ".join(f"{t:g}" for t in times)
        raise io.InputError(msg)
    return [
        (size, course.folds(given.plan, size, of, among, settings.most_folds)) for size in sizes
    ]


def _validated(
    one: OneFit, size: int, of: str, folds: list[Fold], settings: Settings, cv: str
) -> Scheme:
    """Errors without each fold of one size.

    Raises
    ------
    InputError
        A fold makes the design singular, and that is to be refused.
    """
    which = course.regular(one.stage.frame, folds)
    if which.singular:
        fold, eigenvalue = which.singular[0]
        msg = (
            f"df {one.df}: {len(which.singular)} of {len(folds)} folds of {size} {of} cannot be "
            f"left out, the design is singular without them (first: {fold.name}, smallest "
            f"eigenvalue {eigenvalue:.1e})"
        )
        if settings.singular == "refuse":
            raise io.InputError(
                msg + "; lower df, give the times that may be left out, or skip them"
            )
        logger.warning("%s: skipped", msg)
    ask = timecourse.Settings(
        error=settings.error,
        corrected=settings.corrected,
        exact=cv != "jackknife",
        leak=settings.leak,
        ridge=settings.ridge,
    )
    left = timecourse.cross_validate(one.stage, one.found, which.folds, ask, one.test)
    return Scheme(one.df, size, of, left, which.singular)


def _chosen(schemes: Sequence[Scheme], dfs: Sequence[int], cv: str, information: float) -> int:
    """The df with the smallest error, of folds of the first size."""
    if cv == "none" or len(dfs) == 1:
        return dfs[0]
    table = tables.cv_table(schemes, None, information)
    first = table[table["leave_out"].to_numpy() == schemes[0].leave_out]
    for kind in CHOICE:
        error = np.asarray(first[kind], float)
        if np.any(np.isfinite(error)):
            return int(np.asarray(first["df"])[np.nanargmin(error)])
    msg = (
        "no fold can be left out with every df; lower df, give the times that may be left out, or "
        "lower the share of information that must be left"
    )
    raise io.InputError(msg)
