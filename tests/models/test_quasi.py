"""Quasi-likelihood F tests: what is summed, R's edgeR (``make_quasi.R``), and real data."""

from itertools import pairwise

import jax
import numpy as np
import pandas as pd
import pytest
from test_sites import split

from expressway._errors import InputError
from expressway.core.arrow import Arrow, Span
from expressway.core.cohort import Pooled, Samples, samples
from expressway.models import moderated, quasi
from expressway.models.parts import Part

N, G = 8, 6
# edgeR's Levenberg steps end at a relative change of 1e-6, after which they gain 1e-7 of it.
EDGER = 1e-5


@pytest.fixture
def s():
    rng = np.random.default_rng(31)
    y = rng.poisson(np.exp(rng.uniform(-3, 3, G)), (N, G)) * 1.0
    y[:4, 1] = y[:, 2] = 0
    weight = np.ones(N)
    weight[3] = 0
    x = np.column_stack([np.ones(N), np.arange(N) >= 4])
    offset = rng.normal(0, 0.3, (N, 1))
    return Samples(y, x, offset, np.ones((N, 1)), weight, np.arange(N) // 4)


BETA = np.array([[0.5, 0.1], [-18, 19], [-15, 0], [1, -1], [-9.4, 3], [-6, -6]])
ALPHA = np.array([0.1, 0.3, 0.01, 1.0, 0.2, 0.5])
VARIANCE = np.array([0.9, 0.4, 0.2, 1.2, 0.99999, 0.7])
STATISTICS = {
    "zeros": (quasi.zeros, (BETA,)),
    "rest": (quasi.rest, (BETA,)),
    "large": (quasi.large, ()),
    "narrow": (quasi.narrow, (BETA, ALPHA, VARIANCE)),
}


def evaluated(name, s, genes=slice(None)):
    fn, args = STATISTICS[name]
    return np.asarray(jax.jit(fn)(*(a[genes] for a in args), s)[0])


def looped(name, s):
    total = np.zeros((G, 2, 2) if name == "rest" else G)
    for i in np.flatnonzero(s.weight):
        for g in range(G):
            mu = np.exp(s.offset[i, 0] + s.x[i] @ BETA[g])
            exact = mu < 1e-4 and s.y[i, g] == 0
            total[g] += {
                "zeros": exact,
                "rest": (not exact) * np.outer(s.x[i], s.x[i]),
                "large": s.y[i, g] / np.exp(s.offset[i, 0]) >= 10,
                "narrow": (1 + ALPHA[g] * mu) * VARIANCE[g] < 1,
            }[name]
    return total


@pytest.mark.parametrize("name", STATISTICS)
def test_sums(name, s):
    """A loop's, whole numbers; additive, and of each gene by itself."""
    whole = evaluated(name, s)
    assert 0 < np.sum(whole > 0) < whole.size
    np.testing.assert_array_equal(whole, looped(name, s))
    parts = [Samples(*(a[i:j] for a in s)) for i, j in pairwise([0, 1, 5, N])]
    np.testing.assert_array_equal(sum(evaluated(name, part) for part in parts), whole)
    padded = Samples(*(np.concatenate([a, np.zeros((3, *a.shape[1:]))]) for a in s))
    np.testing.assert_array_equal(evaluated(name, padded), whole)
    genes = [4, 1, 0]
    np.testing.assert_array_equal(evaluated(name, s._replace(y=s.y[:, genes]), genes), whole[genes])


def test_rank_of_what_is_left():
    rng = np.random.default_rng(32)
    x = np.column_stack([np.ones(40), 1e5 * rng.random(40), np.eye(8)[np.arange(40) % 8]])[:, :-1]
    rows = rng.random((30, 40)) < rng.uniform(0.02, 0.4, (30, 1))
    rank = [np.linalg.matrix_rank(x[some] / [1, 1e5, *np.ones(7)]) for some in rows]
    assert len(set(rank)) > 4
    normal = np.einsum("gn,np,nq->gpq", rows, x, x)
    np.testing.assert_array_equal(quasi._rank(normal), rank)
    arrow = Arrow(
        normal[:, :2, :2],
        normal[:, :2, 2:],
        np.diagonal(normal[:, 2:, 2:], axis1=1, axis2=2),
        Span(2, 9),
    )
    np.testing.assert_array_equal(quasi._rank(arrow), rank)


# --- against R --------------------------------------------------------------------------------


def numbers(x):
    return np.array(x, float)


@pytest.mark.parametrize(
    "name", ["many", "alike", "twenty", "five", "two", "missing", "zeros", "ties"]
)
def test_limma_squeezes_towards_a_curve(name, reference):
    r = reference("quasi")["squeezed"][name]
    found = moderated.squeeze(*(numbers(r[k]) for k in ("variance", "freedom", "covariate")))
    # Least squares on another basis of the same splines; rounded to 17 digits.
    assert found.prior_freedom == pytest.approx(float(r["df_prior"]), rel=1e-9)
    np.testing.assert_allclose(found.prior_variance, numbers(r["var_prior"]), rtol=1e-9)
    np.testing.assert_allclose(found.variance, numbers(r["var_post"]), rtol=1e-9)


@pytest.mark.parametrize("name", ["group", "both"])
def test_edger(name, case, reference):
    r, c = reference("quasi")["tests"][name], case("replicates")
    genes, design = np.array(r["genes"]), numbers(r["design"])
    offset = np.log(c.json["size_factors"]["ratio"])[:, None]
    rows = samples(c.rows.y[:, genes], design)._replace(offset=offset)
    keep = np.eye(design.shape[1])[:, : r["kept"]]
    at = np.arange(len(genes))
    given = quasi.Given(numbers(r["dispersion"]), numbers(r["average"]))
    ours = quasi.f_tests([Part(Pooled(rows), at, at)], given, len(offset), keep)
    assert ours.numerator == design.shape[1] - r["kept"]
    assert not np.any(ours.failed)
    assert len(np.unique(r["freedom"])) > 1
    np.testing.assert_array_equal(ours.freedom, r["freedom"])
    # Of groups without counts edgeR leaves means near 1e-8.
    np.testing.assert_allclose(ours.deviance, numbers(r["deviance"]), rtol=EDGER, atol=1e-6)
    assert ours.prior.prior_freedom == pytest.approx(float(r["df_prior"]), rel=EDGER)
    np.testing.assert_allclose(ours.prior.prior_variance, numbers(r["var_prior"]), rtol=EDGER)
    np.testing.assert_allclose(ours.prior.variance, numbers(r["var_post"]), rtol=EDGER)
    np.testing.assert_allclose(ours.stat, numbers(r["f"]), rtol=EDGER, atol=EDGER)
    p = numbers(r["p_value"])
    np.testing.assert_allclose(np.log(ours.p_value), np.log(p), rtol=EDGER, atol=EDGER)
    raised = p > numbers(r["unbounded"])
    assert np.any(raised)


def same(several, one):
    """What test_sites.py asks of estimates and p-values."""
    for field in ("stat", "deviance", "freedom"):
        a, b = (getattr(found, field) for found in (several, one))
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.log(several.p_value), np.log(one.p_value), atol=1e-9)


