"""Mixtures over the coefficients of all genes at once: one for each block of coordinates.

Gene g has P values ``x_g`` (coefficients and log dispersion) that are seen through a Gaussian
likelihood ``h_g'x - x'L_g x / 2``. A block is one coordinate, with a mixture of its own, or
several that share the mixture's label. ``q`` is a product over blocks: a block sees the others
through their means, ``f_B = h_B - L_B,rest E x_rest``. The evidence lower bound of everything is
coordinate-wise the bound of a block plus what does not depend on it, so that each step and each
move within a block raises the whole.
"""

from typing import NamedTuple

import numpy as np

from expressway._types import Float, Int
from expressway.core.threads import side_by_side

from .dirichlet import Base, Prior, Seen, Values, values
from .mixture_ascent import Mixed, begin, climb, judged, labelled, started
from .split_merge import Failed, search

# Cycles of one block before the others are seen again; a handful, as their means move little.
CYCLES = 8
# Sweeps over blocks, at most, and where there are no moves: then more will follow.
SWEEPS, FEW = 200, 10
# Nats that a sweep must bring for another to follow.
ENOUGH = 0.02
# Components of a random start, at most.
MOST = 8
# Genes whose standard error is above so many medians tell nothing of where estimates lie.
VAGUE = 5.0
# A precision that is none: a standard error of 1e6 in natural logarithms.
NOTHING = 1e-12


class Sites(NamedTuple):
    """Gaussian likelihoods of the values of genes, ``h'x - x'Lx / 2``."""

    field: Float[np.ndarray, "g c"]
    precision: Float[np.ndarray, "g c c"]

    def estimates(self) -> tuple[Float[np.ndarray, "g c"], Float[np.ndarray, "g c"]]:
        """``L⁻¹ h`` and standard errors; very large ones where L is singular."""
        size = np.maximum(np.einsum("gaa->ga", self.precision), NOTHING)
        scale = 1.0 / np.sqrt(size)
        alike = self.precision * scale[:, :, None] * scale[:, None, :]
        # A direction that carries 1e-9 of the information is none.
        inverse = np.linalg.inv(alike + 1e-9 * np.eye(alike.shape[1]))
        covariance = inverse * scale[:, :, None] * scale[:, None, :]
        at = (covariance @ self.field[:, :, None])[:, :, 0]
        return at, np.sqrt(np.einsum("gaa->ga", covariance))

    def shifted(self, center: Float[np.ndarray, "c"]) -> "Sites":
        """For values less a center."""
        return self._replace(field=self.field - self.precision @ center)


class Starts(NamedTuple):
    """Searches from which the best is taken, for each block."""

    number: int = 4
    """The first from one component, the others from up to `MOST` far from each other."""
    seed: int = 0
    """Of the starts and of the genes that cuts are proposed from."""


class Block(NamedTuple):
    """Coordinates that share a label, their mixture, and what genes make of it."""

    coordinates: tuple[int, ...]
    base: Base
    state: Mixed
    values: Values
    inner: Float[np.ndarray, "g"]
    """Expected log density under the mixture plus the entropy of ``q``."""


class Mixtures(NamedTuple):
    """Mixtures of all blocks at an optimum."""

    center: Float[np.ndarray, "c"]
    """Taken off all values: components' means are relative to it."""
    blocks: tuple[Block, ...]
    mean: Float[np.ndarray, "g c"]
    """Of each value."""
    variance: Float[np.ndarray, "g c"]
    """Under ``q``, in which blocks are independent."""
    elbo: float
    """Of the Gaussian likelihoods, up to what does not depend on ``q``."""
    trace: tuple[tuple[str, float], ...]
    """Events and the bound after each."""
    starts: tuple[tuple[int, int, float, int], ...]
    """Block, components at the start, bound of the block, components found."""

    def divergence(self) -> float:
        """Of all components from their prior."""
        return sum(block.state.components.divergence for block in self.blocks)

    def inner(self) -> Float[np.ndarray, "g"]:
        """Expected log density under the mixtures plus entropy, of each gene."""
        return np.sum([block.inner for block in self.blocks], axis=0)


