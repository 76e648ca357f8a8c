"""Genes that the plain iteration cannot finish, and how the only peer catches them.

The peer (fedpydeseq2) starts such genes again with a projected quasi-Newton method (Kim, Sra &
Dhillon 2010, SIAM J. Sci. Comput. 32), rebuilt here from its description. Both get our ridge and
our box, so that objectives compare. Sets of genes are simulated from fixed seeds.
"""

import functools
from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import gammaln

from expressway.core.boxed import Boxed
from expressway.core.cohort import Pooled, Samples, samples
from expressway.core.solve import Fit, Status, solve
from expressway.models import nb
from expressway.run import Sites

ENDS = [Status.OK, Status.AT_BOUND]
# Losses are sums of 24 positive rounded terms: 24 × 2e-16 of their sum, 200 times below this.
# Measured: ours are above the peer's by 5e-16 of the loss at most.
ROUNDED = 1e-12
# A loss this far above the minimum is a tenth of a standard error away from it (.1² / 2).
SHORT = 0.005
# Evaluations of ours: 71 at most in 66 such sets of other seeds, 47 here; 200 are allowed.
EVALUATIONS = 100
# The peer's rounds, and what each evaluates.
ROUNDS, STEPS = 100, 20
# A gradient's terms are of order 1 / alpha, up to 1e3 and rounded at 1e-12; in standard errors this
# moves the minimum SE times as far: 1e-11 at this SE. In a flat direction, which little but the
# ridge holds, SE is in the hundreds, and only the objective is as good as pooled.
FIRM = 10.0
# Of each set's 120 genes, how many at least the peer leaves unfinished or SHORT. With two columns
# it leaves none; of the others half of what was measured: 6 and 16, the worst 3.9 and 1571 above.
LEFT = {"groups": 0, "batch": 3, "covariate": 8, "huge": 0}


