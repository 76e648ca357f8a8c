"""Gaussian likelihoods for wrong models and for uncertain pseudotimes.

Against dense loops, derivatives, simulated counts, and fits at other times.
"""

from typing import NamedTuple

import numpy as np
import pytest
from scipy import linalg, special

from expressway._errors import InputError
from expressway.core.cohort import samples
from expressway.models import nb, robust_sites
from expressway.models.expected_counts import Counts, counts
from expressway.models.gene_mixtures import Sites

# Samples, functions of time with the level, coordinates with log alpha.
N, K, C = 240, 3, 4
# Genes of each kind.
G = 300
RATES = np.pi * np.arange(K)


def design(t):
    """Columns, orthogonal over evenly spread times."""
    return np.cos(np.outer(t, RATES)) * np.array([1.0, *[np.sqrt(2)] * (K - 1)])


def slopes(t):
    return -RATES * np.sin(np.outer(t, RATES)) * np.array([1.0, *[np.sqrt(2)] * (K - 1)])


@pytest.fixture(scope="module")
def times():
    return (np.arange(N) + 0.5) / N


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(11)
    return np.column_stack([rng.uniform(1.5, 4, 2 * G), rng.normal(0, 0.4, (2 * G, K - 1))])


class Fitted(NamedTuple):
    """Counts, where their fit ended, and likelihoods around it."""

    of: Counts
    at: np.ndarray
    sites: Sites


def fit(y, z):
    found = nb.fit(samples(np.ascontiguousarray(y.T), z))
    at = np.column_stack([found.beta, found.log_alpha])
    field = np.einsum("gab,gb->ga", found.information, at)
    return Fitted(counts(y, np.zeros(len(z)), z), at, Sites(field, found.information))


def shares(new, old):
    """Variances of each gene relative to others, in the directions where they differ most."""
    pairs = zip(old.precision, new.precision, strict=True)
    return np.stack([linalg.eigh(a, b, eigvals_only=True) for a, b in pairs])


@pytest.fixture(scope="module")
def fitted(times, truth):
    """Counts as the model has them, and counts whose dispersion depends on time."""
    rng = np.random.default_rng(12)
    z = design(times)
    mu = np.exp(truth @ z.T)
    alpha = np.full(mu.shape, 0.3)
    alpha[G:] = np.exp(-3.0 + 8.0 * np.abs(times - 0.5))
    y = rng.negative_binomial(1 / alpha, 1 / (1 + alpha * mu)).astype(float)
    return fit(y, z)


@pytest.fixture(scope="module")
def few(times):
    """Twelve genes somewhere, offsets; the fourth is flat and the last has no counts."""
    rng = np.random.default_rng(13)
    z = design(times[::6])
    n, g = len(z), 12
    offset = rng.normal(0, 0.3, n)
    at = np.column_stack(
        [rng.uniform(0, 4, g), rng.normal(0, 0.5, (g, K - 1)), rng.uniform(-2, 1, g)]
    )
    mu, r = np.exp(offset + at[:, :K] @ z.T), np.exp(-at[:, K:])
    y = rng.negative_binomial(r, r / (r + mu)).astype(float)
    a = rng.normal(size=(g, n, C))
    precision = a.swapaxes(1, 2) @ a + np.eye(C)
    precision[3, -1] = precision[3, :, -1] = 0.0
    y[-1], at[-1], precision[-1] = 0.0, np.nan, np.nan
    return counts(y, offset, z), at, Sites(rng.normal(size=(g, C)), precision)


def log_likelihood(y, eta, a):
    """Of each sample, with SciPy's functions."""
    r = np.exp(-a)
    gamma = special.gammaln(y + r) - special.gammaln(r)
    return gamma + y * (a + eta) - (y + r) * np.log1p(np.exp(eta + a))


def variances(sites, which=slice(None)):
    return np.einsum("gaa->ga", np.linalg.inv(sites.precision[which]))


def test_scores_are_the_gradient_of_each_sample(few):
    of, at, _ = few
    at = at[:-1]
    found = robust_sites.scores(of._replace(y=of.y[:-1]), at)
    h = 1e-5  # central differences: h² of truncation, 1e-16 / h * |l| of rounding
    for c in range(C):
        ends = [at + sign * h * np.eye(C)[c] for sign in (1, -1)]
        up, down = (
            log_likelihood(of.y[:-1], of.offset + e[:, :K] @ of.z.T, e[:, K:]) for e in ends
        )
        np.testing.assert_allclose(found[:, c], (up - down) / (2 * h), rtol=1e-6, atol=1e-6)


