"""``q`` of components as parameters to differentiate in: divergence from the prior, what genes see.

The active components of all blocks lie one after the other. Sticks up to the last active component
of a block are parameters; of those behind it the best is known, ``Beta(1, E c)``, whose divergence
is ``log E c - E log c`` each, and components without genes have their prior for ``q``. Derivatives
are written out: third ones of log-gamma take JAX seconds to compile.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import betaln, digamma, gammaln, polygamma

from expressway._types import Float, Int
from expressway.core.flat import Flat

from .gene_mixtures import Block
from .mixture_response import Natural

# Prior numbers that derivatives are taken in, logarithms of all: mean of the concentration (its
# shape kept) and shape (its mean kept), sd of components' means, shape of the gamma prior of their
# precisions (rate kept), and rate (shape kept).
PRIOR = ("concentration_mean", "concentration_shape", "mean_sd", "shape", "rate")


# Parameters of components' coordinates, of sticks, of concentrations; a coordinate's prior numbers.
ENTRY = ("mean", "log_variance", "log_shape", "log_rate")
STICK = ("log_taken", "log_left")
CONCENTRATION = ("log_concentration_shape", "log_concentration_rate")
NUMBERS = ("mean", "precision", "shape", "rate")


class Fixed(NamedTuple):
    """What is not differentiated in. Axes: e coordinates of components, s sticks, b blocks."""

    mean: Float[np.ndarray, "e"]
    """Of the prior, and so on."""
    precision: Float[np.ndarray, "e"]
    shape: Float[np.ndarray, "e"]
    rate: Float[np.ndarray, "e"]
    concentration: Float[np.ndarray, "b 2"]
    owner: Float[np.ndarray, "a e"]
    """1 where a coordinate is of a component, and so on."""
    taken: Float[np.ndarray, "a s"]
    left: Float[np.ndarray, "a s"]
    """1 where a component's weight has ``1 - v``."""
    of_entry: Float[np.ndarray, "e b"]
    of_stick: Float[np.ndarray, "s b"]
    behind: Float[np.ndarray, "b"]
    """Sticks behind the last active component."""
    order: Int[np.ndarray, "m"]
    """Of natural parameters: from (constants, linear, precision) to those of `curved`."""


class Layout(NamedTuple):
    """Where parameters lie, and what stays as it is."""

    fixed: Fixed
    theta: Flat
    start: Float[np.ndarray, "t"]
    active: tuple[Int[np.ndarray, "_"], ...]
    """Places of the active components of each block."""
    width: tuple[int, ...]
    """Coordinates of each block."""

    def naturals(self, natural: Float[np.ndarray, "m"]) -> tuple[Natural, ...]:
        """What genes see, block by block."""
        found, first = [], 0
        for places, d in zip(self.active, self.width, strict=True):
            size = len(places) * (1 + 2 * d)
            part = natural[first : first + size].reshape(len(places), 1 + 2 * d)
            found.append(Natural(part[:, 0], part[:, 1 : d + 1], part[:, d + 1 :]))
            first += size
        return tuple(found)

    def constants(self) -> list[Int[np.ndarray, "_"]]:
        """Positions of the constants of each block's components: their derivatives are sizes."""
        found, first = [], 0
        for places, d in zip(self.active, self.width, strict=True):
            found.append(first + (1 + 2 * d) * np.arange(len(places)))
            first += len(places) * (1 + 2 * d)
        return found


def layout(blocks: tuple[Block, ...]) -> Layout:
    """Parameters of the active components of some blocks, where they are."""
    theta: dict[str, list[np.ndarray]] = {name: [] for name in ENTRY + STICK + CONCENTRATION}
    numbers: dict[str, list[np.ndarray]] = {name: [] for name in NUMBERS}
    active, width, owner, taken, left = [], [], [], [], []
    of_entry, of_stick, behind = [], [], []
    for block in blocks:
        q, base = block.state.components, block.base
        places = block.state.active()
        d = len(base.mean)
        used = min(int(places[-1]) + 1, base.truncation - 1)
        for name, part in zip(ENTRY, (q.mean, q.variance, q.shape, q.rate), strict=True):
            value = part[places].ravel()
            theta[name].append(value if name == "mean" else np.log(value))
        for name, part in zip(
            NUMBERS, (base.mean, base.precision, base.shape, base.rate), strict=True
        ):
            numbers[name].append(np.tile(part, len(places)))
        for name, part in zip(STICK, (q.taken, q.left), strict=True):
            theta[name].append(np.log(part[:used]))
        for name, value in zip(CONCENTRATION, q.concentration, strict=True):
            theta[name].append(np.log([value]))
        stick = np.arange(used)
        owner.append(np.kron(np.eye(len(places)), np.ones((1, d))))
        taken.append((places[:, None] == stick) * 1.0)
        left.append((places[:, None] > stick) * 1.0)
        of_entry.append(np.ones((len(places) * d, 1)))
        of_stick.append(np.ones((used, 1)))
        behind.append(base.truncation - 1.0 - used)
        active.append(places)
        width.append(d)
    prior = {name: np.concatenate(parts) for name, parts in numbers.items()}
    fixed = Fixed(
        **prior,
        concentration=np.array([block.base.concentration for block in blocks], float),
        owner=_diagonal(owner),
        taken=_diagonal(taken),
        left=_diagonal(left),
        of_entry=_diagonal(of_entry),
        of_stick=_diagonal(of_stick),
        behind=np.array(behind),
        order=_order([len(places) for places in active], width),
    )
    start = {name: np.concatenate(parts) for name, parts in theta.items()}
    flat = Flat(start, "components")
    return Layout(fixed, flat, np.asarray(flat.vector(start)), tuple(active), tuple(width))


