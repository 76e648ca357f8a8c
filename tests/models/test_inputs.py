"""Size factors, normalisation of genes × samples and weights against R's DESeq2 (make_inputs.R).

Tolerances are those of ``tests/reference/TOLERANCES.md``, for the same reasons.
"""

import numpy as np
import pytest
from test_reference import log10_difference, relative

from expressway._errors import InputError
from expressway.core.cohort import Pooled, Samples, samples
from expressway.models import (
    deseq,
    influence,
    leave_out,
    lrt,
    nb,
    outliers,
    profile,
    size_iteration,
    weights,
)
from expressway.models.results import Takers, results
from expressway.models.size_factors import log_counts, normalised
from expressway.run import Federation, Ledger, Site, Sites

EXACT = 1e-10  # sums in another order
ASCENT = 1e-3  # dispersions: DESeq2's ascent stops where a step gains less than 1e-6
# Its step times the curvature is close to 2, so that it ends early, as those in test_reference.
EARLY = {"g098": 3e-3}
# Its only counts were outliers; R leaves the first fit's dispersions in its table, ours are NaN.
EMPTIED = "g033"
# One sample of a group has a weight. Its residual and what its hat value lacks of 1 are as small as
# the ridge, and Cook's distance is their ratio, squared: R's iterate is not near enough for that.
ALONE = "g043"
VECTOR = np.array([0.0, 1.0])


def numbers(values) -> np.ndarray:
    return np.array(values, float)  # None (R's NA) becomes NaN


@pytest.fixture(scope="module")
def theirs(reference):
    return reference("inputs")


# ---- size factors ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ratio", "poscounts"])
def test_size_factors_of_control_genes(method, case, theirs):
    c, of = case(theirs["controls"]["case"]), theirs["controls"]["of"]
    pooled = Pooled(c.rows)
    cohort = normalised(pooled, pooled.sum(log_counts), method, np.array(of["controls"]))
    np.testing.assert_allclose(np.exp(cohort.rows.offset[:, 0]), of[method], rtol=EXACT)


def test_control_genes_without_counts_everywhere_are_refused(case):
    c = case("two_group")
    zero = np.flatnonzero(np.any(np.asarray(c.rows.y) == 0, axis=0))
    pooled = Pooled(c.rows)
    with pytest.raises(InputError, match="no control gene has counts in every sample"):
        normalised(pooled, pooled.sum(log_counts), "ratio", zero)


@pytest.mark.parametrize("name", ["two_group", "interaction"])
def test_each_round_of_the_iteration_finds_the_maximum(name, case, theirs):
    c = case(name)
    y = np.asarray(c.rows.y)
    genes = np.flatnonzero(y.sum(axis=0) > 0)
    for of in theirs["iterate"][name]["rounds"]:
        old = np.log(np.array(of["from"], float))[:, None]
        level = np.mean(y / np.exp(old), axis=0)[genes]
        begin = size_iteration.Step(genes, level, numbers(of["dispersions"])[genes], 0.0)
        cohort = Pooled(c.rows._replace(offset=old)).map(size_iteration.anchored)
        step = size_iteration._maximum(cohort, begin)
        found = size_iteration._moved(cohort, step).rows.offset[:, 0]
        # R's, on derivatives, leaves 2e-5 of a curvature of 700; its own, on differences, 5e-6.
        np.testing.assert_allclose(found, np.log(of["maximum"]), rtol=0, atol=1e-7)
        np.testing.assert_allclose(found, np.log(of["found"]), rtol=0, atol=1e-5)


def test_iterated_size_factors_and_those_of_sites(case, theirs):
    c, of = case("two_group"), theirs["iterate"]["two_group"]
    genes = np.flatnonzero(np.asarray(c.rows.y).sum(axis=0) > 0)
    whole = Pooled(c.rows)
    rows = size_iteration.replayed(whole, size_iteration.steps(whole, genes, 12)).rows
    found = rows.offset
    assert rows.x is c.rows.x  # what goes on is in the design that came
    assert np.all(rows.precision == 1)
    # Dispersions are R's to 1e-3, which the maximum hardly feels.
    np.testing.assert_allclose(found[:, 0], np.log(of["size_factors"]), rtol=0, atol=1e-4)
    halves = {"one": slice(0, 6), "other": slice(6, 12)}
    sites = [Site(name, Pooled(part(c.rows, at))) for name, at in halves.items()]
    ledger = Ledger(dict.fromkeys(halves, 6), dict.fromkeys(halves, 6), 6)
    federation = Federation(sites, whole.genes, 2, ledger)
    end = size_iteration.replayed(federation, size_iteration.steps(federation, genes, 12))
    ours = np.concatenate([site.rows.rows.offset for site in end.sites])
    np.testing.assert_allclose(ours, found, rtol=0, atol=1e-10)
    assert ledger.round < 200  # five rounds of dispersions and multipliers


