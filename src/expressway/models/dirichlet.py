"""Dirichlet-process mixtures of normals for estimates whose errors are known.

Truncated stick-breaking: component j of J has weight ``pi_j = v_j prod_{i<j} (1 - v_i)``,
``v_j ~ Beta(1, c)``, ``c ~ Gamma(shape, rate)``. In each of d coordinates its mean is
``mu_j ~ N(m0, sd²)`` and its precision ``s_j ~ Gamma(a0, rate b0)``. Values ``x_g`` of gene g with
label ``z_g = j`` are ``N(mu_j, diag(1/s_j))``. They are seen through a Gaussian likelihood::

    l_g(x) = f_g' x - x' L_g x / 2

(field f, precision L: the estimate is ``L⁻¹ f``, its covariance ``L⁻¹``). The posterior is
approximated by ``prod_g q(x_g, z_g) q(mu) q(s) q(v) q(c)``: a gene's values stay dependent on its
label, so that a component is judged with the values integrated out (coordinate ascent: Blei &
Jordan 2006, Bayesian Analysis 1:121; Hoffman & Blei 2015, AISTATS, for the structure).
"""

from typing import NamedTuple

import numpy as np
from scipy.special import betaln, digamma, gammaln, ndtr

from expressway._types import Float

# Numbers of an array that stays in a core's cache while it is gone over several times.
CACHE = 20_000
LOG_2PI = float(np.log(2 * np.pi))


class Prior(NamedTuple):
    """Prior of a mixture; units are those of coefficients, natural logarithms."""

    truncation: int = 30
    """Components at most."""
    concentration_shape: float = 1.0
    """Of the gamma prior of the concentration, and its rate."""
    concentration_rate: float = 1.0
    mean: float | None = None
    """Of components' means; the average of the gene-wise estimates if None."""
    mean_sd: float | None = None
    """Their standard deviation; twice that of the gene-wise estimates if None."""
    shape: float = 2.0
    """Of the gamma prior of components' precisions (1 / variance), and its rate."""
    rate: float | None = None
    """``shape`` times the median squared standard error of the gene-wise estimates if None: a
    spread that cannot be seen beside errors is expected, none that is wider is forbidden."""


# The prior of the request: precision Gamma(1, rate 2), which forbids tight components.
REQUEST = Prior(30, 1.0, 1.0, 0.0, 2.0**0.5, 1.0, 2.0)


class Base(NamedTuple):
    """Prior of a mixture in d coordinates, in numbers."""

    truncation: int
    concentration: tuple[float, float]
    """Shape and rate."""
    mean: Float[np.ndarray, "d"]
    precision: Float[np.ndarray, "d"]
    """Of components' means."""
    shape: Float[np.ndarray, "d"]
    rate: Float[np.ndarray, "d"]


class Totals(NamedTuple):
    """What components know of genes: sums over genes of responsibilities times moments."""

    size: Float[np.ndarray, "j"]
    first: Float[np.ndarray, "j d"]
    second: Float[np.ndarray, "j d"]

    def order(self) -> np.ndarray:
        """Components by decreasing size."""
        return np.argsort(-self.size, kind="stable")


class Components(NamedTuple):
    """``q(mu) q(s) q(v) q(c)``: normal, gamma, beta, gamma."""

    mean: Float[np.ndarray, "j d"]
    variance: Float[np.ndarray, "j d"]
    shape: Float[np.ndarray, "j d"]
    rate: Float[np.ndarray, "j d"]
    taken: Float[np.ndarray, "i"]
    """First parameter of each stick's beta, i = J - 1, and the second."""
    left: Float[np.ndarray, "i"]
    concentration: tuple[float, float]
    """Shape and rate."""
    divergence: float
    """Kullback-Leibler divergence from their prior."""

    @property
    def precision(self) -> Float[np.ndarray, "j d"]:
        """``E s``."""
        return self.shape / self.rate

    def log_weight(self) -> Float[np.ndarray, "j"]:
        """``E log pi``."""
        both = digamma(self.taken + self.left)
        found = np.zeros(len(self.mean))
        found[:-1] = digamma(self.taken) - both
        found[1:] += np.cumsum(digamma(self.left) - both)
        return found

    def constant(self) -> Float[np.ndarray, "j"]:
        """What a gene's log density under a component has beside its values."""
        s = self.precision
        log_s = digamma(self.shape) - np.log(self.rate)
        each = 0.5 * log_s - 0.5 * s * (self.mean**2 + self.variance)
        return self.log_weight() + np.sum(each, axis=1)