def _diagonal(parts: list[np.ndarray]) -> np.ndarray:
    """Matrices along a diagonal."""
    rows, columns = np.sum([part.shape for part in parts], axis=0)
    found, row, column = np.zeros((rows, columns)), 0, 0
    for part in parts:
        found[row : row + len(part), column : column + part.shape[1]] = part
        row, column = row + len(part), column + part.shape[1]
    return found


def _order(count: list[int], width: list[int]) -> np.ndarray:
    components = sum(count)
    entries = sum(a * d for a, d in zip(count, width, strict=True))
    found, component, entry = [], 0, components
    for a, d in zip(count, width, strict=True):
        for _ in range(a):
            own = np.arange(entry, entry + d)
            found.append(np.concatenate([[component], own, own + entries]))
            component, entry = component + 1, entry + d
    return np.concatenate(found)


class _Gamma(NamedTuple):
    """Gamma variables by the logarithms of shape and rate, with derivatives of their moments."""

    shape: np.ndarray
    rate: np.ndarray
    mean: np.ndarray
    log: np.ndarray
    """``E log``."""
    first: np.ndarray
    """``d E log / d log shape``, and again."""
    second: np.ndarray


def _gamma(log_shape: np.ndarray, log_rate: np.ndarray) -> _Gamma:
    shape, rate = np.exp(log_shape), np.exp(log_rate)
    first = shape * polygamma(1, shape)
    second = first + shape**2 * polygamma(2, shape)
    return _Gamma(shape, rate, shape / rate, digamma(shape) - log_rate, first, second)


class _Stick(NamedTuple):
    """``E log v`` and ``E log (1 - v)``, and derivatives in the logarithms of the parameters."""

    taken: np.ndarray
    left: np.ndarray
    own: np.ndarray
    rest: np.ndarray
    own_slope: np.ndarray
    """In taken, left."""
    rest_slope: np.ndarray


def _stick(log_taken: np.ndarray, log_left: np.ndarray) -> _Stick:
    taken, left = np.exp(log_taken), np.exp(log_left)
    both, bend = digamma(taken + left), polygamma(1, taken + left)
    own = np.stack([taken * (polygamma(1, taken) - bend), -left * bend])
    rest = np.stack([-taken * bend, left * (polygamma(1, left) - bend)])
    return _Stick(taken, left, digamma(taken) - both, digamma(left) - both, own, rest)


class First(NamedTuple):
    """At some parameters."""

    divergence: float
    """Of ``q`` from the prior."""
    slope: Float[np.ndarray, "t"]
    natural: Float[np.ndarray, "m"]
    """What genes see, in the order of `curved`."""
    jacobian: Float[np.ndarray, "m t"]
    """Its derivatives."""


class _Theta(NamedTuple):
    """Parameters by name, and where each lies in the vector."""

    mean: np.ndarray
    variance: np.ndarray
    s: _Gamma
    stick: _Stick
    c: _Gamma
    place: dict[str, np.ndarray]


def _theta(t: Float[np.ndarray, "t"], fixed: Fixed) -> _Theta:
    place, begin = {}, 0
    sizes = dict.fromkeys(ENTRY, len(fixed.mean))
    sizes |= dict.fromkeys(STICK, len(fixed.of_stick))
    sizes |= dict.fromkeys(CONCENTRATION, len(fixed.behind))
    for name in sorted(sizes):  # as JAX flattens dictionaries
        place[name] = np.arange(begin, begin + sizes[name])
        begin += sizes[name]
    part = [t[place[name]] for name in ENTRY + STICK + CONCENTRATION]
    return _Theta(
        part[0],
        np.exp(part[1]),
        _gamma(part[2], part[3]),
        _stick(part[4], part[5]),
        _gamma(part[6], part[7]),
        place,
    )


