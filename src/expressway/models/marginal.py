"""The posterior of one coefficient with a Cauchy prior by integration: Laplace's may be rough.

A coefficient of which the data say little has nearly the prior's distribution: a peak narrower than
a normal one and tails that a normal has not. The others are integrated by Laplace's approximation
at each value of the coefficient, its own distribution numerically (Tierney & Kadane 1986, J. Am.
Stat. Assoc. 81:82).
"""

from typing import NamedTuple

import numpy as np

from expressway._types import Float, Int
from expressway.core.boxed import Score
from expressway.core.cohort import Cohort, blocks
from expressway.core.hermite import Interpolant

from . import nb

# Nodes of the likelihood's profile, and how many of its widths from the mode the last ones are.
NODES, REACH = 27, 30.0
# No width is larger than this (natural log): a likelihood that is flat stays so.
WIDEST = 5.0
# Looks at all nodes of a side. At each the other coefficients are at their best to a decrement, of
# which half is taken off, to third order; a node so far above the mode is the last one.
LOOKS, DECREMENT, FAR = 100, 1e-2, 30.0
# Newton's steps of the other coefficients are no longer (natural log): `core.irls.LONG`, twice.
LONG = 2.0
# Points of the integral: about the mode, and about 0, where the prior is narrow.
ABOUT_MODE, ABOUT_ZERO, SPAN = 301, 101, 1e4
# Genes at once where rows are at hand: their nodes' matrices take some ten megabytes.
BLOCK = 512


class Point(NamedTuple):
    """A posterior's highest mode, in units of the prior's scale."""

    theta: Float[np.ndarray, "k p"]
    sd: Float[np.ndarray, "k"]
    """Laplace's, of the first coefficient."""
    alpha: Float[np.ndarray, "k"]


class Wanted(NamedTuple):
    """What of the distribution is wanted."""

    interval: float
    threshold: float
    """In units of the prior's scale."""
    wide: float
    """One over the prior variance of the other coefficients."""
    scale: float
    """Of the prior, natural log."""


class Marginal(NamedTuple):
    """Of the first coefficient of each gene, in units of the prior's scale."""

    lower: Float[np.ndarray, "k"]
    """Quantiles: an interval with equal tails."""
    upper: Float[np.ndarray, "k"]
    lfsr: Float[np.ndarray, "k"]
    """Probability of the sign that is not the mode's, or of a size below the threshold."""