def components(
    totals: Totals,
    base: Base,
    precision: Float[np.ndarray, "j d"],
    concentration: float,
    rounds: int = 3,
) -> Components:
    """``q`` of a mixture given what its components know, by coordinate ascent.

    Parameters
    ----------
    totals
        Of the genes; components in the order of their sticks.
    base
        The prior.
    precision, concentration
        ``E s`` and ``E c`` to start from.
    rounds
        How often each is computed from the others.
    """
    count = totals.size[:, None]
    s, c = precision, concentration
    mean = variance = rate = np.zeros_like(s)
    left, c_rate = np.zeros(0), base.concentration[1]
    c_shape = base.concentration[0] + len(totals.size) - 1
    taken = 1.0 + totals.size[:-1]
    after = np.maximum(np.sum(totals.size) - np.cumsum(totals.size), 0.0)[:-1]
    shape = base.shape + 0.5 * count
    for _ in range(rounds):
        variance = 1.0 / (base.precision + s * count)
        mean = variance * (base.precision * base.mean + s * totals.first)
        about = totals.second - 2.0 * mean * totals.first + count * (mean**2 + variance)
        rate = base.rate + 0.5 * np.maximum(about, 0.0)
        s = shape / rate
        left = c + after
        rest = digamma(left) - digamma(taken + left)
        c_rate = base.concentration[1] - np.sum(rest)
        c = c_shape / c_rate
    found = Components(mean, variance, shape, rate, taken, left, (c_shape, float(c_rate)), 0.0)
    return found._replace(divergence=_divergence(found, base))


def _divergence(q: Components, base: Base) -> float:
    """From `Base` to ``q``: the expectation of ``log q - log prior``."""
    spread = base.precision * ((q.mean - base.mean) ** 2 + q.variance)
    found = 0.5 * np.sum(spread - 1.0 - np.log(base.precision * q.variance))
    found += np.sum(_gamma_divergence(q.shape, q.rate, base.shape, base.rate))
    c_shape, c_rate = q.concentration
    found += np.sum(
        _gamma_divergence(
            np.array(c_shape),
            np.array(c_rate),
            np.array(base.concentration[0]),
            np.array(base.concentration[1]),
        )
    )
    both = digamma(q.taken + q.left)
    own, rest = digamma(q.taken) - both, digamma(q.left) - both
    c, log_c = c_shape / c_rate, digamma(c_shape) - np.log(c_rate)
    found += np.sum((q.taken - 1.0) * own + (q.left - 1.0) * rest - betaln(q.taken, q.left))
    return float(found - np.sum(log_c + (c - 1.0) * rest))


def _gamma_divergence(
    shape: np.ndarray, rate: np.ndarray, shape0: np.ndarray, rate0: np.ndarray
) -> np.ndarray | np.floating:
    """Of gamma distributions, from the second to the first."""
    return (
        (shape - shape0) * digamma(shape)
        - gammaln(shape)
        + gammaln(shape0)
        + shape0 * (np.log(rate) - np.log(rate0))
        + shape * (rate0 / rate - 1.0)
    )


class Seen(NamedTuple):
    """Gaussian likelihoods of the values of genes, ``f'x - x'Lx / 2``."""

    field: Float[np.ndarray, "d g"]
    precision: Float[np.ndarray, "d d g"]
    weight: Float[np.ndarray, "g"]
    """How often a gene counts: once."""

    def some(self, genes: slice | np.ndarray) -> "Seen":
        """Of some genes."""
        return Seen(self.field[:, genes], self.precision[:, :, genes], self.weight[genes])


class Local(NamedTuple):
    """``q(x, z)`` of genes, the best for given components."""

    totals: Totals
    evidence: float
    """Sum over genes of the log normaliser ``log sum_j w_j integral of N_j(x) l(x)``."""


class Values(NamedTuple):
    """Moments of ``q(x, z)`` for each gene."""

    log_normaliser: Float[np.ndarray, "g"]
    responsibility: Float[np.ndarray, "j g"]
    mean: Float[np.ndarray, "d g"]
    variance: Float[np.ndarray, "d g"]
    """Over components too."""
    quadratic: Float[np.ndarray, "g"]
    """``E x'Lx``."""


class _Part(NamedTuple):
    log_normaliser: np.ndarray
    responsibility: np.ndarray
    mean: np.ndarray
    """Of the values under each component, d j g."""
    variance: np.ndarray
    inflation: np.ndarray
    """``tr L (L + diag(s_j))⁻¹``, j g."""


def local(q: Components, seen: Seen, active: Float[np.ndarray, "a"] | np.ndarray) -> Local:
    """Totals and evidence of the genes, given components.

    Parameters
    ----------
    q
        The components.
    seen
        Likelihoods of the genes' values.
    active
        Places of the components that may have genes; the others get none.
    """
    j, d = q.mean.shape
    totals = Totals(np.zeros(j), np.zeros((j, d)), np.zeros((j, d)))
    evidence = 0.0
    for some in _parts(seen, len(active)):
        part = _part(q, seen.some(some), active)
        r = part.responsibility * seen.weight[some]
        evidence += float(part.log_normaliser @ seen.weight[some])
        totals.size[active] += np.sum(r, axis=1)
        for k in range(d):
            mean = part.mean[k]
            totals.first[active, k] += np.einsum("jg,jg->j", r, mean)
            totals.second[active, k] += np.einsum("jg,jg,jg->j", r, mean, mean)
            totals.second[active, k] += np.einsum("jg,jg->j", r, part.variance[k])
    return Local(totals, evidence)