def first(t: Float[np.ndarray, "t"], fixed: Fixed) -> First:
    """Divergence from the prior, natural parameters, and the derivatives of both."""
    at = _theta(t, fixed)
    m, v, s, stick = at.mean, at.variance, at.s, at.stick
    square = m**2 + v
    constant = fixed.owner @ (0.5 * s.log - 0.5 * s.mean * square)
    constant += fixed.taken @ stick.own + fixed.left @ stick.rest
    natural = np.concatenate([constant, s.mean * m, s.mean])
    jacobian = np.zeros((len(natural), len(t)))
    a, e = fixed.owner.shape
    for name, change in (
        ("mean", -s.mean * m),
        ("log_variance", -0.5 * s.mean * v),
        ("log_shape", 0.5 * s.first - 0.5 * s.mean * square),
        ("log_rate", -0.5 + 0.5 * s.mean * square),
    ):
        jacobian[:a, at.place[name]] = fixed.owner * change
    for i, name in enumerate(STICK):
        own, rest = stick.own_slope[i], stick.rest_slope[i]
        jacobian[:a, at.place[name]] = fixed.taken * own + fixed.left * rest
    linear, squares = np.arange(a, a + e), np.arange(a + e, a + 2 * e)
    jacobian[linear, at.place["mean"]] = s.mean
    for name, sign in (("log_shape", 1.0), ("log_rate", -1.0)):
        jacobian[linear, at.place[name]] = sign * s.mean * m
        jacobian[squares, at.place[name]] = sign * s.mean
    return First(*_divergence(at, fixed, len(t)), natural[fixed.order], jacobian[fixed.order])


def _divergence(at: _Theta, fixed: Fixed, size: int) -> tuple[float, np.ndarray]:
    """Of ``q`` from the prior, and its gradient."""
    v, s, stick, c = at.variance, at.s, at.stick, at.c
    p, away = fixed.precision, at.mean - fixed.mean
    found = 0.5 * np.sum(p * (away**2 + v) - 1.0 - np.log(p * v))
    slope = np.zeros(size)
    slope[at.place["mean"]] = p * away
    slope[at.place["log_variance"]] = 0.5 * (p * v - 1.0)
    prior = fixed.concentration
    for q, (a0, b0), names in (
        (s, (fixed.shape, fixed.rate), ENTRY[2:]),
        (c, (prior[:, 0], prior[:, 1]), CONCENTRATION),
    ):
        over = q.shape * b0 / q.rate
        own = (q.shape - a0) * digamma(q.shape) - gammaln(q.shape) + gammaln(a0)
        found += np.sum(own + a0 * np.log(q.rate / b0) + over - q.shape)
        slope[at.place[names[0]]] = (q.shape - a0) * q.first + over - q.shape
        slope[at.place[names[1]]] = a0 - over
    mean = fixed.of_stick @ c.mean
    more, further = stick.taken - 1.0, stick.left - mean
    found += np.sum(more * stick.own + further * stick.rest - betaln(stick.taken, stick.left))
    found += np.sum(fixed.behind * np.log(c.mean) - (fixed.behind + _sticks(fixed)) * c.log)
    for i, name in enumerate(STICK):
        slope[at.place[name]] = more * stick.own_slope[i] + further * stick.rest_slope[i]
    rest = c.mean * (fixed.of_stick.T @ stick.rest)
    slope[at.place[CONCENTRATION[0]]] += fixed.behind - rest
    slope[at.place[CONCENTRATION[0]]] -= (fixed.behind + _sticks(fixed)) * c.first
    slope[at.place[CONCENTRATION[1]]] += _sticks(fixed) + rest
    return float(found), slope


def _sticks(fixed: Fixed) -> Float[np.ndarray, "b"]:
    """Sticks of each block that are parameters."""
    return np.sum(fixed.of_stick, axis=0)


class _Filled:
    """A symmetric matrix that is filled where parameters meet one by one."""

    def __init__(self, size: int, place: dict[str, np.ndarray]) -> None:
        self.matrix = np.zeros((size, size))
        self._place = place

    def add(self, one: str, other: str, values: np.ndarray) -> None:
        """Entries (i, i) of two names, or all (i, j) where values are a matrix."""
        a, b = self._place[one], self._place[other]
        where = np.ix_(a, b) if values.ndim == 2 else (a, b)
        self.matrix[where] += values
        if one != other:
            self.matrix.T[where] += values