def designs(name: str, rng: np.random.Generator) -> np.ndarray:
    """Design with the condition last."""
    n = {"batch": 24, "covariate": 16}.get(name, 12)
    i = np.arange(n)
    between = {"batch": [i % 3 == 1, i % 3 == 2], "covariate": [rng.normal(size=n)]}.get(name, [])
    return np.column_stack([np.ones(n), *between, i // 3 % 2]).astype(float)


@functools.cache
def hard(name: str) -> tuple[Samples, np.ndarray, np.ndarray]:
    """Genes of five kinds, twelve each, with dispersions and starts: DESeq2's, then corners at ±15.

    Plain ones; with zeros wherever treated, or wherever not; with one sample above zero; with one
    huge count. Where the set is ``huge``, all but the plain ones are of the last kind, with
    dispersions near 1: there the log-likelihood is the small difference of large terms.
    """
    rng = np.random.default_rng(20 if name == "huge" else 5)
    x = designs(name, rng)
    n, treated = len(x), x[:, -1] == 1
    offset = rng.normal(0, 0.4, (n, 1))
    alpha = np.tile(np.geomspace(0.3 if name == "huge" else 1e-3, n, 12), 5)
    mean = np.exp(offset + rng.uniform(1, 7, 60))
    y = rng.negative_binomial(1 / alpha, 1 / (1 + alpha * mean)).astype(float)
    _, treated_zero, others_zero, single, outlier = np.arange(60).reshape(5, 12)
    if name == "huge":
        outlier = np.arange(12, 60)
    else:
        y[np.ix_(treated, treated_zero)] = 0
        y[np.ix_(~treated, others_zero)] = 0
        y[:, single] = 0
        y[rng.integers(n, size=12), single] = np.tile(10.0 ** np.arange(1, 7), 2)
    y[rng.integers(n, size=len(outlier)), outlier] = 10.0 ** rng.integers(4, 8, len(outlier))
    usual = np.linalg.lstsq(x, np.log(y * np.exp(-offset) + 0.1), rcond=None)[0].T
    far = rng.choice([-15.0, 15.0], usual.shape)
    rows = samples(np.tile(y, 2), x)._replace(offset=offset)
    return rows, np.tile(alpha, 2), np.r_[usual, far]


def objective(beta, alpha, rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss of positive terms only, its gradient and Fisher's information at ``... g p``."""
    mu = np.exp(rows.offset + rows.x @ np.swapaxes(beta, -1, -2))
    over = 1 / (1 + alpha * mu)
    loss = np.log1p(alpha * mu) / alpha + rows.y * np.log1p(1 / (alpha * mu))
    return (
        np.sum(loss, axis=-2) + nb.RIDGE / 2 * np.sum(beta**2, axis=-1),
        np.swapaxes((mu - rows.y) * over, -1, -2) @ rows.x + nb.RIDGE * beta,
        np.einsum("...ng,np,nq->...gpq", mu * over, rows.x, rows.x),
    )


class Caught(NamedTuple):
    """What the peer's scheme ends with, and its rounds."""

    beta: np.ndarray
    done: np.ndarray
    rounds: np.ndarray


@functools.cache
def peer(name: str) -> Caught:
    """The peer's scheme: all steps 2^0 … 2^-19 along a direction a round, the largest that will do.

    Its stop looks at the whole log-likelihood, so what does not depend on beta is added there.
    """
    rows, alpha, start = hard(name)
    r = 1 / alpha
    rest = np.sum(gammaln(r) + gammaln(rows.y + 1) - gammaln(rows.y + r), axis=0)
    beta = np.clip(start, -nb.BOX, nb.BOX)
    at = objective(beta, alpha, rows)
    done, rounds, live = np.zeros(len(beta), bool), np.zeros(len(beta), int), np.arange(len(beta))
    steps = 0.5 ** np.arange(STEPS)[:, None]
    for k in range(ROUNDS):
        now, (loss, gradient, fisher) = beta[live], (field[live] for field in at)
        scale = np.linalg.inv(fisher + 10.0 ** (-6 * k / ROUNDS) * np.eye(beta.shape[1]))
        uphill = gradient
        for _ in range(2):  # frozen: at a bound and led out by the gradient, then by the direction
            free = ~((np.abs(now) >= nb.BOX) & (now * uphill < 0))
            scale *= free[:, :, None] & free[:, None, :]
            uphill = np.einsum("gpq,gq->gp", scale, gradient)
        decrement = np.sum(gradient * uphill, axis=1)
        trial = np.clip(now - steps[:, :, None] * uphill, -nb.BOX, nb.BOX)
        tried = objective(trial, alpha[live], rows._replace(y=rows.y[:, live]))
        good = loss - tried[0] >= 1e-4 * steps * decrement
        rounds[live] += 1
        moves = np.flatnonzero(good.any(axis=0))  # the others have diverged
        first, live = np.argmax(good, axis=0)[moves], live[moves]
        beta[live] = trial[first, moves]
        for whole, part in zip(at, tried, strict=True):
            whole[live] = part[first, moves]
        old, new = loss[moves] + rest[live], at[0][live] + rest[live]
        largest = np.maximum(np.maximum(np.abs(old), np.abs(new)), 1)
        done[live] = np.abs(old - new) / largest < 1e-7
        live = live[~done[live]]
    return Caught(beta, done, rounds)


@functools.cache
def sites(name: str) -> Sites:
    """Three sites: of 1, 4 and all other samples."""
    rows = hard(name)[0]
    parts = np.split(np.arange(len(rows.x)), [1, 5])
    return Sites([Samples(*(np.asarray(field)[part] for field in rows)) for part in parts])


@functools.cache
def ours(name: str, *, pooled: bool) -> Fit:
    rows, alpha, start = hard(name)
    cohort = Pooled(rows) if pooled else sites(name)
    solver, penalty = Boxed(bound=nb.BOX), nb.ridge_likelihood
    return solve(solver, nb.likelihood, start, alpha, cohort, penalty=penalty)


@pytest.mark.parametrize("name", list(LEFT))
def test_every_gene_ends_and_none_above_the_peers(name):
    rows, alpha, _ = hard(name)
    fit, theirs = ours(name, pooled=True), peer(name)
    assert np.all(np.isin(fit.status, ENDS))
    loss, other = (objective(b, alpha, rows)[0] for b in (fit.theta, theirs.beta))
    assert np.all(loss <= other + ROUNDED * loss)
    # Plain genes it finishes from DESeq2's start: the rebuilt scheme is no straw man.
    assert np.all(theirs.done[:12])
    assert np.all((other - loss)[:12] < SHORT)
    left = ~theirs.done | (other - loss > SHORT)
    assert np.sum(left) >= LEFT[name]
    assert np.max(fit.steps) <= EVALUATIONS
    assert np.sum(fit.steps) < np.sum(STEPS * theirs.rounds) / 10


@pytest.mark.parametrize("name", list(LEFT))
def test_sites_give_the_pooled_answers(name):
    rows, alpha, _ = hard(name)
    one, three = ours(name, pooled=True), ours(name, pooled=False)
    np.testing.assert_array_equal(one.status, three.status)
    a, b = (objective(fit.theta, alpha, rows)[0] for fit in (one, three))
    assert np.all(np.abs(a - b) <= ROUNDED * a)
    sums = Pooled(rows).sum(nb.likelihood, one.theta, alpha)
    info = np.asarray(nb.ridge_likelihood(one.theta, alpha, sums).info)
    error = np.sqrt(np.einsum("gpp->gp", np.linalg.inv(info)))
    firm = np.max(error, axis=1) <= FIRM
    assert np.sum(firm) >= len(firm) / 4
    apart = np.abs(one.theta - three.theta)
    # 1e-10: what numbers may depend on where rows lie (test_sites).
    assert np.all(apart[firm] <= 1e-10 * (np.abs(one.theta) + error)[firm])


@pytest.mark.parametrize("name", list(LEFT))
def test_sites_catch_the_pooled_genes(name):
    rows, alpha, start = hard(name)
    genes = np.arange(len(alpha))
    one, three = (nb.coefficients(c, start, alpha, genes) for c in (Pooled(rows), sites(name)))
    np.testing.assert_array_equal(one.boxed, three.boxed)
    np.testing.assert_array_equal(one.status, three.status)
    assert np.sum(one.boxed) >= 10
    assert np.all(np.isin(one.status, ENDS))
    for beta in (one.beta, three.beta):
        loss, other = (objective(b, alpha, rows)[0][one.boxed] for b in (beta, peer(name).beta))
        assert np.all(loss <= other + ROUNDED * loss)
