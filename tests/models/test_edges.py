"""No gene hangs: whatever its counts, it ends with a word of `status.MEANINGS`."""

import numpy as np
import pytest

from expressway.core.boxed import Boxed
from expressway.core.cohort import Pooled, samples
from expressway.core.irls import Irls
from expressway.core.scalar import Interval, Scalar
from expressway.core.solve import Status, solve
from expressway.models import deseq, moments, nb, profile
from expressway.models.cells import groups as groups_of
from expressway.models.results import Results, Takers, results
from expressway.models.status import MEANINGS, statuses

PLAIN = 150


def two_groups(n: int) -> np.ndarray:
    return np.column_stack([np.ones(n), np.arange(n) >= n // 2]).astype(float)


def odd_genes(n: int) -> dict[str, np.ndarray]:
    """Genes no model is meant for, a column each."""
    rng = np.random.default_rng(7)
    half = n // 2
    single = np.zeros(n, int)
    last, first = single.copy(), single.copy()
    single[0], last[n - 1], first[0] = 500, 1, 10**9
    outlier = rng.poisson(30, n)
    outlier[1] = 10**6
    zeros = np.zeros(half, int)
    return {
        "all_zero": np.zeros(n, int),
        "single": single,
        "single_one": last,
        "single_huge": first,
        "separated_low": np.r_[zeros, rng.poisson(40, n - half)],
        "separated_high": np.r_[rng.poisson(40, half), np.zeros(n - half, int)],
        "separated_huge": np.r_[zeros, np.full(n - half, 10**8)],
        "outlier": outlier,
        "constant_1": np.full(n, 1),
        "constant_1000": np.full(n, 1000),
        "constant_huge": np.full(n, 10**9),
        "two_values": np.where(np.arange(n) < half, 10**9, 1),
        "huge": rng.poisson(1e9 * rng.gamma(10, 0.1, n)),
        "alternating": np.where(np.arange(n) % 2, 0, 10**6),
    }


def cohort(n: int, x: np.ndarray) -> tuple[Pooled, list[str]]:
    """Odd genes among plain ones, which trend and size factors need; twins of the first ten."""
    rng = np.random.default_rng(8)
    mean = np.exp(rng.normal(4, 1.5, PLAIN))
    plain = rng.poisson(mean * rng.gamma(4, 0.25, (n, PLAIN))) + 1
    odd = odd_genes(n)
    y = np.column_stack([plain, *odd.values(), plain[:, :10]])
    return Pooled(samples(y, x)), list(odd)


def analyse(
    rows: Pooled, x: np.ndarray, settings: deseq.Settings
) -> tuple[deseq.DESeqFit, Results]:
    fit, _ = deseq.fit(rows, groups_of(x), settings)
    last = np.eye(x.shape[1])[-1]
    return fit, results(fit, last, Takers(1.0, np.zeros(len(last))))


def covariate(n: int) -> np.ndarray:
    """Group and a number: means come from the GLM."""
    return np.column_stack([two_groups(n), np.random.default_rng(5).normal(size=n)])[:, [0, 2, 1]]


DESIGNS = {
    "two_groups": two_groups(12),
    "replaced": two_groups(20),
    "covariate": covariate(16),
    "one_degree": covariate(4),  # n - p = 1
    # Groups of two, one and one: means are those of cells.
    "saturated_but_one": np.column_stack([two_groups(4), [0, 0, 0, 1]])[:, [0, 2, 1]],
}


@pytest.mark.parametrize("name", list(DESIGNS))
def test_every_gene_ends_with_a_word(name):
    x = DESIGNS[name]
    n = len(x)
    rows, odd = cohort(n, x)
    fit, test = analyse(rows, x, deseq.Settings())
    words = dict(zip(odd, test.status[PLAIN:], strict=False))
    assert set(test.status) <= set(MEANINGS)
    assert words["all_zero"] == "all_zero"
    assert {words["separated_low"], words["separated_high"], words["separated_huge"]} <= {
        "separated",
        "at_bound",
        "outlier",
    }
    # A word of success comes with numbers, a missing number with a reason.
    fine = np.isin(test.status, ["ok", "at_bound", "separated", "replaced"])
    for number in (test.wald.log2_fold_change, test.wald.se, test.wald.p_value):
        assert np.all(np.isfinite(number[fine]))
    assert np.all(np.isfinite(fit.gene.dispersion[fit.gene.base_mean > 0]))
    # Twins are told the same.
    first, twins = slice(0, 10), slice(-10, None)
    np.testing.assert_array_equal(test.status[first], test.status[twins])
    np.testing.assert_allclose(
        test.wald.p_value[first],
        test.wald.p_value[twins],
        rtol=1e-12,  # rounding
    )


def test_solvers_stop_within_their_steps():
    x = DESIGNS["covariate"]
    rows, _ = cohort(len(x), x)
    fit, fitted = deseq.fit(rows, groups_of(x))
    genes = np.flatnonzero(fit.gene.base_mean > 0)
    sums = fitted.sum(moments.moments, genes=genes)
    begin = np.linalg.solve(sums.normal, sums.log[..., None])[..., 0]
    for alpha in (1e-8, 0.1, 12.0):
        alphas = np.full(len(genes), alpha)
        for solver, statistic, penalty in (
            (Irls(), nb.equation, nb.ridge_equation),
            (Boxed(bound=nb.BOX), nb.likelihood, nb.ridge_likelihood),
        ):
            found = solve(solver, statistic, begin, alphas, fitted, penalty=penalty, genes=genes)
            assert np.max(found.steps) <= solver.max_steps
            if isinstance(solver, Boxed):  # the last resort arrives
                assert not np.any(found.status == Status.NOT_CONVERGED)
    shape = profile.Shape(fit.gene.beta[genes], np.zeros(len(genes)), np.zeros(len(genes)))
    solver = Scalar()
    for at in np.log([1e-8, 1e-3, 1.0, 12.0]):
        bounds = np.log([moments.MIN_DISPERSION, 12.0])
        interval = Interval(*(np.full(len(genes), v) for v in (at, *bounds)))
        found = solve(
            solver,
            profile.profile_glm,
            interval,
            shape,
            fitted,
            penalty=profile.adjusted,
            genes=genes,
        )
        assert np.max(found.steps) <= solver.max_steps
        assert not np.any(found.status == Status.NOT_CONVERGED)


def test_every_word_is_used(fitted):
    words = {
        word
        for name in ("two_group", "replicates", "interaction")
        for r in fitted(name).results
        for word in r.status
    }
    assert {"ok", "all_zero", "outlier", "low_count", "separated", "at_bound", "replaced"} <= words
    # The third level has no counts of some genes, and the contrast compares the other two.
    f = fitted("no_intercept")
    assert set().union(*(r.status for r in f.results)) <= set(MEANINGS)
    made = no_counts() | not_converged(f)
    # What `tests/models/test_inputs.py` has: a gene whose weights leave no counts.
    assert words | made | {"weights"} == set(MEANINGS)


def no_counts() -> set[str]:
    """Three groups; the first two, which are compared, have no counts."""
    x = np.repeat(np.eye(3), 4, axis=0)
    rng = np.random.default_rng(9)
    y = rng.negative_binomial(5, 0.05, (12, 100))
    y[:8, 0] = 0
    fit, _ = deseq.fit(Pooled(samples(y, x)), groups_of(x))
    vector = np.array([1.0, -1.0, 0.0])
    test = results(fit, vector, Takers(0.0, np.array([1.0, 1.0, 0.0])))
    assert test.wald.p_value[0] == 1
    assert test.wald.log2_fold_change[0] == 0
    return {str(test.status[0])}


def not_converged(f) -> set[str]:
    """No counts are known that the solvers give up on: their answer is put in."""
    gene = f.fit.gene
    status = gene.beta_status.copy()
    at = int(np.flatnonzero(np.isfinite(f.results[0].adjusted.p_adj))[0])
    status[at] = Status.NOT_CONVERGED
    fit = f.fit._replace(gene=gene._replace(beta_status=status))
    vector = np.eye(gene.beta.shape[1])[-1]
    word = statuses(fit, vector, np.zeros(len(status), bool), f.results[0].adjusted)[at]
    return {str(word)}