def second(
    t: Float[np.ndarray, "t"], weight: Float[np.ndarray, "m"], fixed: Fixed
) -> Float[np.ndarray, "t t"]:
    """Hessian of the divergence less ``weight'natural``."""
    at = _theta(t, fixed)
    a, e = fixed.owner.shape
    plain = np.empty(len(weight))
    plain[fixed.order] = weight
    toward, square = plain[a : a + e], plain[a + e :]
    size = fixed.owner.T @ plain[:a]
    found = _Filled(len(t), at.place)
    m, v, s = at.mean, at.variance, at.s
    p, sn, pull = fixed.precision, s.mean * size, s.mean * (size * m - toward)
    about = s.mean * (0.5 * size * (m**2 + v) - toward * m - square)
    over = s.shape * fixed.rate / s.rate
    found.add("mean", "mean", p + sn)
    found.add("mean", "log_shape", pull)
    found.add("mean", "log_rate", -pull)
    found.add("log_variance", "log_variance", 0.5 * v * (p + sn))
    found.add("log_variance", "log_shape", 0.5 * v * sn)
    found.add("log_variance", "log_rate", -0.5 * v * sn)
    bend = s.shape * s.first + (s.shape - fixed.shape - 0.5 * size) * s.second
    found.add("log_shape", "log_shape", bend + over - s.shape + about)
    found.add("log_shape", "log_rate", -over - about)
    found.add("log_rate", "log_rate", over + about)
    _sticks_second(found, at, fixed, fixed.taken.T @ plain[:a], fixed.left.T @ plain[:a])
    return found.matrix


def _sticks_second(
    found: _Filled,
    at: _Theta,
    fixed: Fixed,
    own: Float[np.ndarray, "s"],
    rest: Float[np.ndarray, "s"],
) -> None:
    """What sticks and concentrations add; own and rest are genes in a stick and behind it."""
    stick, c = at.stick, at.c
    x, y = stick.taken, stick.left
    more = x - 1.0 - own
    further = y - fixed.of_stick @ c.mean - rest
    bend, turn = polygamma(1, x + y), polygamma(2, x + y)
    shared = bend + (more + further) * turn
    for name, z, by in (("log_taken", x, more), ("log_left", y, further)):
        slope = by * polygamma(1, z) - (more + further) * bend
        found.add(name, name, z**2 * (polygamma(1, z) + by * polygamma(2, z) - shared) + z * slope)
    found.add("log_taken", "log_left", -x * y * shared)
    shape, rate = CONCENTRATION
    for name, slope in zip(STICK, stick.rest_slope, strict=True):
        through = (fixed.of_stick * slope[:, None]) * c.mean
        found.add(name, shape, -through)
        found.add(name, rate, through)
    over = c.shape * fixed.concentration[:, 1] / c.rate
    push = c.mean * (fixed.of_stick.T @ stick.rest)
    beyond = c.shape - fixed.concentration[:, 0] - _sticks(fixed) - fixed.behind
    found.add(shape, shape, c.shape * c.first + beyond * c.second + over - c.shape - push)
    found.add(shape, rate, push - over)
    found.add(rate, rate, over - push)


def cross(t: Float[np.ndarray, "t"], fixed: Fixed) -> Float[np.ndarray, "t h b"]:
    """Derivatives of the divergence's gradient in the logarithms of `PRIOR` of each block."""
    at = _theta(t, fixed)
    found = np.zeros((len(t), len(PRIOR), len(fixed.behind)))
    shape, rate = CONCENTRATION
    same = np.arange(len(fixed.behind))
    c, (c_shape, c_rate) = at.c, fixed.concentration.T
    over = c.shape * c_rate / c.rate
    found[at.place[shape], 0, same] = -over
    found[at.place[rate], 0, same] = over
    found[at.place[shape], 1, same] = over - c_shape * c.first
    found[at.place[rate], 1, same] = c_shape - over
    s = at.s
    over = s.shape * fixed.rate / s.rate
    for number, name, values in (
        (2, "mean", -2.0 * fixed.precision * (at.mean - fixed.mean)),
        (2, "log_variance", -fixed.precision * at.variance),
        (3, "log_shape", -fixed.shape * s.first),
        (3, "log_rate", fixed.shape),
        (4, "log_shape", over),
        (4, "log_rate", -over),
    ):
        found[at.place[name], number] = fixed.of_entry * values[:, None]
    return found