def part(rows: Samples, at: slice) -> Samples:
    return Samples(*(np.asarray(field)[at] for field in rows))


def test_what_iteration_does_not_take_is_refused(case):
    c = case("small")
    settings = deseq.Settings(size_factors="iterate")
    for given in (deseq.Given(offsets=True), deseq.Given(controls=np.arange(9))):
        with pytest.raises(InputError, match="size factors by iteration take no"):
            deseq.fit(Pooled(c.rows), c.cells, settings, given=given)


def test_given_size_factors(case, theirs):
    c, of = case(theirs["given"]["case"]), theirs["given"]["of"]
    rows = c.rows._replace(offset=np.log(numbers(of["size_factors"]))[:, None])
    fit, cohort = deseq.fit(Pooled(rows), c.cells, deseq.Settings(size_factors="given"))
    assert cohort.rows.offset is rows.offset
    compare(fit, c.genes, of)


# ---- normalisation of genes × samples ----------------------------------------------------------


@pytest.fixture(scope="module")
def with_offsets(case, theirs):
    c, of = case(theirs["offsets"]["case"]), theirs["offsets"]["of"]
    # Both matrices, so that what is compiled serves the weights, too.
    ones = np.broadcast_to(1.0, c.rows.y.shape)
    return c.rows._replace(offset=np.log(np.array(of["lengths"]).T), precision=ones)


@pytest.mark.parametrize(
    ("method", "name"), [("ratio", "factors"), ("poscounts", "poscounts"), ("ratio", "controls")]
)
def test_normalisation_factors(method, name, with_offsets, theirs):
    pooled, of = Pooled(with_offsets), theirs["offsets"]["of"]
    controls = np.arange(19, pooled.genes, 4) if name == "controls" else None
    cohort = normalised(pooled, pooled.sum(log_counts), method, controls, offsets=True)
    found = np.exp(cohort.rows.offset)
    np.testing.assert_allclose(found[:, of["genes"]].T, np.array(of[name]), rtol=EXACT)
    np.testing.assert_allclose(np.mean(np.log(found), axis=0), 0, atol=1e-14)


def test_given_size_factors_times_a_matrix_are_centred(with_offsets):
    size = np.linspace(-1, 2, 20)[:, None]
    rows = with_offsets._replace(offset=with_offsets.offset + size)
    pooled = Pooled(rows)
    cohort = normalised(pooled, pooled.sum(log_counts), "given", offsets=True)
    expected = rows.offset - np.mean(rows.offset, axis=0)
    np.testing.assert_allclose(cohort.rows.offset, expected, rtol=0, atol=1e-13)


def test_fit_with_normalisation_factors(with_offsets, case, theirs):
    c = case("replicates")
    fit, _ = deseq.fit(Pooled(with_offsets), c.cells, given=deseq.Given(offsets=True))
    assert fit.linear_means
    compare(fit, c.genes, theirs["offsets"]["of"])


# ---- observation weights -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def weighted(case, theirs):
    """Rows with weights, their fit and its cohort."""
    c, of = case(theirs["weights"]["case"]), theirs["weights"]["of"]
    y = np.asarray(c.rows.y)
    rows = c.rows._replace(offset=np.zeros(y.shape), precision=np.array(of["weights"]).T)
    return rows, *deseq.fit(Pooled(rows), c.cells, given=deseq.Given(weighted=True))