def marginal(cohort: Cohort, point: Point, at: Int[np.ndarray, "k"], wanted: Wanted) -> Marginal:
    """Interval and rate by integration.

    The prior becomes uniform in ``arctan t``, so that what is integrated is the likelihood alone,
    interpolated between its nodes: each costs the rows a look or two.
    """
    size = BLOCK if cohort.at_hand else max(len(at), 1)
    found = []
    for index, count in blocks(len(at), size):
        some = index[:count]
        part = Point(*(a[some] for a in point))
        profile = _profile(cohort, part, at[some], wanted)
        found.append(_integrated(profile, part, wanted))
    return Marginal(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


class _Nodes(NamedTuple):
    """The profile on nodes, ascending; beyond the last one found it goes on straight."""

    t: Float[np.ndarray, "k m"]
    loss: Float[np.ndarray, "k m"]
    slope: Float[np.ndarray, "k m"]
    curvature: Float[np.ndarray, "k m"]
    volume: Float[np.ndarray, "k m"]


def _profile(cohort: Cohort, point: Point, at: Int[np.ndarray, "k"], wanted: Wanted) -> Interpolant:
    """Minus the logarithm of the likelihood, the other coefficients integrated."""
    sums = cohort.sum(nb.likelihood, point.theta, point.alpha, genes=at)
    here = _looked(sums, point.theta, wanted.wide)
    width = 1.0 / np.sqrt(np.maximum(here.curvature, (wanted.scale / WIDEST) ** 2))
    u = np.linspace(-1.0, 1.0, NODES) * np.arcsinh(REACH)
    t = point.theta[:, :1] + width[:, None] * np.sinh(u)
    nodes = _followed(cohort, point, at, wanted, (t, here))
    # The volume's derivatives, by differences along u; it changes slowly.
    stretch = width[:, None] * np.cosh(u)
    rate = np.gradient(nodes.volume, u, axis=1)
    bend = (np.gradient(rate, u, axis=1) - rate * np.tanh(u)) / stretch**2
    return Interpolant(
        t,
        nodes.loss + nodes.volume,
        nodes.slope + rate / stretch,
        nodes.curvature + bend,
        np.full(len(t), NODES - 1),
    )


def _followed(
    cohort: Cohort,
    point: Point,
    at: Int[np.ndarray, "k"],
    wanted: Wanted,
    begin: tuple[Float[np.ndarray, "k m"], "_Looked"],
) -> _Nodes:
    """The profile from the mode outwards, on both sides at once, until it says nothing more.

    At each node the other coefficients begin where their best tends to from the last one.
    """
    t, here = begin
    k = len(point.theta)
    middle = NODES // 2
    nodes = _Nodes(t, *(np.zeros_like(t) for _ in range(4)))
    for whole, part in zip(nodes[1:], here[:4], strict=True):
        whole[:, middle] = part
    # A walker to the left and one to the right for each gene.
    gene, side = np.tile(np.arange(k), 2), np.repeat([-1, 1], k)
    place = np.full(2 * k, middle)
    theta = np.tile(point.theta, (2, 1))

    def ahead(walker: Int[np.ndarray, "w"], looked: _Looked) -> None:
        """Walkers take the next node, from where they looked."""
        place[walker] += side[walker]
        on = t[gene[walker], place[walker]]
        away = on - theta[walker, 0]
        theta[walker, 1:] -= looked.step + looked.lean * away[:, None]
        theta[walker, 0] = on

    active = np.arange(2 * k)
    ahead(active, _Looked(*(np.tile(part, (2,) + (1,) * (part.ndim - 1)) for part in here)))
    for _ in range(LOOKS):
        of = gene[active]
        sums = cohort.sum(nb.likelihood, theta[active], point.alpha[of], genes=at[of])
        looked = _looked(sums, theta[active], wanted.wide)
        good = looked.decrement <= DECREMENT
        for whole, part in zip(nodes[1:], looked[:4], strict=True):
            whole[of[good], place[active[good]]] = part[good]
        longest = np.max(np.abs(looked.step[~good]), axis=1, initial=LONG, keepdims=True)
        theta[active[~good], 1:] -= looked.step[~good] * LONG / longest
        far = looked.loss - here.loss[of] > FAR
        ended = good & (far | (place[active] == np.where(side[active] < 0, 0, NODES - 1)))
        going = good & ~ended
        ahead(active[going], _Looked(*(part[going] for part in looked)))
        active = active[~ended]
        if not len(active):
            break
    # Those that are not through have their last node before.
    place[active] -= side[active]
    return _straight_on(nodes, place.reshape(2, k))


def _straight_on(nodes: _Nodes, last: Int[np.ndarray, "2 k"]) -> _Nodes:
    """Nodes beyond each gene's last ones, to the left and to the right."""
    t, loss, slope, curvature, volume = nodes
    column, rows = np.arange(t.shape[1]), np.arange(len(t))
    for end, beyond in zip(
        last, (column < last[0][:, None], column > last[1][:, None]), strict=True
    ):
        on = (rows, end)
        away = t - t[on][:, None]
        loss = np.where(beyond, loss[on][:, None] + away * slope[on][:, None], loss)
        volume = np.where(beyond, volume[on][:, None], volume)
        curvature = np.where(beyond, 0.0, curvature)
        slope = np.where(beyond, slope[on][:, None], slope)
    return _Nodes(t, loss, slope, curvature, volume)


class _Looked(NamedTuple):
    """What sums at some points say of the profile there."""

    loss: Float[np.ndarray, "m"]
    """With the other coefficients at their best, to third order of the step to it."""
    slope: Float[np.ndarray, "m"]
    curvature: Float[np.ndarray, "m"]
    volume: Float[np.ndarray, "m"]
    """Half the logarithm of the determinant of the others' curvature."""
    decrement: Float[np.ndarray, "m"]
    step: Float[np.ndarray, "m q"]
    """From the others' best."""
    lean: Float[np.ndarray, "m q"]
    """How the others' best moves against the first."""


def _looked(sums: Score, theta: Float[np.ndarray, "m p"], wide: float) -> _Looked:
    """Sums of `nb.likelihood` at points, with the other coefficients' prior."""
    q = theta.shape[1] - 1
    gradient = sums.gradient[:, 1:] + wide * theta[:, 1:]
    info = np.asarray(sums.info)
    cross = info[:, 1:, 0]
    inner = info[:, 1:, 1:] + wide * np.eye(q)
    solved = np.linalg.solve(inner, np.stack([gradient, cross], axis=-1))
    step, lean = solved[..., 0], solved[..., 1]
    decrement = np.sum(step * gradient, axis=1)
    return _Looked(
        loss=sums.loss + 0.5 * wide * np.sum(theta[:, 1:] ** 2, axis=1) - 0.5 * decrement,
        slope=sums.gradient[:, 0] - np.sum(cross * step, axis=1),
        curvature=info[:, 0, 0] - np.sum(cross * lean, axis=1),
        volume=0.5 * np.linalg.slogdet(inner)[1],
        decrement=decrement,
        step=step,
        lean=lean,
    )


def _integrated(profile: Interpolant, point: Point, wanted: Wanted) -> Marginal:
    """Quantiles and rate of the posterior."""
    mode, k = point.theta[:, :1], len(point.sd)
    about = [
        center + spread * np.sinh(np.linspace(-1.0, 1.0, count) * np.arcsinh(SPAN / spread))
        for center, spread, count in (
            (mode, point.sd[:, None], ABOUT_MODE),
            (np.zeros((k, 1)), np.ones((k, 1)), ABOUT_ZERO),
        )
    ]
    angle = np.sort(np.arctan(np.concatenate(about, axis=1)), axis=1)
    t = np.tan(angle)
    inside = np.clip(t, profile.nodes[:, :1], profile.nodes[:, -1:])
    everyone = np.repeat(np.arange(k), t.shape[1])
    loss = profile.at(inside.ravel(), everyone)[0].reshape(t.shape)
    density = np.exp(np.min(loss, axis=1, keepdims=True) - loss)
    mass = 0.5 * (density[:, 1:] + density[:, :-1]) * np.diff(angle, axis=1)
    # Beyond the last point a likelihood that is not 0 is flat.
    first = density[:, :1] * (angle[:, :1] + np.pi / 2)
    last = density[:, -1:] * (np.pi / 2 - angle[:, -1:])
    total = np.cumsum(np.concatenate([np.zeros((k, 1)), first, mass, last], axis=1), axis=1)
    total /= total[:, -1:]
    ends = np.full((k, 1), np.pi / 2)
    angle = np.concatenate([-ends, angle, ends], axis=1)
    low, high = (np.full(k, (1 + side * wanted.interval) / 2) for side in (-1, 1))
    side = np.where(mode[:, 0] < 0, -1.0, 1.0)
    # P(t < T) where the mode is above 0, P(t > -T) where it is below.
    below = _along(angle, total, np.arctan(side * wanted.threshold))
    return Marginal(
        lower=np.tan(_along(total, angle, low)),
        upper=np.tan(_along(total, angle, high)),
        lfsr=np.where(side > 0, below, 1.0 - below),
    )


def _along(
    x: Float[np.ndarray, "k m"], y: Float[np.ndarray, "k m"], at: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "k"]:
    """Linear interpolation of each row; x ascends."""
    right = np.clip(np.sum(x < at[:, None], axis=1), 1, x.shape[1] - 1)
    rows = np.arange(len(at))
    x0, x1 = x[rows, right - 1], x[rows, right]
    y0, y1 = y[rows, right - 1], y[rows, right]
    return y0 + (at - x0) / np.where(x1 > x0, x1 - x0, 1.0) * (y1 - y0)
