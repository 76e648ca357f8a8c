"""Bases of functions of time: B-splines, natural and cyclic ones, and a column for each time.

Source: de Boor 2001, A Practical Guide to Splines, ch. IX-XIII. Times have the user's unit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import BSpline

from expressway._errors import InputError
from expressway._types import Float

KINDS = ("b-spline", "natural", "cyclic", "factor")
# A fit inverts X'X: at this ratio of its smallest to its largest eigenvalue six digits are left.
SINGULAR = 1e-10


class Basis(NamedTuple):
    """A basis of functions of time; `evaluate` gives its columns at any times."""

    kind: str
    """One of `KINDS`."""
    degree: int
    """Of the pieces; 0 where there is no spline."""
    lower: float
    upper: float
    """Boundary knots; ``upper`` of a cyclic basis is ``lower`` one period later."""
    knots: tuple[float, ...]
    """Interior knots, ascending."""
    indicators: tuple[float, ...]
    """Times, ascending, that have a column of their own and are not part of the spline."""

    @property
    def columns(self) -> int:
        """Number of columns: those of the spline, then one for each indicator time."""
        return _df(self) + len(self.indicators)


def basis(
    times: Float[np.ndarray, "n"],
    df: int | None = None,
    *,
    kind: str = "b-spline",
    degree: int = 3,
    knots: str | Sequence[float | int] = "equal",
    indicators: Sequence[float | int] = (),
    period: float | int | None = None,
) -> Basis:
    """Basis for samples at these times.

    Parameters
    ----------
    times
        Times of the samples, in any order.
    df
        Columns of the spline, the constant among its span: ``degree + 1`` (b-spline), 2
        (natural) or 1 (cyclic) more than the interior knots. Not needed where knots are given.
    kind
        ``"b-spline"``; ``"natural"``, the cubic splines whose second derivative is 0 at both
        boundaries; ``"cyclic"``, the periodic splines, whose ``degree - 1`` derivatives agree at
        the boundaries; ``"factor"``, an indicator for each distinct time and no spline.
    degree
        Of the pieces of a b-spline or cyclic basis, at least 1.
    knots
        Interior knots, or where they go: ``"equal"``, equally spaced between the boundaries, or
        ``"quantile"``, at quantiles of the distinct times. The boundaries are the first and the
        last time that is no indicator; of a cyclic basis the first and a period later.
    indicators
        Times with a column of their own.
    period
        Of a cyclic basis; without one, the range of the times.

    Raises
    ------
    InputError
        If these arguments make no basis, or contradict each other.
    """
    _refuse_arguments(df, kind, degree, knots, period)
    distinct = np.unique(times)
    if not len(distinct) or not np.all(np.isfinite(distinct)):
        msg = "a time is missing or infinite, or there is none; give each sample a finite time"
        raise InputError(msg)
    if kind == "factor":
        return Basis(kind, 0, float(distinct[0]), float(distinct[-1]), (), _tuple(distinct))
    own = np.unique(np.array(indicators, float))
    absent = np.setdiff1d(own, distinct)
    if len(absent):
        msg = f"no sample is at indicator time {_text(absent[0])}; leave it out of the indicators"
        raise InputError(msg)
    rest = np.setdiff1d(distinct, own)
    if len(rest) < 2:
        msg = (
            f"{len(rest)} distinct times besides {len(own)} indicator times; a spline needs at "
            "least 2: give fewer indicator times, or kind 'factor'"
        )
        raise InputError(msg)
    upper = rest[-1] if period is None else rest[0] + period
    bare = Basis(kind, degree, float(rest[0]), float(upper), (), _tuple(own))
    if isinstance(knots, str):
        return bare._replace(knots=_placed(bare, df, knots, rest))
    return bare._replace(knots=_given(bare, df, np.array(knots, float)))


def evaluate(basis: Basis, times: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n d"]:
    """Columns of the basis at these times: the spline's, then one for each indicator time.

    A row at an indicator time is 0 but for that time's column. Of any other row the spline's
    columns sum to 1. A cyclic basis has values at all times.

    Raises
    ------
    InputError
        If a time is outside the boundaries, or not one of the times of a factor.
    """
    at = times[:, None] == np.array(basis.indicators)[None, :]
    rest = ~np.any(at, axis=1)
    _refuse_outside(basis, times[rest])
    df = _df(basis)
    x = np.zeros((len(times), df + at.shape[1]))
    x[:, df:] = at
    if np.any(rest):
        x[rest, :df] = _spline(basis, times[rest])
    return x


def names(basis: Basis) -> list[str]:
    """Names of the columns: ``spline[1]`` …, then ``time[120]`` for each indicator time."""
    spline = [f"spline[{j + 1}]" for j in range(_df(basis))]
    return spline + [f"time[{_text(t)}]" for t in basis.indicators]


def check(basis: Basis, times: Float[np.ndarray, "n"]) -> None:
    """Refuse times of samples that do not determine the coefficients of the basis.

    By Schoenberg and Whitney's theorem (de Boor, ch. XIII) those of B-splines are determined
    where every one of them has a time of its own in its support. That is seen, for all kinds,
    from the eigenvalues of X'X, X being `evaluate` at the times.

    Raises
    ------
    InputError
        If an indicator time has no sample, there are fewer distinct times than columns, the
        smallest eigenvalue is at most `SINGULAR` of the largest, or `evaluate` refuses a time.
    """
    absent = np.setdiff1d(basis.indicators, times)
    if len(absent):
        msg = f"no sample is at time {_text(absent[0])}, which has a column; leave that out"
        raise InputError(msg)
    x = evaluate(basis, times)
    df, own = _df(basis), len(basis.indicators)
    room = len(_distinct(basis, times[~np.isin(times, basis.indicators)]))
    if room < df:
        modulo = f" modulo {_text(basis.upper - basis.lower)}" if basis.kind == "cyclic" else ""
        enough = room >= _least(basis)
        msg = (
            f"the basis has {df + own} columns (df {df} and {own} indicator times), "
            f"the samples have {room + own} distinct times{modulo}; "
            + (f"lower df to {room}" if enough else "take kind 'factor'")
        )
        raise InputError(msg)
    _, singular, right = np.linalg.svd(x, full_matrices=False)
    smallest, largest = singular[-1] ** 2, singular[0] ** 2
    if smallest <= SINGULAR * largest:
        worst = names(basis)[int(np.argmax(np.abs(right[-1])))]
        msg = (
            f"the times do not determine the basis: the smallest eigenvalue of X'X is "
            f"{smallest:.2g}, the largest {largest:.2g}, and {worst} is worst; lower df, or move "
            "the knots to where there are times (knots='quantile')"
        )
        raise InputError(msg)


def _df(basis: Basis) -> int:
    """Columns of the spline."""
    return 0 if basis.kind == "factor" else _least(basis) + len(basis.knots)


def _least(basis: Basis) -> int:
    """Columns of the spline were it without interior knots."""
    return {"b-spline": basis.degree + 1, "natural": 2, "cyclic": 1}[basis.kind]


def _refuse_arguments(
    df: int | None,
    kind: str,
    degree: int,
    knots: str | Sequence[float | int],
    period: float | int | None,
) -> None:
    """Raise for arguments that are wrong whatever the times are."""
    if kind not in KINDS:
        msg = f"kind {kind!r} of basis; take one of {', '.join(KINDS)}"
    elif kind == "factor" and (df is not None or not isinstance(knots, str) or knots != "equal"):
        msg = (
            "df or knots given for kind 'factor', which has a column for each time; leave them out"
        )
    elif kind == "natural" and degree != 3:
        msg = f"degree {degree}, but natural splines are cubic; leave it out or take 'b-spline'"
    elif degree < 1:
        msg = f"degree {degree} of a spline; at least 1 is needed (3 is cubic)"
    elif isinstance(knots, str) and knots not in ("equal", "quantile"):
        msg = f"knots {knots!r}; give 'equal', 'quantile' or the interior knots themselves"
    elif period is not None and kind != "cyclic":
        msg = f"a period for kind {kind!r}; leave it out or take kind 'cyclic'"
    elif period is not None and not 0 < period < np.inf:
        msg = f"period {period}; it must be above 0 and finite"
    elif df is None and isinstance(knots, str) and kind != "factor":
        msg = f"neither df nor knots for kind {kind!r}; give one of them"
    else:
        return
    raise InputError(msg)


def _placed(
    bare: Basis, df: int | None, how: str, times: Float[np.ndarray, "n"]
) -> tuple[float, ...]:
    """Interior knots that make up for ``df`` columns, by a rule."""
    least = _least(bare)
    if df is None or df < least:
        shape = f"a {bare.kind} basis" + (f" of degree {bare.degree}" if least > 2 else "")
        msg = f"df {df} for {shape}, which has at least {least} columns; raise df to {least}"
        raise InputError(msg)
    if how == "equal":
        return _tuple(np.linspace(bare.lower, bare.upper, df - least + 2)[1:-1])
    distinct = _distinct(bare, times)
    if bare.kind == "cyclic":  # the first time comes again at the end of the period
        distinct = np.append(distinct, bare.upper)
    return _tuple(np.quantile(distinct, np.linspace(0, 1, df - least + 2)[1:-1]))


def _given(bare: Basis, df: int | None, knots: Float[np.ndarray, "k"]) -> tuple[float, ...]:
    """The interior knots that were given, if they make a basis."""
    if not np.all(np.diff(np.concatenate(([bare.lower], knots, [bare.upper]))) > 0):
        msg = (
            f"interior knots {', '.join(map(_text, knots))}; they must ascend and lie between "
            f"{_text(bare.lower)} and {_text(bare.upper)}"
        )
        raise InputError(msg)
    columns = _least(bare) + len(knots)
    if df is not None and df != columns:
        msg = f"df {df}, but {len(knots)} interior knots make {columns} columns; leave df out"
        raise InputError(msg)
    return _tuple(knots)


def _refuse_outside(basis: Basis, times: Float[np.ndarray, "m"]) -> None:
    """Raise for times, none of them an indicator time, at which the basis has no value."""
    if basis.kind == "factor":
        inside = np.zeros(len(times), bool)
    elif basis.kind == "cyclic":
        inside = np.isfinite(times)
    else:
        inside = (times >= basis.lower) & (times <= basis.upper)
    if np.all(inside):
        return
    time = _text(times[~inside][0])
    if basis.kind == "factor":
        msg = f"time {time} is none of the {basis.columns} times of the factor; leave it out"
    else:
        msg = (
            f"time {time} is outside {_text(basis.lower)} to {_text(basis.upper)}, where the "
            "spline is defined; leave it out or make it an indicator time"
        )
    raise InputError(msg)


def _spline(basis: Basis, times: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m s"]:
    """Columns of the spline at times for which it is defined, at least one."""
    degree = basis.degree
    if basis.kind == "cyclic":
        knots = _around(basis)
        # The upper boundary among the knots is this sum for a whole period: nothing is beyond it.
        times = basis.lower + _phase(basis, times)
        splines = BSpline.design_matrix(times, knots, degree).toarray()
        df = _df(basis)
        return splines @ np.eye(df)[np.arange(df + degree) % df]
    ends = np.ones(degree + 1)
    knots = np.concatenate((basis.lower * ends, basis.knots, basis.upper * ends))
    splines = BSpline.design_matrix(times, knots, degree).toarray()
    return splines @ _natural(knots) if basis.kind == "natural" else splines


def _natural(knots: Float[np.ndarray, "k"]) -> Float[np.ndarray, "b s"]:
    """Coefficients of cubic B-splines, a column for each function of the natural basis.

    The second derivative at a boundary is 0 where the three coefficients next to it lie on a line
    over their Greville abscissae ``(t[j+1] + t[j+2] + t[j+3]) / 3``. So the outer two coefficients
    follow from the others, by extrapolation over no more than the gap that it is made from.
    """
    greville = (knots[1:-3] + knots[2:-2] + knots[3:-1]) / 3
    free = np.eye(len(greville))[:, 1:-1]
    left, right = np.diff(greville[:3]), np.diff(greville[-3:])
    free[0, :2] += np.array([1.0, 0.0]) + left[0] / left[1] * np.array([1.0, -1.0])
    free[-1, -2:] += np.array([0.0, 1.0]) + right[1] / right[0] * np.array([-1.0, 1.0])
    return free


def _around(basis: Basis) -> Float[np.ndarray, "k"]:
    """Knots of one period and, by periodicity, as many as the degree before and after it."""
    breaks = np.array([basis.lower, *basis.knots])
    index = np.arange(-basis.degree, len(breaks) + basis.degree + 1)
    turn, place = np.divmod(index, len(breaks))
    return breaks[place] + turn * (basis.upper - basis.lower)


def _phase(basis: Basis, times: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    """Time since the last beginning of a period."""
    return np.mod(times - basis.lower, basis.upper - basis.lower)


def _distinct(basis: Basis, times: Float[np.ndarray, "m"]) -> Float[np.ndarray, "_"]:
    """Distinct times, ascending; of a cyclic basis, as they are in the first period."""
    if basis.kind != "cyclic":
        return np.unique(times)
    period = basis.upper - basis.lower
    # Rounding must not make two times of what is one a period later: nine digits of the period.
    digits = 9 - int(np.floor(np.log10(period)))
    phase = _phase(basis, times)
    phase = np.where(np.round(phase, digits) < np.round(period, digits), phase, 0.0)
    _, first = np.unique(np.round(phase, digits), return_index=True)
    return basis.lower + phase[first]


def _tuple(values: Float[np.ndarray, "k"]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _text(time: float) -> str:
    """The shortest decimal that is this time: 120, 0.5."""
    return np.format_float_positional(time, trim="-")