def test_fit_with_weights(weighted, case, theirs):
    c, of = case("replicates"), theirs["weights"]["of"]
    rows, fit, _ = weighted
    assert not fit.linear_means
    compare(fit, c.genes, of)
    fails = numbers(of["table"]["weightsFail"]) == 1
    lost = np.isnan(fit.gene.dispersion_gene_wise) & (np.asarray(rows.y).sum(axis=0) > 0)
    np.testing.assert_array_equal(lost & (c.genes != EMPTIED), fails)
    found = results(fit, VECTOR, Takers(1.0, np.zeros(2)))
    assert list(found.status[fails]) == ["weights"] * 2
    assert np.all(np.isnan(found.wald.p_value[fails]))


def test_likelihood_ratio_test_with_weights(weighted, theirs):
    _, fit, cohort = weighted
    found = lrt.likelihood_ratio(fit, cohort, np.array([[1.0], [0.0]]))
    of = theirs["weights"]["of"]["lrt"]
    known = np.isfinite(found.stat)
    np.testing.assert_array_equal(known, np.isfinite(numbers(of["stat"])))
    # As dispersions, by a gene's share of the statistic: 1e-3 of it at most, and of its noise.
    limit = ASCENT * np.maximum(np.abs(numbers(of["stat"])), 1.0)
    assert np.all(np.abs(found.stat - numbers(of["stat"]))[known] <= limit[known])


def test_a_sample_without_weight_is_as_if_it_were_not_there(weighted):
    _, fit, cohort = weighted
    full = cohort.rows._replace(precision=np.array(cohort.rows.precision))
    full.precision[2] = 0
    keep = np.arange(20) != 2
    less = Samples(*(np.asarray(field)[keep] for field in full))  # padded to as many rows
    genes = np.flatnonzero(np.isfinite(fit.gene.dispersion))
    beta, alpha = fit.gene.beta[genes], fit.gene.dispersion[genes]
    zero = np.zeros(len(genes))
    fitted = outliers.Fitted(beta, alpha, fit.gene.inverse[genes], zero + 0.1)
    nowhere = np.zeros(0, int)
    for statistic, args, shared in (
        (nb.equation, (beta, alpha), ()),
        (nb.information, (beta, alpha), ()),
        (nb.sides, (beta - 2.0,), ()),
        (profile.profile_glm, (np.log(alpha), profile.Shape(beta, zero, zero)), ()),
        (lrt.deviance, (beta, alpha, zero), ()),
        (outliers.flags, (fitted,), (0.1, nowhere, nowhere)),
        (deseq.counts, (), ()),
    ):
        sums = [Pooled(r).sum(statistic, *args, shared=shared, genes=genes) for r in (full, less)]
        for name, a, b in zip(sums[0]._fields, *sums, strict=True):
            scale = 1e-12 * np.max(np.abs(b), initial=1.0)
            np.testing.assert_allclose(a, b, rtol=0, atol=scale, err_msg=f"{statistic}.{name}")


def test_weights_add_over_samples_and_say_which_genes_can_be_fitted():
    x = np.column_stack([np.ones(8), np.repeat([0.0, 1.0], 4)])
    w = np.ones((8, 7))
    w[4:, 1] = 0  # nothing of the second group
    w[4:, 2] = 0.01  # a little of it: its column is left out, the rest is full
    w[:4, 3] = 0.01  # a little of the first: the columns that are left are the same
    w[:7, 4] = 0  # one sample
    w[:, 5] = 0
    y = np.full((8, 7), 5)
    y[:, 6] = [0, 0, 0, 0, 0, 0, 0, 9]
    w[7, 6] = 0  # its only count
    rows = samples(y, x)._replace(precision=w)
    able = [True, False, True, False, False, False, False]
    everyone = np.arange(7)
    np.testing.assert_array_equal(weights.usable(Pooled(rows), everyone), able)
    halves = [part(rows, slice(0, 4)), part(rows, slice(4, 8))]
    whole, *parts = (weights.seen(r) for r in (rows, *halves))
    for total, *terms in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(total, sum(map(np.asarray, terms)), rtol=1e-14)
    np.testing.assert_array_equal(weights.usable(Sites(halves), everyone), able)
    w[:, 2] *= 0.5
    with pytest.raises(InputError, match="largest observation weight of gene 3 of the 7 is not 1"):
        weights.usable(Pooled(rows), everyone)


