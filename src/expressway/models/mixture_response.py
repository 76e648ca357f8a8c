"""How the posterior of genes answers to a push of the components of their mixtures.

What genes see of component j of a block are three natural parameters: a constant ``k_j``, ``t_j =
E(s) E(mu)`` and ``E s_j``, one of each coordinate. With the statistics ``T = (1, x, -x²/2)`` of the
values under the label j, the block's log normaliser

    A(f) = log sum_j integral of exp(k_j + t_j'x - sum_i s_ji x_i² / 2 + f'x - x'L_BB x / 2)

has means of T as derivatives and their covariances as second ones. Blocks see each other through
their means, ``f = h - L_off m`` (`L_off`: L without its diagonal blocks); the bound of a gene is
``m'L_off m / 2 + sum A``, stationary in m where ``m = dA/df``. Its derivatives in natural
parameters, in h and in L are then those with m held; second ones go through

    dm = dm|f + V df,   df = -L_off dm = W dm|f,   W = -L_off (I + V L_off)⁻¹.

Everything is an array over genes.
"""

from typing import NamedTuple

import numpy as np

from expressway._types import Float

# Means of blocks that agree to this share of their standard deviations are at rest.
REST = 1e-11
# Rounds after which they are taken as they are.
ROUNDS = 60


class Natural(NamedTuple):
    """What genes see of the components of a block; a of them, d coordinates."""

    constant: Float[np.ndarray, "a"]
    linear: Float[np.ndarray, "a d"]
    precision: Float[np.ndarray, "a d"]


class Moments(NamedTuple):
    """``q(x, z)`` of a block for each gene."""

    log_normaliser: Float[np.ndarray, "g"]
    share: Float[np.ndarray, "g a"]
    """Responsibilities."""
    mean: Float[np.ndarray, "g a d"]
    """Given the label."""
    covariance: Float[np.ndarray, "g a d d"]
    center: Float[np.ndarray, "g d"]
    """Mean over labels."""
    spread: Float[np.ndarray, "g d d"]
    """Covariance over labels."""

    def statistics(self) -> Float[np.ndarray, "g a q"]:
        """Means of ``T = (1, x, -x²/2)`` given the label."""
        square = self.mean**2 + np.einsum("gaii->gai", self.covariance)
        one = np.ones((*self.share.shape, 1))
        return np.concatenate([one, self.mean, -0.5 * square], axis=2)


class Likelihoods(NamedTuple):
    """Gaussian likelihoods of some genes, apart from what is within blocks and between them."""

    field: Float[np.ndarray, "g c"]
    within: tuple[Float[np.ndarray, "g _ _"], ...]
    between: Float[np.ndarray, "g c c"]
    """``L_off``."""


class Rest(NamedTuple):
    """Genes whose blocks agree."""

    blocks: tuple[Moments, ...]
    mean: Float[np.ndarray, "g c"]
    value: Float[np.ndarray, "g"]
    """Bound of each gene."""
    answer: Float[np.ndarray, "g c c"]
    """``W``: fields of blocks for means that move while fields are held."""


class Curved(NamedTuple):
    """Bound of some genes, its gradient and Hessian in all natural parameters.

    They lie block by block, component by component: constant, linear, precision.
    """

    value: float
    gradient: Float[np.ndarray, "m"]
    hessian: Float[np.ndarray, "m m"]


class Slopes(NamedTuple):
    """Derivatives of a block's moments in its natural parameters and field, others held.

    Covariances are their upper halves (h entries), row by row.
    """

    mean: Float[np.ndarray, "g d m"]
    spread: Float[np.ndarray, "g h m"]
    spread_field: Float[np.ndarray, "g h d"]


class Tilted(NamedTuple):
    """The same along a push of a block's constants, gene by gene."""

    share: Float[np.ndarray, "g a"]
    mean: Float[np.ndarray, "g d"]
    spread: Float[np.ndarray, "g h"]


def likelihoods(
    field: Float[np.ndarray, "g c"],
    precision: Float[np.ndarray, "g c c"],
    blocks: tuple[tuple[int, ...], ...],
) -> Likelihoods:
    """Precisions within blocks and between them."""
    between = precision.copy()
    within = []
    for block in blocks:
        own = np.ix_(range(len(field)), block, block)
        within.append(precision[own])
        between[own] = 0.0
    return Likelihoods(field, tuple(within), between)


