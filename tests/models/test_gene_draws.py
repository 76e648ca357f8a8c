"""Draws of coefficients of genes, their covariance, and ranks, against dense loops and theory."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest
from scipy import special, stats

from expressway._errors import InputError
from expressway.core import linear
from expressway.core.cohort import Pooled, Samples, samples
from expressway.core.lowrank import LowRank
from expressway.models import deseq, gene_draws, gene_ranks, nb
from expressway.models.cells import groups
from expressway.models.gene_covariance import Drawn, Normal, normal
from expressway.models.gene_draws import draws
from expressway.models.gene_ranks import Choices

KEY = jax.random.key(7)
N, G = 16, 150
DONOR = np.repeat([f"d{i}" for i in range(8)], 2)


class Case(NamedTuple):
    rows: Samples
    fit: deseq.DESeqFit
    cohort: Pooled
    joint: nb.MaximumLikelihood


@functools.cache
def case() -> Case:
    """Two conditions and a covariate; gene 3 has no counts, gene 5 none in one condition."""
    rng = np.random.default_rng(2)
    x = np.column_stack([np.ones(N), np.arange(N) % 2, rng.normal(size=N)])
    beta = np.column_stack([rng.uniform(2, 6, G), rng.normal(0, 0.5, (G, 2))])
    alpha = np.exp(rng.normal(-2, 0.5, G))
    alpha[7] = 1e-9
    y = rng.negative_binomial(1 / alpha, 1 / (1 + alpha * np.exp(x @ beta.T))).astype(float)
    y[:, 3] = 0
    y[x[:, 1] == 1, 5] = 0
    rows = samples(y, x)
    settings = deseq.Settings(size_factors="poscounts")
    fit, cohort = deseq.fit(Pooled(rows), groups(x), settings)
    return Case(rows, fit, cohort, nb.fit(cohort))


def squared(theta: np.ndarray, center: np.ndarray, covariance: np.ndarray) -> float:
    """Likelihood-ratio statistic of a covariance: chi-square of q (q + 1) / 2 freedoms."""
    away = theta - center
    n, q = away.shape
    ratio = np.linalg.solve(covariance, away.T @ away / n)
    return n * (np.trace(ratio) - np.linalg.slogdet(ratio)[1] - q)


@pytest.mark.parametrize(
    "kind", [pytest.param("fisher", marks=pytest.mark.slow), "hessian", "sandwich"]
)
def test_covariance_of_draws_is_the_one_that_is_meant(kind):
    c = case()
    genes = np.array([0, 1, 64, 130])
    for fit in (c.fit, c.joint):
        of = normal(fit, kind, cohort=c.cohort, genes=genes)
        found = draws(fit, KEY, 20_000, kind=kind, cohort=c.cohort, genes=genes)
        q = of.center.shape[1]
        assert found.theta.shape == (20_000, 4, q)
        statistic = [
            squared(found.theta[:, i], of.center[i], of.covariance[i]) for i in range(len(genes))
        ]
        # One test of all genes: a right covariance fails with probability 1e-4, and the key is
        # fixed; a variance that is off by 5 % gives 50 more.
        assert sum(statistic) < stats.chi2.isf(1e-4, len(genes) * q * (q + 1) / 2)
        error = np.sqrt(np.einsum("gqq->gq", of.covariance) / 20_000)
        # 16 numbers within 4.5 standard errors.
        assert np.all(np.abs(found.theta.mean(axis=0) - of.center) < 4.5 * error)


def test_fisher_of_deseq_is_the_covariance_of_its_standard_errors():
    c = case()
    of = normal(c.fit)
    there = of.status == Drawn.OK
    assert there.sum() == G - 1
    np.testing.assert_array_equal(of.covariance[there], c.fit.gene.covariance[there])


def explicit(c: Case, gene: int, labels: np.ndarray) -> np.ndarray:
    """Sandwich of one gene of DESeq2's estimating equation, sample by sample."""
    y, x = c.rows.y[:, gene], c.rows.x
    alpha, beta = c.fit.gene.dispersion[gene], c.fit.gene.beta[gene]
    eta = np.asarray(c.cohort.rows.offset)[:, 0] + x @ beta
    h, scores = nb.RIDGE * np.eye(3), {}
    for n in range(N):
        mu = np.exp(eta[n])
        m = max(mu, 0.5)
        w = m / (1 + alpha * m)
        score = w * np.log(m / mu) + (y[n] - m) / (1 + alpha * m)
        bend = w if mu < 0.5 else w * (1 + alpha * y[n]) / (1 + alpha * m)
        h += bend * np.outer(x[n], x[n])
        scores[labels[n]] = scores.get(labels[n], 0) + score * x[n]
    b = sum(np.outer(s, s) for s in scores.values())
    return np.linalg.inv(h) @ b @ np.linalg.inv(h)