def test_conditional_influence_is_the_derivative_of_the_fit_with_weights(weighted):
    _, fit, cohort = weighted
    sample, step = 4, 1e-3
    pairs = np.zeros((20, cohort.genes), bool)
    pairs[sample] = True
    up, down = (
        leave_out.conditional(fit, cohort, VECTOR[None], pairs, 1.0 + h) for h in (step, -step)
    )
    found = influence.conditional(fit, cohort, VECTOR[None])
    known = (up.reason[sample] == leave_out.Reason.OK) & ~fit.gene.boxed
    assert known.sum() > 90
    for name in ("estimate", "se"):
        ours = getattr(found, name)[0, sample, known]
        change = getattr(up, name) - getattr(down, name)
        numeric = change[0, sample, known] / (2 * step)
        scale = np.sqrt(fit.gene.covariance[known, 1, 1])
        # A central difference is off by step² times a third derivative of the order of one.
        np.testing.assert_allclose(ours / scale, numeric / scale, rtol=0, atol=1e-5)
    none = np.asarray(cohort.rows.precision)[sample] == 0
    assert none.any()
    assert np.all(found.estimate[0, sample, none & np.isfinite(found.estimate[0, sample])] == 0)


def test_without_a_sample_weights_may_leave_no_design(weighted, case):
    _, fit, cohort = weighted
    # The gene that has weight in one sample of the second group only.
    gene = int(np.flatnonzero(case("replicates").genes == ALONE)[0])
    second = np.asarray(cohort.rows.x)[:, 1] > 0
    sample = int(np.flatnonzero(second & (cohort.rows.precision[:, gene] > 0))[0])
    pairs = np.zeros((20, cohort.genes), bool)
    pairs[sample] = True
    found = leave_out.conditional(fit, cohort, VECTOR[None], pairs)
    assert found.reason[sample, gene] == leave_out.Reason.RANK
    assert np.isnan(found.estimate[0, sample, gene])


def test_influence_on_dispersions_is_refused(weighted):
    _, fit, cohort = weighted
    for fn in (influence.pipeline, leave_out.pipeline):
        with pytest.raises(InputError, match="influence on dispersions is not known"):
            fn(fit, cohort, VECTOR[None])


# ---- a fit against R's -------------------------------------------------------------------------


def compare(fit: deseq.DESeqFit, genes: np.ndarray, of: dict) -> None:
    """Every stage of a fit against R's table."""
    gene, table = fit.gene, {name: numbers(column) for name, column in of["table"].items()}
    np.testing.assert_array_equal(fit.replaced, table["replace"] == 1)
    emptied = (genes == EMPTIED) & fit.replaced
    for ours, name, tolerance in (
        (gene.base_mean, "baseMean", EXACT),
        (gene.base_variance, "baseVar", EXACT),
        (gene.dispersion_gene_wise, "dispGeneEst", ASCENT),
        (gene.dispersion_trend, "dispFit", ASCENT),
        (gene.dispersion_map, "dispMAP", ASCENT),
        (gene.dispersion, "dispersion", ASCENT),
        (fit.max_cooks, "maxCooks", ASCENT),
    ):
        limit = np.array([max(tolerance, EARLY.get(one, 0.0)) for one in genes])
        beyond = ~(relative(ours, table[name]) <= limit) & ~(emptied & np.isnan(ours))
        if fit.weighted and name == "maxCooks":
            beyond &= genes != ALONE
        assert not np.any(beyond), (name, genes[beyond])
    known = np.isfinite(gene.dispersion)
    beta, their_error = numbers(of["coefficients"]), numbers(of["standard_errors"])
    error = np.sqrt(np.einsum("gpp->gp", gene.covariance)) / np.log(2)
    distance = np.abs(gene.beta / np.log(2) - beta)[known] / their_error[known]
    assert np.all(distance < 2e-3)
    assert np.all(relative(error, their_error)[known] <= ASCENT / 2)
    found = results(fit, VECTOR, Takers(1.0, np.zeros(2)))
    for ours, name in ((found.wald.p_value, "pvalue"), (found.adjusted.p_adj, "padj")):
        difference = log10_difference(ours, numbers(of["results"][name]), np.zeros(len(ours), bool))
        assert np.all(difference <= 2 * ASCENT), name