def moments(
    natural: Natural, field: Float[np.ndarray, "g d"], within: Float[np.ndarray, "g d d"]
) -> Moments:
    """Moments of a block, given the field of the others."""
    d = field.shape[1]
    whole = within[:, None] + natural.precision[:, :, None] * np.eye(d)
    if d == 1:  # a call for each matrix would take twenty times as long
        covariance = 1.0 / whole
        log_det = np.log(whole[:, :, 0, 0])
    else:
        covariance = np.linalg.inv(whole)
        log_det = np.linalg.slogdet(whole)[1]
    toward = field[:, None] + natural.linear
    mean = np.einsum("gaij,gaj->gai", covariance, toward)
    log = natural.constant + 0.5 * (np.einsum("gai,gai->ga", mean, toward) - log_det)
    most = np.max(log, axis=1, keepdims=True)
    share = np.exp(log - most)
    total = np.sum(share, axis=1, keepdims=True)
    share /= total
    center = np.einsum("ga,gai->gi", share, mean)
    off = mean - center[:, None]
    spread = np.einsum("ga,gai,gaj->gij", share, off, off)
    spread += np.einsum("ga,gaij->gij", share, covariance)
    return Moments((most + np.log(total))[:, 0], share, mean, covariance, center, spread)


def at_rest(
    naturals: tuple[Natural, ...],
    blocks: tuple[tuple[int, ...], ...],
    seen: Likelihoods,
    start: Float[np.ndarray, "g c"],
) -> Rest:
    """Genes with the means of blocks at the optimum nearest to a start.

    Each round goes over the blocks in turn, which never lowers the bound, and then takes Newton's
    step for ``m = dA/df`` where that brings means of blocks nearer to each other.
    """
    mean = start.copy()
    parts, _, size = _apart(naturals, blocks, seen, mean)
    moving = np.flatnonzero(size > REST)
    again = len(moving) > 0
    for _ in range(ROUNDS):
        if not len(moving):
            break
        some = _some(seen, moving)
        trial = mean[moving]
        for natural, block, within in zip(naturals, blocks, some.within, strict=True):
            own = list(block)
            field = some.field[:, own] - np.einsum("gic,gc->gi", some.between[:, own], trial)
            trial[:, own] = moments(natural, field, within).center
        found, off, size = _apart(naturals, blocks, some, trial)
        c = mean.shape[1]
        step = np.linalg.solve(
            np.eye(c) + _diagonal(found, blocks, c) @ some.between, off[:, :, None]
        )[:, :, 0]
        _, _, ahead = _apart(naturals, blocks, some, trial - step)
        mean[moving] = np.where((ahead < size)[:, None], trial - step, trial)
        moving = moving[np.minimum(ahead, size) > REST]
    if again:
        parts, _, _ = _apart(naturals, blocks, seen, mean)
    v = _diagonal(parts, blocks, mean.shape[1])
    inner = np.eye(mean.shape[1]) + seen.between @ v  # (I + V L_off)', as both are symmetric
    answer = -np.linalg.solve(inner, seen.between)
    value = 0.5 * np.einsum("ga,gab,gb->g", mean, seen.between, mean)
    for part in parts:
        value += part.log_normaliser
    return Rest(parts, mean, value, answer)


def _some(seen: Likelihoods, genes: np.ndarray) -> Likelihoods:
    if len(genes) == len(seen.field):
        return seen
    return Likelihoods(
        seen.field[genes], tuple(each[genes] for each in seen.within), seen.between[genes]
    )


def _apart(
    naturals: tuple[Natural, ...],
    blocks: tuple[tuple[int, ...], ...],
    seen: Likelihoods,
    mean: Float[np.ndarray, "g c"],
) -> tuple[tuple[Moments, ...], np.ndarray, np.ndarray]:
    """Moments in the fields that means make, by what means differ, and in standard deviations."""
    field = seen.field - np.einsum("gab,gb->ga", seen.between, mean)
    parts = tuple(
        moments(natural, field[:, list(block)], within)
        for natural, block, within in zip(naturals, blocks, seen.within, strict=True)
    )
    off = np.empty_like(mean)
    size = np.zeros(len(mean))
    for part, block in zip(parts, blocks, strict=True):
        own = list(block)
        off[:, own] = mean[:, own] - part.center
        sd = np.sqrt(np.einsum("gii->gi", part.spread))
        size = np.maximum(size, np.max(np.abs(off[:, own]) / sd, axis=1))
    return parts, off, size


def _diagonal(
    parts: tuple[Moments, ...], blocks: tuple[tuple[int, ...], ...], c: int
) -> Float[np.ndarray, "g c c"]:
    """``V``, block diagonal."""
    v = np.zeros((len(parts[0].center), c, c))
    for part, block in zip(parts, blocks, strict=True):
        v[np.ix_(range(len(v)), block, block)] = part.spread
    return v


def _moved_means(part: Moments, statistics: np.ndarray) -> Float[np.ndarray, "g d m"]:
    """``dm|f``: derivatives of a block's means in its own natural parameters."""
    off = part.mean - part.center[:, None]
    found = off[:, :, :, None] * statistics[:, :, None, :]
    d = off.shape[2]
    found[..., 1 : d + 1] += part.covariance
    found[..., d + 1 :] -= part.covariance * part.mean[:, :, None, :]
    found *= part.share[:, :, None, None]
    return found.transpose(0, 2, 1, 3).reshape(len(off), d, -1)


