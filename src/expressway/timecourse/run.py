"""The analysis of a time course, from samples × genes to `Courses`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import anndata
import numpy as np

from expressway import io
from expressway.core.threads import one_each
from expressway.io import course_tables as tables
from expressway.io.course_tables import Scheme
from expressway.models import course, timecourse
from expressway.models.clusters import HeldOut
from expressway.models.course import Of
from expressway.models.curves import SINGULAR, Frame

from .changes import differential
from .result import Courses
from .steps import (
    DEFAULTS,
    Data,
    OneFit,
    Settings,
    basis_of,
    borne,
    choose_number,
    data,
    fit_one,
    frame_of,
    plan,
)

logger = logging.getLogger(__name__)

CV = Literal["both", "jackknife", "exact", "none"]
# By which error the number of columns is chosen: the first of these that was computed.
CHOICE = ("exact", "corrected", "ij")
_ERRORS = ("squared", "absolute")


class _Ask(NamedTuple):
    """What is left out, and what is then computed."""

    of: Of
    among: Sequence[float | int] | None
    cv: str


class _Planned(NamedTuple):
    """Folds of one size."""

    size: int
    which: course.Comparable


@one_each()
def analyse(
    adata: anndata.AnnData,
    time: str,
    *,
    df: int | Sequence[int] | None = None,
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
    sizes = [leave_out] if isinstance(leave_out, int) else list(leave_out)
    numbers = [clusters] if isinstance(clusters, int) else list(clusters)
    if cv != "none" and not sizes:
        msg = "how many to leave out together is not given; give one, or cv='none'"
        raise io.InputError(msg)
    with clock.stage("design"):
        given_plan = plan(adata, time, group, replicate)
        if df is not None and (settings.kind == "factor" or not isinstance(settings.knots, str)):
            what = "a factor of time" if settings.kind == "factor" else "a spline with given knots"
            msg = f"{what} has as many columns as follow from that: give no df"
            raise io.InputError(msg)
        dfs = borne(given_plan, settings) if df is None else [df] if isinstance(df, int) else [*df]
        _check(settings, dfs, numbers, of, cv)
        given = data(adata, given_plan, layer, counts=counts, held=test_genes, seed=settings.seed)
        frames = {each: frame_of(given, basis_of(given, each, settings)) for each in dfs}
        ask = _Ask(of, among, cv)
        wanted = _folds(given, frames, sizes, ask, settings) if cv != "none" else []
    told: list[HeldOut] = []
    number = numbers[0]
    if len(numbers) > 1:
        with clock.stage("number of clusters"):
            middle = dfs[len(dfs) // 2]
            told = choose_number(given, middle, numbers, settings, exact=cv != "jackknife")
            number = max(told, key=_likelihood).clusters
    fits, schemes = {}, []
    for at, each in enumerate(frames):
        with clock.stage(f"clusters: df {each}"):
            begin = None
            if start is not None and each in start.fits:
                begin = start.fits[each].found.clusters.mixture
            fits[each] = fit_one(given, each, number, settings, begin)
        with clock.stage(f"cross-validation: df {each}"):
            schemes += [_validated(fits[each], at, some, ask, settings) for some in wanted]
    chosen = _chosen(schemes, dfs, cv)
    with clock.stage("tests"):
        changed = differential(given, fits[chosen], settings)
    return Courses(
        given,
        settings,
        fits,
        chosen,
        tables.cv_table(schemes, chosen),
        tables.folds_table(schemes),
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
    frames: Mapping[int, Frame],
    sizes: Sequence[int],
    ask: _Ask,
    settings: Settings,
) -> list[_Planned]:
    """Sets of each size to leave out, and those whose errors cannot be compared.

    Raises
    ------
    InputError
        There is no such time, or a fold makes a design singular, and that is to be refused.
    """
    times = np.unique(given.plan.time)
    among = ask.among
    if among is None:
        among = [float(t) for t in times if t not in settings.indicators]
    if unknown := [f"{t:g}" for t in among if t not in times]:
        msg = f"no sample is at time {', '.join(unknown)}, to be left out; times are "
        msg += ", ".join(f"{t:g}" for t in times)
        raise io.InputError(msg)
    found = []
    for size in sizes:
        folds = course.folds(given.plan, size, ask.of, among, settings.most_folds)
        which = course.comparable(list(frames.values()), folds, settings.information)
        _tell(which, size, ask.of, list(frames), settings)
        found.append(_Planned(size, which))
    return found


def _tell(
    which: course.Comparable, size: int, of: str, dfs: Sequence[int], settings: Settings
) -> None:
    """Say which folds are not compared, or refuse those without which a design is singular."""
    if not which.excluded:
        return
    fold, left = min(which.excluded, key=lambda each: float(np.min(each[1])))
    least = float(np.min(left))
    msg = (
        f"{len(which.excluded)} of {len(which.excluded) + len(which.folds)} folds of {size} {of} "
        f"cannot be compared: without {fold.name} the smallest eigenvalue of the design with df "
        f"{dfs[int(np.argmin(left))]} is {least:.1e} of what it was"
    )
    if least <= SINGULAR and settings.singular == "refuse":
        raise io.InputError(msg + "; lower df, give the times that may be left out, or skip them")
    logger.warning("%s", msg)


def _validated(one: OneFit, at: int, planned: _Planned, ask: _Ask, settings: Settings) -> Scheme:
    """Errors without each fold of one size; ``at`` is the place of the df among all."""
    choices = timecourse.Settings(
        error=settings.error,
        corrected=settings.corrected,
        exact=ask.cv != "jackknife",
        leak=settings.leak,
        ridge=settings.ridge,
    )
    left = timecourse.cross_validate(one.stage, one.found, planned.which.folds, choices, one.test)
    excluded = [(fold, float(share[at])) for fold, share in planned.which.excluded]
    return Scheme(one.df, planned.size, ask.of, left, excluded)


def _chosen(schemes: Sequence[Scheme], dfs: Sequence[int], cv: str) -> int:
    """The df with the smallest error, of folds of the first size."""
    if cv == "none" or len(dfs) == 1:
        return dfs[0]
    table = tables.cv_table(schemes, None)
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