def test_scores_sum_to_zero_at_the_optimum(fitted):
    total = np.sum(robust_sites.scores(fitted.of, fitted.at), axis=2)
    # The solver stops at a Newton decrement of some 1e-6: of one standard error 1e-3.
    error = np.sqrt(np.einsum("gaa->ga", fitted.sites.precision))
    assert np.all(np.abs(total) < 1e-2 * error)


def test_score_slopes_are_the_derivative_in_time(few, times):
    of, at, _ = few
    of, at, t = of._replace(y=of.y[:-1]), at[:-1], times[::6]
    found = robust_sites.score_slopes(of, at, slopes(t))
    h = 1e-6
    up, down = (robust_sites.scores(of._replace(z=design(t + d)), at) for d in (h, -h))
    # Rounding of 1e-16 / h of scores up to a hundred.
    np.testing.assert_allclose(found, (up - down) / (2 * h), rtol=1e-6, atol=1e-6)


def dense_sandwich(of: Counts, sites: Sites, at, gene, labels):
    """A loop over samples, by matrices and generalised eigenvalues."""
    inside = np.flatnonzero(np.diag(sites.precision[gene]) > 0)
    model = sites.precision[gene][np.ix_(inside, inside)]
    n, c, m = len(of.z), len(inside), len(np.unique(labels))
    total = {label: np.zeros(c) for label in labels}
    for i in range(n):
        mu, alpha = np.exp(of.offset[i] + of.z[i] @ at[gene, :K]), np.exp(at[gene, K])
        y, r = of.y[gene, i], 1 / alpha
        left = (y - mu) / (1 + alpha * mu)
        psi = special.digamma(y + r) - special.digamma(r)
        total[labels[i]] += np.append(left * of.z[i], left + r * (np.log1p(alpha * mu) - psi))[
            inside
        ]
    b = sum(np.outer(s, s) for s in total.values()) * (n - 1) / (n - c) * m / (m - 1)
    value, vector = linalg.eigh(b, model)  # vector' model vector = 1
    value = np.maximum(value, 1.0 if value[0] < 0.05 else 0.5)
    whole = np.zeros((C, C))
    whole[np.ix_(inside, inside)] = np.linalg.inv(vector @ np.diag(value) @ vector.T)
    return whole


@pytest.mark.parametrize("clusters", [None, 15])
def test_sandwich_is_that_of_a_dense_loop(few, clusters):
    of, at, sites = few
    n = len(of.z)
    labels = np.arange(n) if clusters is None else np.random.default_rng(5).permutation(n) % 15 * 7
    # Precisions of the size of the scores' scatter, so that floors are met by some and not all.
    fair = Sites(sites.field, sites.precision * np.linspace(3, 0.3, len(at))[:, None, None])
    found = robust_sites.sandwich(of, fair, at, clusters=None if clusters is None else labels)
    for gene in range(len(at) - 1):
        precision = dense_sandwich(of, fair, at, gene, labels)
        # Condition numbers below 1e3 leave twelve digits.
        np.testing.assert_allclose(
            found.precision[gene], precision, rtol=1e-9, atol=1e-9 * np.max(precision)
        )
    np.testing.assert_allclose(
        found.field[:-1], np.einsum("gab,gb->ga", found.precision, at)[:-1], rtol=1e-12, atol=1e-12
    )
    assert not np.any(found.precision[3, -1])
    assert not np.any(found.precision[3, :, -1])
    assert found.field[3, -1] == 0
    np.testing.assert_array_equal(found.field[-1], sites.field[-1])
    assert np.all(np.isnan(found.precision[-1]))


def test_samples_as_clusters_of_one(few):
    of, at, sites = few
    one = robust_sites.sandwich(of, sites, at)
    two = robust_sites.sandwich(of, sites, at, clusters=np.arange(len(of.z))[::-1].copy())
    # The same sums in another order.
    np.testing.assert_allclose(one.precision, two.precision, rtol=1e-10, atol=1e-10)


def test_no_direction_has_less_than_half_the_variance(fitted):
    # Counts all next to their mean: with a dispersion that they do not have, errors are small.
    mu = np.exp(fitted.at[:G, :K] @ fitted.of.z.T)
    of = fitted.of._replace(y=np.round(mu * (1 + 0.2 * (-1.0) ** np.arange(N))))
    sites = Sites(fitted.sites.field[:G], fitted.sites.precision[:G])
    found = robust_sites.sandwich(of, sites, fitted.at[:G])
    share = shares(found, sites)
    # Rounding. Two genes in three or more are at the floor in every direction.
    assert np.all(share > 0.5 * (1 - 1e-9))
    assert np.median(share[:, -1]) < 0.5 * (1 + 1e-9)