def centers(sites: Sites) -> Float[np.ndarray, "c"]:
    """Where estimates lie: their medians over genes with a usual standard error."""
    at, error = sites.estimates()
    return _over_genes(at, error)[0]


def _over_genes(
    at: Float[np.ndarray, "g c"], error: Float[np.ndarray, "g c"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, standard deviation and median error of each coordinate's estimates."""
    found = []
    for value, own in zip(at.T, error.T, strict=True):
        typical = np.median(own)
        some = own <= VAGUE * typical
        center = np.median(value[some])
        # From quartiles, where a few estimates are at a bound; 1.349 is their distance in a normal.
        quartile = np.subtract(*np.quantile(value[some], [0.75, 0.25])) / 1.349
        spread = min(np.std(value[some]), 3.0 * max(quartile, typical))
        found.append((center, max(spread, typical), typical))
    center, spread, typical = np.array(found).T
    return center, spread, typical


def bases(
    sites: Sites,
    blocks: tuple[tuple[int, ...], ...],
    priors: tuple[Prior, ...],
    center: Float[np.ndarray, "c"],
) -> tuple[Base, ...]:
    """Priors in numbers.

    Parameters
    ----------
    sites
        Of the genes.
    blocks
        Coordinates of each.
    priors
        Of each coordinate; truncation and concentration of a block are those of its first.
    center
        Taken off all values.
    """
    where, spread, error = _over_genes(*sites.estimates())
    mean = np.array([w if p.mean is None else p.mean for p, w in zip(priors, where, strict=True)])
    sd = np.array(
        [2.0 * w if p.mean_sd is None else p.mean_sd for p, w in zip(priors, spread, strict=True)]
    )
    shape = np.array([p.shape for p in priors])
    rate = np.array(
        [p.shape * e**2 if p.rate is None else p.rate for p, e in zip(priors, error, strict=True)]
    )
    found = []
    for block in blocks:
        own, first = list(block), priors[block[0]]
        concentration = (first.concentration_shape, first.concentration_rate)
        found.append(
            Base(
                first.truncation,
                concentration,
                (mean - center)[own],
                1.0 / sd[own] ** 2,
                shape[own],
                rate[own],
            )
        )
    return tuple(found)


def seen_by(block: tuple[int, ...], sites: Sites, mean: Float[np.ndarray, "g c"]) -> Seen:
    """Likelihoods of a block's values, given the means of the others."""
    own = list(block)
    precision = sites.precision[:, own]
    field = sites.field[:, own] - np.einsum("gac,gc->ga", precision, mean)
    inside = precision[:, :, own]
    field += np.einsum("gab,gb->ga", inside, mean[:, own])
    return Seen(
        np.ascontiguousarray(field.T),
        np.ascontiguousarray(np.transpose(inside, (1, 2, 0))),
        np.ones(len(field)),
    )


def _block(coordinates: tuple[int, ...], base: Base, state: Mixed, seen: Seen) -> Block:
    """With the moments of genes."""
    v = values(state.components, seen, state.active())
    inner = v.log_normaliser - np.einsum("ag,ag->g", seen.field, v.mean) + 0.5 * v.quadratic
    return Block(coordinates, base, state, v, inner)


def placed(
    coordinates: tuple[int, ...],
    base: Base,
    state: Mixed,
    sites: Sites,
    mean: Float[np.ndarray, "g c"],
) -> Block:
    """A block whose mixture is known, given the means of the others; both less the center."""
    return _block(coordinates, base, state, seen_by(coordinates, sites, mean))


def _elbo(blocks: list[Block], sites: Sites, mean: Float[np.ndarray, "g c"]) -> float:
    """The bound of everything."""
    total = np.einsum("ga,ga->", sites.field, mean)
    total -= 0.5 * np.einsum("ga,gab,gb->", mean, sites.precision, mean, optimize=True)
    for block in blocks:
        own = list(block.coordinates)
        inside = sites.precision[:, own][:, :, own]
        m = mean[:, own]
        total += 0.5 * np.einsum("ga,gab,gb->", m, inside, m, optimize=True)
        total += np.sum(block.inner - 0.5 * block.values.quadratic)
        total -= block.state.components.divergence
    return float(total)


def fit(
    sites: Sites,
    given: tuple[tuple[int, ...], ...],
    priors: tuple[Prior, ...],
    *,
    start: Starts,
    warm: Mixtures | None = None,
    labels: Int[np.ndarray, "g"] | None = None,
    moves: bool = True,
) -> Mixtures:
    """Mixtures of all blocks, by coordinate ascent with splits and merges.

    Parameters
    ----------
    sites
        Likelihoods of the genes' values.
    given
        Coordinates of each block.
    priors
        Of each coordinate.
    start
        Searches of each block.
    warm
        Mixtures to go on from, of the same blocks: nothing is started then.
    labels
        From which blocks of several coordinates are started once more.
    moves
        Whether components are split and merged on the way.
    """
    center = centers(sites) if warm is None else warm.center
    moved = sites.shifted(center)
    base = bases(sites, given, priors, center)
    told: list[tuple[int, int, float, int]] = []
    if warm is None:
        at, error = moved.estimates()
        own = np.stack([1.0 / b.precision[i] for b in base for i in range(len(b.mean))])
        order = [c for block in given for c in block]
        width = np.zeros(len(order))
        width[order] = own
        # Estimates of genes that know little are drawn to the middle, as any prior would.
        mean = at * (width / (width + error**2))
        blocks, told = _first(moved, given, base, mean, labels, start)
    else:
        mean = warm.mean - center
        blocks = []
        for block, old, b in zip(given, warm.blocks, base, strict=True):
            seen = seen_by(block, moved, mean)
            state = begin(_fitting(old.state, b.truncation).totals, seen, b)
            blocks.append(_block(block, b, state, seen))
    mean = _means(blocks, mean)
    rng = np.random.default_rng(start.seed)
    trace = [("start", _elbo(blocks, moved, mean))]
    failed: list[Failed] = [[] for _ in blocks]
    for _ in range(SWEEPS if moves else FEW):
        before = trace[-1][1]
        _sweep(blocks, moved, mean)
        trace.append(("sweep", _elbo(blocks, moved, mean)))
        if trace[-1][1] - before < ENOUGH and not (
            moves and _moves(blocks, moved, mean, (trace, rng, failed))
        ):
            break
    variance = np.zeros_like(mean)
    for block in blocks:
        variance[:, list(block.coordinates)] = block.values.variance.T
    ordered = tuple(blocks)
    return Mixtures(
        center, ordered, mean + center, variance, trace[-1][1], tuple(trace), tuple(told)
    )


def _fitting(state: Mixed, truncation: int) -> Mixed:
    """A mixture with its components cut, or room for more; those cut are joined to the last."""
    totals = state.totals
    have = len(totals.size)
    if have == truncation:
        return state
    parts = []
    for part in totals:
        new = np.zeros((truncation, *part.shape[1:]))
        keep = min(have, truncation)
        new[:keep] = part[:keep]
        new[keep - 1] += np.sum(part[keep:], axis=0)
        parts.append(new)
    return state._replace(totals=type(totals)(*parts))


def _first(
    sites: Sites,
    given: tuple[tuple[int, ...], ...],
    base: tuple[Base, ...],
    mean: Float[np.ndarray, "g c"],
    labels: Int[np.ndarray, "g"] | None,
    start: Starts,
) -> tuple[list[Block], list[tuple[int, int, float, int]]]:
    """The best of several searches for each block, with the others' values at their estimates."""
    seen = [seen_by(block, sites, mean) for block in given]

    def one(task: tuple[int, int]) -> tuple[int, int, Mixed]:
        i, number = task
        rng = np.random.default_rng([start.seed, i, number + 1])
        if number < 0 and labels is not None:
            begun = labelled(seen[i], base[i], labels)
            return i, len(begun.active()), search(begun, seen[i], base[i], rng).state
        k = 1 if number == 0 else int(rng.integers(2, MOST + 1))
        k = min(k, base[i].truncation)
        return i, k, search(started(seen[i], base[i], k, rng), seen[i], base[i], rng).state

    tasks = [(i, number) for number in range(max(start.number, 1)) for i in range(len(given))]
    if labels is not None:
        tasks += [(i, -1) for i, block in enumerate(given) if len(block) > 1]
    best: dict[int, Mixed] = {}
    told: list[tuple[int, int, float, int]] = []
    for i, k, state in side_by_side(one, tasks):
        told.append((i, k, state.elbo, int(np.sum(state.totals.size > 0.5))))
        if i not in best or state.elbo > best[i].elbo:
            best[i] = state
    return [_block(block, base[i], best[i], seen[i]) for i, block in enumerate(given)], told


def _means(blocks: list[Block], like: Float[np.ndarray, "g c"]) -> Float[np.ndarray, "g c"]:
    mean = np.empty_like(like)
    for block in blocks:
        mean[:, list(block.coordinates)] = block.values.mean.T
    return mean


def _sweep(blocks: list[Block], sites: Sites, mean: Float[np.ndarray, "g c"]) -> None:
    """Some cycles of every block in turn; blocks and means are changed."""
    for i, block in enumerate(blocks):
        seen = seen_by(block.coordinates, sites, mean)
        old = block.state
        state = judged(old.totals, seen, block.base, old.components.precision, old.concentration)
        state = climb(state, seen, block.base, CYCLES, ENOUGH / len(blocks))
        blocks[i] = _block(block.coordinates, block.base, state, seen)
        mean[:, list(block.coordinates)] = blocks[i].values.mean.T


def _moves(
    blocks: list[Block],
    sites: Sites,
    mean: Float[np.ndarray, "g c"],
    kept: tuple[list[tuple[str, float]], np.random.Generator, list[Failed]],
) -> bool:
    """Splits and merges in every block; whether there were any. What is kept is added to."""
    trace, rng, failed = kept
    some = False
    for i, block in enumerate(blocks):
        seen = seen_by(block.coordinates, sites, mean)
        old = block.state
        state = judged(old.totals, seen, block.base, old.components.precision, old.concentration)
        blocks[i] = _block(block.coordinates, block.base, state, seen)
        mean[:, list(block.coordinates)] = blocks[i].values.mean.T
        rest = _elbo(blocks, sites, mean) - state.elbo
        found = search(state, seen, block.base, rng, failed[i])
        trace += [(kind, rest + value) for kind, value in found.events]
        some = some or bool(found.events)
        blocks[i] = _block(block.coordinates, block.base, found.state, seen)
        mean[:, list(block.coordinates)] = blocks[i].values.mean.T
    trace.append(("sweep", _elbo(blocks, sites, mean)))
    return some


def covariance(sites: Sites, found: Mixtures) -> Float[np.ndarray, "g c c"]:
    """Linear-response covariance of each gene's values, components given.

    Blocks are independent under ``q``; their answer to a push of one of them says how they depend
    (Giordano, Broderick & Jordan 2018, JMLR 19:51): ``(diag(1/v) + L - diag L)⁻¹`` with the
    variances v under ``q``, for blocks of one coordinate. Where that is not positive definite,
    ``diag(v)``.
    """
    p = found.mean.shape[1]
    eye = np.eye(p, dtype=bool)
    a = np.where(eye, 0.0, sites.precision)
    a[:, eye] = 1.0 / found.variance
    smallest = np.linalg.eigvalsh(a * np.sqrt(found.variance[:, :, None] * found.variance[:, None]))
    plain = found.variance[:, :, None] * eye
    sure = smallest[:, 0] > 1e-6  # of a matrix with a diagonal of ones
    out = plain.copy()
    out[sure] = np.linalg.inv(a[sure])
    return out