def values(q: Components, seen: Seen, active: np.ndarray) -> Values:
    """Moments of each gene's values and its responsibilities, given components.

    Arguments are those of `local`.
    """
    d, g = seen.field.shape
    found = Values(
        np.zeros(g), np.zeros((len(q.mean), g)), np.zeros((d, g)), np.zeros((d, g)), np.zeros(g)
    )
    for some in _parts(seen, len(active)):
        part = _part(q, seen.some(some), active)
        r = part.responsibility
        found.log_normaliser[some] = part.log_normaliser
        found.responsibility[active, some] = r
        mean = np.einsum("jg,kjg->kg", r, part.mean)
        within = np.einsum("jg,kjg->kg", r, part.variance)
        between = np.einsum("jg,kjg->kg", r, (part.mean - mean[:, None]) ** 2)
        found.mean[:, some], found.variance[:, some] = mean, within + between
        precision = seen.precision[:, :, some]
        square = np.zeros_like(r)
        for a in range(d):
            for b in range(a + 1):
                times = 1.0 if a == b else 2.0
                square += times * precision[a, b] * part.mean[a] * part.mean[b]
        found.quadratic[some] = np.einsum("jg,jg->g", r, square + part.inflation)
    return found


def between(
    q: Components, seen: Seen, active: np.ndarray, low: float, high: float
) -> Float[np.ndarray, "g"]:
    """Probability that a gene's value is in an interval, of mixtures in one coordinate.

    Other arguments are those of `local`.
    """
    found = np.zeros(seen.field.shape[1])
    for some in _parts(seen, len(active)):
        part = _part(q, seen.some(some), active)
        sd = np.sqrt(part.variance[0])
        inside = ndtr((high - part.mean[0]) / sd) - ndtr((low - part.mean[0]) / sd)
        found[some] = np.einsum("jg,jg->g", part.responsibility, inside)
    return found


def _parts(seen: Seen, j: int) -> list[slice]:
    """Genes in portions."""
    g = seen.field.shape[1]
    step = max(CACHE // j, 64)
    return [slice(first, first + step) for first in range(0, g, step)]


def _part(q: Components, seen: Seen, active: np.ndarray) -> _Part:
    """``q(x, z)`` of a portion of the genes.

    Given label j, x has precision ``L + diag(s_j)`` and mean ``(L + diag(s_j))⁻¹ (f + s_j mu_j)``;
    the label's weight has the normaliser of that. Cholesky factors of all genes and components are
    written out, an array for each entry: a call a matrix would take fifty times as long.
    """
    d = len(seen.field)
    s, mu = q.precision[active], q.mean[active]
    lower = _cholesky(seen.precision, s)
    inverse = _inverse(lower)
    half = []  # L⁻¹ (f + s mu)
    for a in range(d):
        row = sum(
            inverse[a][b] * (seen.field[b][None] + (s[:, b] * mu[:, b])[:, None])
            for b in range(a + 1)
        )
        half.append(row)
    log = q.constant()[active][:, None] + sum(0.5 * h * h for h in half)
    for a in range(d):
        log = log + np.log(inverse[a][a])
    mean, variance = [], []
    for a in range(d):
        mean.append(sum(inverse[b][a] * half[b] for b in range(a, d)))
        variance.append(sum(inverse[b][a] ** 2 for b in range(a, d)))
    most = np.max(log, axis=0)
    share = np.exp(log - most)
    total = np.sum(share, axis=0)
    inflation = d - np.einsum("ja,ajg->jg", s, np.asarray(variance))
    return _Part(
        most + np.log(total), share / total, np.asarray(mean), np.asarray(variance), inflation
    )


def _cholesky(precision: np.ndarray, s: np.ndarray) -> list[list[np.ndarray]]:
    """Factors of ``L_g + diag(s_j)``, entry by entry; the diagonal is its reciprocal."""
    d = len(precision)
    lower: list[list[np.ndarray]] = [[] for _ in range(d)]
    for a in range(d):
        for b in range(a + 1):
            rest = precision[a, b][None] - sum(lower[a][c] * lower[b][c] for c in range(b))
            if a == b:
                lower[a].append(1.0 / np.sqrt(rest + s[:, a, None]))
            else:
                lower[a].append(rest * lower[b][b])
    return lower


def _inverse(lower: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Inverses of triangular factors."""
    d = len(lower)
    found: list[list[np.ndarray]] = [[] for _ in range(d)]
    for a in range(d):
        for b in range(a):
            rest = sum(lower[a][c] * found[c][b] for c in range(b, a))
            found[a].append(-lower[a][a] * rest)
        found[a].append(lower[a][a])
    return found