def test_few_clusters_leave_the_model_s_precision_or_less(fitted):
    # Two clusters: scores sum to 0, so that all but one of the eigenvalues are 0.
    sites = fitted.sites
    found = robust_sites.sandwich(fitted.of, sites, fitted.at, clusters=np.arange(N) % 2)
    share = shares(found, sites)
    np.testing.assert_allclose(share[:, : C - 1], 1, rtol=1e-8)  # rounding of two inverses
    assert np.all(share[:, -1] > 1 - 1e-8)
    assert np.max(share[:, -1]) > 2


def test_sandwich_is_the_model_where_it_is_right(fitted):
    found = robust_sites.sandwich(fitted.of, fitted.sites, fitted.at)
    ratio = variances(found, slice(G)) / variances(fitted.sites, slice(G))
    error = np.std(ratio, axis=0) / np.sqrt(G)
    # Four standard errors of the mean over genes, and c / n that leverages leave.
    assert np.all(np.abs(np.mean(ratio, axis=0) - 1) < 4 * error + C / N), np.mean(ratio, axis=0)


def test_intervals_cover_where_the_dispersion_is_no_constant(fitted, truth):
    found = robust_sites.sandwich(fitted.of, fitted.sites, fitted.at)
    who = slice(G, None)
    error = np.abs(fitted.at - np.column_stack([truth, np.zeros(2 * G)]))[who, 1:K]
    cover = [
        np.mean(error < 1.6449 * np.sqrt(variances(sites, who)[:, 1:K]))
        for sites in (fitted.sites, found)
    ]
    monte_carlo = np.sqrt(0.9 * 0.1 / error.size)  # .012
    assert cover[0] < 0.9 - 4 * monte_carlo, cover
    # Some of it is lost for good: samples at the ends have leverage, and scatter less.
    assert abs(cover[1] - 0.9) < 3 * monte_carlo, cover


def test_sandwich_knows_donors(times, fitted):
    rng = np.random.default_rng(14)
    donor = rng.permutation(N) % 20
    mu = np.exp(3.0 + rng.normal(0, 0.4, (2 * G, 20))[:, donor])
    y = rng.negative_binomial(5, 5 / (5 + mu)).astype(float)
    here = fit(y, design(times))
    wide = robust_sites.sandwich(here.of, here.sites, here.at, clusters=donor)
    alone = robust_sites.sandwich(here.of, here.sites, here.at)
    seen = np.var(here.at[:, 0])
    # The variance of 600 estimates has a relative error of .06; 20 donors' own mean is off by
    # half of 1 / 20, and the log mean of a skewed spread hides a few percent of it.
    assert seen == pytest.approx(np.mean(variances(wide)[:, 0]), rel=0.2)
    assert np.mean(variances(alone)[:, 0]) < 0.5 * seen


def dense_displaced(of: Counts, at, gene, errors, model, known):
    """Extra covariance of a gene by a loop over samples and lineages."""
    total = np.zeros((C, C))
    for derivative, sd in errors:
        for i in range(len(of.z)):
            mu, alpha = np.exp(of.offset[i] + of.z[i] @ at[gene, :K]), np.exp(at[gene, K])
            y, rise = of.y[gene, i], derivative[i] @ at[gene, :K]
            left = (y - mu) / (1 + alpha * mu)
            curve = mu * (1 + alpha * y) / (1 + alpha * mu) ** 2
            mixed = -left * alpha * mu / (1 + alpha * mu)
            d = np.append(left * derivative[i] - curve * rise * of.z[i], mixed * rise)
            total += sd[i] ** 2 * np.outer(d, d)
    back = np.linalg.inv(model[np.ix_(known, known)])
    return back @ total[np.ix_(known, known)] @ back


@pytest.mark.parametrize("own", [True, False])
def test_displaced_is_that_of_a_dense_loop(few, times, own):
    of, at, sites = few
    rng = np.random.default_rng(6)
    first = slopes(times[::6])
    first[:, 2] = 0  # columns of another lineage
    second = slopes(times[::6]) - first
    errors = [(each, rng.uniform(0, 0.2, len(of.z))) for each in (first, second)]
    model = None if own else Sites(sites.field, 1.7 * sites.precision)
    found = robust_sites.displaced(of, sites, at, errors, model=model)
    for gene in range(len(at) - 1):
        known = np.flatnonzero(np.diag(sites.precision[gene]) > 0)
        base = sites.precision[gene] * (1.0 if own else 1.7)
        extra = dense_displaced(of, at, gene, errors, base, known)
        inside = np.ix_(known, known)
        precision = np.linalg.inv(np.linalg.inv(sites.precision[gene][inside]) + extra)
        # Condition numbers below 1e4 leave eleven digits.
        np.testing.assert_allclose(
            found.precision[gene][inside], precision, rtol=1e-8, atol=1e-8 * np.max(precision)
        )
        assert np.all(np.linalg.eigvalsh(sites.precision[gene] - found.precision[gene]) > -1e-9)
    assert not np.any(found.precision[3, -1])
    assert not np.any(found.precision[3, :, -1])
    np.testing.assert_array_equal(found.field[-1], sites.field[-1])