def test_the_pipeline_s_genes(case, fitted):
    """Replaced counts are tested, and genes without counts after that have p = 1."""
    c, f = case("replicates"), fitted("replicates")
    keep = np.eye(2)[:, :1]
    one = quasi.quasi_likelihood(f.fit, f.cohort, keep)
    gene = f.fit.gene
    emptied = f.fit.replaced & (gene.base_mean == 0)
    assert np.sum(emptied) == 1
    assert one.stat[emptied] == 0
    assert one.p_value[emptied] == 1
    without = np.isnan(gene.base_mean) | ((gene.base_mean == 0) & ~f.fit.replaced) | f.fit.outlier
    np.testing.assert_array_equal(np.isnan(one.p_value), without)
    not_replaced = f.fit._replace(replaced=np.zeros_like(f.fit.replaced))
    with_outliers = quasi.quasi_likelihood(not_replaced, f.cohort, keep)
    some = f.fit.replaced & ~emptied
    assert np.all(with_outliers.deviance[some] > 1.5 * one.deviance[some])
    several = quasi.quasi_likelihood(f.fit, split(f.cohort.rows), keep, c.cells)
    same(several, one)


def test_variances_of_small_counts_are_not_below_one(fitted):
    """With labels that mean nothing, tests of low counts must not find more than chance."""
    rng = np.random.default_rng(33)
    f = fitted("replicates")
    n, genes = f.fit.samples, 300
    y = rng.negative_binomial(0.5, 0.5 / (0.5 + 0.4), (n, genes)) * 1.0  # mean .4
    y = y[:, y.sum(axis=0) > 2]
    k = y.shape[1]
    rows = samples(y, np.asarray(f.cohort.rows.x))
    at = np.arange(k)
    given = quasi.Given(np.full(k, 2.0), np.log(y.mean(axis=0) + 2), enough=n / 2)
    part, keep = [Part(Pooled(rows), at, at)], np.eye(2)[:, :1]
    bounded = quasi.f_tests(part, given, n, keep)
    free = quasi.f_tests(part, given._replace(enough=0.0), n, keep)
    assert np.all(bounded.prior.variance >= 1)
    assert np.mean(free.prior.variance < 1) > 0.9
    # .05 and two standard deviations of the share among some 270 genes.
    assert np.mean(bounded.p_value < 0.05) < 0.08


def test_too_few_genes_for_a_prior(case):
    rows = case("two_group").rows
    one = Pooled(rows._replace(y=rows.y[:, :1]))
    at = np.arange(1)
    with pytest.raises(InputError, match="two genes with residual degrees of freedom"):
        quasi.f_tests(
            [Part(one, at, at)], quasi.Given(np.ones(1), np.ones(1)), 12, np.eye(2)[:, :1]
        )


# --- real data --------------------------------------------------------------------------------


def test_real_data(data):
    """Pasilla; the other sets agree as well."""
    folder = data / "reference"
    r = pd.read_csv(folder / "pasilla.edger.csv.gz")
    sizes = pd.read_csv(folder / "pasilla.edger.samples.csv.gz")
    design = pd.read_csv(folder / "pasilla.design.csv.gz", index_col=0)
    counts = pd.read_csv(data / "pasilla_counts.csv.gz", index_col=0).loc[r["gene"], design.index]
    offset = np.log(sizes["lib.size"] * sizes["norm.factors"]).to_numpy()[:, None]
    rows = samples(counts.to_numpy().T.copy(), design.to_numpy(float))
    rows = rows._replace(offset=offset - offset.mean())
    at = np.arange(len(r))
    given = quasi.Given(r["trended"].to_numpy(), r["logCPM"].to_numpy())
    ours = quasi.f_tests([Part(Pooled(rows), at, at)], given, len(offset), np.eye(3)[:, :2])
    np.testing.assert_array_equal(ours.freedom, r["df.residual"])
    # The largest difference is that of two genes' deviances at edgeR's stop.
    np.testing.assert_allclose(ours.prior.variance, r["var.post"], rtol=1e-6)
    np.testing.assert_allclose(ours.stat, r["F"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.log(ours.p_value), np.log(r["PValue"]), rtol=1e-5, atol=1e-5)