def explicit_joint(c: Case, gene: int, labels: np.ndarray) -> np.ndarray:
    """Sandwich of one gene of the likelihood of coefficients and log dispersion."""
    y, x = c.rows.y[:, gene], c.rows.x
    r = np.exp(-c.joint.log_alpha[gene])
    mu = np.exp(np.asarray(c.cohort.rows.offset)[:, 0] + x @ c.joint.beta[gene])
    scores = {}
    for n in range(N):
        left = (y[n] - mu[n]) / (1 + mu[n] / r)
        ratio = special.digamma(y[n] + r) - special.digamma(r)
        last = r * (np.log1p(mu[n] / r) - ratio) + left
        scores[labels[n]] = scores.get(labels[n], 0) + np.append(left * x[n], last)
    b = sum(np.outer(s, s) for s in scores.values())
    inverse = np.linalg.inv(c.joint.information[gene])
    return inverse @ b @ inverse


@pytest.mark.parametrize("clusters", [None, DONOR])
def test_sandwich_equals_a_loop_over_samples(clusters):
    c = case()
    genes = np.array([0, 5, 40])  # the second one has raised means
    labels = np.arange(N) if clusters is None else clusters
    for fit, loop in ((c.fit, explicit), (c.joint, explicit_joint)):
        some = genes if fit is c.fit else np.array([0, 1, 40])
        of = normal(fit, "sandwich", cohort=c.cohort, genes=some, clusters=clusters)
        for i, gene in enumerate(some):
            expected = loop(c, gene, labels)
            # Sums of 16 terms, and an inverse of condition 1e3.
            np.testing.assert_allclose(
                of.covariance[i], expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max()
            )


def test_expected_information_on_dispersion_equals_its_sum():
    """Against the series ``sum_j P(y > j) / (r + j)²`` for trigamma's expectation."""
    c = case()
    some = np.array([0, 1, 40])
    of = normal(c.joint, "fisher", cohort=c.cohort, genes=some)
    for i, gene in enumerate(some):
        r = np.exp(-c.joint.log_alpha[gene])
        mu = np.exp(np.asarray(c.cohort.rows.offset)[:, 0] + c.rows.x @ c.joint.beta[gene])
        j = np.arange(60_000)
        tail = [stats.nbinom.sf(j, r, r / (r + m)) @ (r + j) ** -2.0 for m in mu]
        expected = r**2 * np.sum(tail) - np.sum(mu / (1 + mu / r))
        # The series loses some digits to scipy's tails.
        np.testing.assert_allclose(of.covariance[i, 3, 3], 1 / expected, rtol=1e-8)
        assert np.all(of.covariance[i, 3, :3] == 0)
    there = of.status == Drawn.OK
    assert there.all()


def test_genes_without_a_distribution_are_nan_and_stop_no_other():
    c = case()
    found = draws(c.fit, KEY, 5)
    assert list(np.flatnonzero(np.isnan(found.theta).any(axis=(0, 2)))) == [3]
    assert found.status[3] == Drawn.NO_FIT
    assert c.joint.flat[7]
    information = c.joint.information.copy()
    information[11] = -information[11]
    information[12, 0] = information[12, :, 0] = information[12, 1]  # singular
    bad = c.joint._replace(information=information)
    found = draws(bad, KEY, 5, kind="hessian")
    assert list(found.status[[3, 7, 11]]) == [Drawn.NO_FIT, Drawn.HELD, Drawn.NOT_DEFINITE]
    assert found.status[12] == Drawn.NOT_DEFINITE
    assert np.isnan(found.theta[:, [3, 11, 12]]).all()
    assert np.all(found.theta[:, 7, 3] == c.joint.log_alpha[7])
    rest = np.setdiff1d(np.arange(G), [3, 11, 12])
    np.testing.assert_array_equal(
        found.theta[:, rest], draws(c.joint, KEY, 5, kind="hessian").theta[:, rest]
    )


def test_subsets_and_portions_do_not_change_draws(monkeypatch):
    c = case()
    whole = draws(c.fit, KEY, 9)
    for genes in ([130], [149, 2, 66, 2], np.arange(60, 80)):
        some = draws(c.fit, KEY, 9, genes=np.array(genes))
        np.testing.assert_array_equal(some.theta, whole.theta[:, genes])
    monkeypatch.setattr(gene_draws, "SCRATCH", 100)  # three genes at once
    monkeypatch.setattr(gene_draws, "side_by_side", lambda fn, items: [fn(i) for i in items])
    np.testing.assert_array_equal(draws(c.fit, KEY, 9).theta, whole.theta)
    other = draws(c.fit, jax.random.key(8), 9).theta
    assert np.all(other[:, 0] != whole.theta[:, 0])
    contrast = np.array([0.0, 1.0, -1.0])
    # Products of three terms, added in another order.
    np.testing.assert_allclose(
        whole.along(contrast)[:, 0], whole.theta[:, 0] @ contrast, rtol=1e-12
    )