def curved(rest: Rest, blocks: tuple[tuple[int, ...], ...]) -> Curved:
    """Sums over genes of the bound and its derivatives in natural parameters."""
    rows, places, gradient = [], [], []
    width = sum(part.share.shape[1] * (1 + 2 * part.mean.shape[2]) for part in rest.blocks)
    hessian = np.zeros((width, width))
    for part in rest.blocks:
        tau = part.statistics()
        rows.append(_moved_means(part, tau))
        begin = places[-1].stop if places else 0
        place = slice(begin, begin + rows[-1].shape[2])
        places.append(place)
        weighted = (part.share[:, :, None] * tau).reshape(len(tau), -1)
        gradient.append(np.sum(weighted, axis=0))
        hessian[place, place] = _covariances(part, tau) - weighted.T @ weighted
    for i, one in enumerate(blocks):
        for j, other in enumerate(blocks[: i + 1]):
            through = rest.answer[:, list(one)][:, :, list(other)]
            left = rows[i].reshape(-1, rows[i].shape[2])
            right = (through @ rows[j]).reshape(len(left), -1)
            product = left.T @ right
            hessian[places[i], places[j]] += product
            if i != j:
                hessian[places[j], places[i]] += product.T
    return Curved(float(np.sum(rest.value)), np.concatenate(gradient), hessian)


def _covariances(part: Moments, tau: Float[np.ndarray, "g a q"]) -> Float[np.ndarray, "m m"]:
    """Sums over genes of ``share E(T T')`` given each label, on the diagonal."""
    a, q = tau.shape[1:]
    d = part.mean.shape[2]
    share, mean, c = part.share, part.mean, part.covariance
    each = np.einsum("ga,gai,gaj->aij", share, tau, tau, optimize=True)
    linear, square = slice(1, d + 1), slice(d + 1, q)
    each[:, linear, linear] += np.einsum("ga,gaij->aij", share, c)
    cross = np.einsum("ga,gaij,gaj->aij", share, c, mean, optimize=True)
    each[:, linear, square] -= cross
    each[:, square, linear] -= cross.transpose(0, 2, 1)
    each[:, square, square] += 0.5 * np.einsum("ga,gaij,gaij->aij", share, c, c, optimize=True)
    each[:, square, square] += np.einsum(
        "ga,gai,gaij,gaj->aij", share, mean, c, mean, optimize=True
    )
    found = np.zeros((a, q, a, q))
    found[range(a), :, range(a), :] = each
    return found.reshape(a * q, a * q)


def slopes(part: Moments) -> Slopes:
    """Third derivatives of a block's log normaliser too: how its covariance moves."""
    tau = part.statistics()
    off = part.mean - part.center[:, None]
    d = off.shape[2]
    row, column = np.triu_indices(d)
    both = off[:, :, row] * off[:, :, column] + part.covariance[:, :, row, column]
    both -= part.spread[:, None, row, column]
    # In the order g a h i: statistics of a component last.
    tilt = (
        part.covariance[:, :, row] * off[:, :, column, None]
        + part.covariance[:, :, column] * off[:, :, row, None]
    )
    found = both[:, :, :, None] * tau[:, :, None, :]
    found[..., 1 : d + 1] += tilt
    found[..., d + 1 :] -= part.mean[:, :, None] * tilt
    found[..., d + 1 :] -= part.covariance[:, :, row] * part.covariance[:, :, column]
    found *= part.share[:, :, None, None]
    field = np.sum(found[..., 1 : d + 1], axis=1)
    spread = found.transpose(0, 2, 1, 3).reshape(len(off), len(row), -1)
    return Slopes(_moved_means(part, tau), spread, field)


def tilted(part: Moments, push: Float[np.ndarray, "_ a"]) -> Tilted:
    """Derivatives along a push of constants."""
    share = part.share * (push - np.sum(part.share * push, axis=1, keepdims=True))
    row, column = np.triu_indices(part.mean.shape[2])
    off = part.mean - part.center[:, None]
    both = off[:, :, row] * off[:, :, column] + part.covariance[:, :, row, column]
    spread = np.einsum("ga,gah->gh", share, both)
    return Tilted(share, np.einsum("ga,gai->gi", share, part.mean), spread)


def pushed(
    rest: Rest, blocks: tuple[tuple[int, ...], ...], number: int, push: Float[np.ndarray, "_ a"]
) -> Float[np.ndarray, "m"]:
    """Derivatives in all natural parameters of what a push of a block's constants measures.

    By symmetry of second derivatives: sums over genes of how means of T answer to that push.
    """
    first = tilted(rest.blocks[number], push)
    own = list(blocks[number])
    field = np.einsum("gab,gb->ga", rest.answer[:, :, own], first.mean)
    found = []
    for i, (part, block) in enumerate(zip(rest.blocks, blocks, strict=True)):
        tau = part.statistics()
        moved = np.einsum("gim,gi->m", _moved_means(part, tau), field[:, list(block)])
        if i == number:
            moved = moved + np.einsum("ga,gaq->aq", first.share, tau).ravel()
        found.append(moved)
    return np.concatenate(found)