@pytest.mark.slow
def test_displaced_is_the_scatter_of_fits_at_other_times(times):
    rng = np.random.default_rng(15)
    g, draws, sd = 10, 60, 0.01 * (1 + times)
    b = np.column_stack([rng.uniform(3, 5, g), rng.normal(0, 0.4, (g, K - 1))])
    mu = np.exp(b @ design(times).T)
    y = rng.negative_binomial(4, 4 / (4 + mu)).astype(float)
    here = fit(y, design(times))
    wider = robust_sites.displaced(here.of, here.sites, here.at, [(slopes(times), sd)])
    extra = np.linalg.inv(wider.precision) - np.linalg.inv(here.sites.precision)
    again = np.empty((draws, g, C))
    for draw in again:
        draw[:] = fit(y, design(times + sd * rng.normal(size=N))).at
    away = again - np.mean(again, axis=0)
    seen = np.einsum("dga,dgb->gab", away, away) / (draws - 1)
    share = np.stack(
        [linalg.eigh(a, b, eigvals_only=True) for a, b in zip(seen, extra, strict=True)]
    )
    # Sixty draws in four coordinates: eigenvalues of a Wishart matrix lie within .5 to 1.6 and a
    # bit; the trace has a relative error of .09, the mean of ten genes' one of .03 to .09.
    assert np.all((share > 0.35) & (share < 2.1)), share
    assert np.mean(share) == pytest.approx(1, abs=0.15)


def test_known_times_change_nothing(fitted, times):
    zero = (slopes(times), np.zeros(N))
    found = robust_sites.displaced(fitted.of, fitted.sites, fitted.at, [zero, zero])
    np.testing.assert_array_equal(found.field, fitted.sites.field)
    np.testing.assert_array_equal(found.precision, fitted.sites.precision)


def test_genes_do_not_know_of_each_other(fitted, times, monkeypatch):
    def both(of, sites, at):
        wide = robust_sites.sandwich(of, sites, at)
        return robust_sites.displaced(of, wide, at, [(slopes(times), sd)], model=sites)

    sd = np.full(N, 0.02)
    whole = both(fitted.of, fitted.sites, fitted.at)
    order = np.random.default_rng(7).permutation(2 * G)[:100]
    monkeypatch.setattr(robust_sites, "CACHE", 7 * N)  # portions of seven genes
    some = both(
        fitted.of._replace(y=fitted.of.y[order]),
        Sites(*(part[order] for part in fitted.sites)),
        fitted.at[order],
    )
    # Products of other shapes may be summed in another order.
    np.testing.assert_allclose(some.precision, whole.precision[order], rtol=1e-9, atol=1e-9)


def test_precisions_that_are_none_stay(few, times):
    of, at, sites = few
    precision = sites.precision.copy()
    precision[1, -1, -1] = -3.0  # not concave
    precision[2, 0, 1] = precision[2, 1, 0] = 1e4  # not definite
    given = Sites(sites.field, precision)
    found = robust_sites.sandwich(of, given, at)
    np.testing.assert_array_equal(found.precision[2], precision[2])
    np.testing.assert_array_equal(found.field[2], sites.field[2])
    moved = robust_sites.displaced(of, given, at, [(slopes(times[::6]), np.full(len(of.z), 0.1))])
    np.testing.assert_array_equal(moved.precision[2], precision[2])
    for each in (found, moved):
        assert not np.any(each.precision[1, -1])
        assert np.all(np.linalg.eigvalsh(each.precision[1, :K, :K]) > 0)


def test_what_cannot_be_is_refused(few, times):
    of, at, sites = few
    n = len(of.z)
    with pytest.raises(InputError, match="all 40 samples are in one cluster"):
        robust_sites.sandwich(of, sites, at, clusters=np.zeros(n, int))
    with pytest.raises(InputError, match="4 samples for 4 coordinates"):
        robust_sites.sandwich(counts(of.y[:, :4], of.offset[:4], of.z[:4]), sites, at)
    sd = np.full(n, 0.1)
    with pytest.raises(InputError, match="in 2 columns"):
        robust_sites.displaced(of, sites, at, [(slopes(times[::6])[:, :2], sd)])
    for wrong in (-0.1, np.nan, np.inf):
        sd[2] = wrong
        with pytest.raises(InputError, match="for 1 of 40 samples, first for number 3"):
            robust_sites.displaced(of, sites, at, [(slopes(times[::6]), sd)])