def test_low_rank_covariances_are_drawn_exactly():
    """The root of ``diag(d) + F K F'``, of columns 1 and 2 with d = 0: its square is the matrix."""
    rng = np.random.default_rng(4)
    g, p, q = 3, 9, 2
    border = np.array([1, 2])
    d = rng.uniform(0.5, 2, (g, p))
    d[:, border] = 0
    u = rng.normal(size=(g, p, q))
    u[:, border] = np.eye(2)
    k = np.linalg.inv(np.eye(q) + 0.3)[None].repeat(g, axis=0)
    factor = np.concatenate([u, d[:, :, None] * u], axis=2)
    core = np.block([[k, -0.01 * k], [-0.01 * k, np.zeros_like(k)]])
    a = LowRank(d, factor, core)
    dense = factor @ core @ factor.swapaxes(1, 2)
    np.einsum("gpp->gp", dense)[:] += d
    root = np.empty((g, p, p))
    gene_draws._low_rank(a).times(slice(0, g), np.eye(p)[None].repeat(g, axis=0), root)
    # Rounding of a handful of products.
    np.testing.assert_allclose(root @ root.swapaxes(1, 2), dense, rtol=1e-11, atol=1e-12)
    c = np.arange(p, dtype=float)
    of = gene_ranks.along(Normal(np.zeros((g, p)), a, np.zeros(g, int)), c)
    np.testing.assert_allclose(of.se**2, linear.quadratic(dense, c), rtol=1e-11)


def test_ranks_are_those_of_a_direct_simulation():
    rng = np.random.default_rng(5)
    mean, sd = np.array([3.0, 2.5, -2.8, 0.0, np.nan, 1.0]), np.array([0.5, 0.5, 1.0, 2.0, 1, 0.2])
    choices = Choices(draws=10_000, top=2, level=0.8)
    who = np.flatnonzero(np.isfinite(mean))
    value = mean[who] + sd[who] * rng.normal(size=(10_000, 5))
    for by, key in (("magnitude", -np.abs(value)), ("up", -value), ("down", value)):
        found = gene_ranks.ranks(gene_ranks.Estimates(mean, sd), KEY, choices._replace(by=by))
        place = 1 + np.argsort(np.argsort(key, axis=1), axis=1)
        assert np.all(np.isnan([part[4] for part in found]))
        # Two shares of 10,000 draws: five standard errors of their difference.
        np.testing.assert_allclose(found.top[who], np.mean(place <= 2, axis=0), atol=0.036)
        within = (place >= found.lower[who]) & (place <= found.upper[who])
        assert np.all(within.mean(axis=0) > 0.8 - 0.02)  # as many standard errors
        assert found.top[who].sum() == pytest.approx(2, abs=1e-9)
        given = gene_ranks.ranks_of(np.insert(value, 4, np.nan, axis=1), choices._replace(by=by))
        np.testing.assert_array_equal(given.top[who], np.mean(place <= 2, axis=0))
        ordered = np.sort(place, axis=0)
        expected = [np.median(place, axis=0), ordered[1000], ordered[-1001]]
        np.testing.assert_array_equal(np.stack(given[:3])[:, who], expected)


def test_intervals_are_those_of_the_normal_distribution():
    found = gene_ranks.intervals(np.array([1.0, np.nan]), np.array([0.5, 1.0]), 0.9, 0.2)
    normal_ = stats.norm(1.0, 0.5)
    expected = [*normal_.interval(0.9), normal_.sf(0.2), normal_.cdf(-0.2)]
    # Two implementations of the same functions.
    np.testing.assert_allclose([part[0] for part in found], expected, rtol=1e-12)
    assert np.all(np.isnan([part[1] for part in found]))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"kind": "bread"}, "kind must be one of fisher, hessian, sandwich"),
        ({"kind": "sandwich"}, "pass its cohort"),
        ({"clusters": DONOR}, "clusters matter to kind 'sandwich' only"),
        ({"kind": "sandwich", "cohort": "short"}, "the fit is of 16 samples x 150 genes"),
        ({"kind": "sandwich", "cohort": "own", "clusters": DONOR[:3]}, "3 cluster labels for"),
        ({"kind": "sandwich", "cohort": "own", "clusters": DONOR[[0] * N]}, "in one cluster"),
        ({"genes": np.array([150])}, "indices from 0 to 149"),
    ],
)
def test_what_cannot_be_drawn_is_refused(how, says):
    c = case()
    short = Pooled(samples(c.rows.y[:9], c.rows.x[:9]))
    if "cohort" in how:
        how = how | {"cohort": {"own": c.cohort, "short": short}[how["cohort"]]}
    with pytest.raises(InputError, match=says):
        draws(c.fit, KEY, 3, **how)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        (Choices(level=90), "between 0 and 1, but is 90"),
        (Choices(top=0), "top genes must be 1 or more"),
        (Choices(draws=0), "draws must be 1 or more"),
        (Choices(by="size"), "magnitude, up, down"),
    ],
)
def test_choices_out_of_range_are_refused(choices, says):
    with pytest.raises(InputError, match=says):
        gene_ranks.check(choices)
