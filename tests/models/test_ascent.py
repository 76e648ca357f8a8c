"""`ascent` against a plain transcription of DESeq2's ascent, one gene at a time."""

import math

import numpy as np
import pytest
from fit_disp import Gene, ascend, gene_wise

from expressway.core.cohort import Pooled, samples
from expressway.core.hermite import Interpolant
from expressway.models import ascent, dispersion, profile

GENES = 50
HIGHEST = 10.0


def simulated(n: int, seed: int) -> tuple[Pooled, np.ndarray, np.ndarray]:
    """Cohort of two groups without size factors, its design, and the groups' means."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), np.arange(n) >= n // 2]).astype(float)
    mean = np.exp(rng.normal(3.5, 1.2, GENES))
    alpha = 0.2 * np.exp(rng.normal(0, 1.5, GENES))
    y = rng.poisson(mean * rng.gamma(1 / alpha, alpha, (n, GENES))) + (np.arange(n) == 0)[:, None]
    return Pooled(samples(y, x)), x, np.linalg.lstsq(x, y, rcond=None)[0].T


def interpolant(cohort: Pooled, beta: np.ndarray) -> Interpolant:
    """The profiles on the ascent's nodes."""
    at = ascent.nodes(HIGHEST)
    columns = []
    for a in at:
        log_alpha, zero = np.full(GENES, a), np.zeros(GENES)
        shape = profile.Shape(beta, zero, zero)
        sums = cohort.sum(profile.profile_linear, log_alpha, shape)
        columns.append(profile.adjusted(log_alpha, shape, sums))
    parts = (np.stack([np.asarray(c[i]) for c in columns], axis=1) for i in range(3))
    nodes = np.tile(at, (GENES, 1))
    return Interpolant(nodes, *parts, np.full(GENES, len(at) - 1))


@pytest.mark.parametrize(("n", "seed"), [(3, 10), (4, 11), (6, 12)])
def test_stops_where_deseq2_s_ascent_stops(n, seed):
    cohort, x, beta = simulated(n, seed)
    y = np.asarray(cohort.rows.y)
    profile = interpolant(cohort, beta)
    rng = np.random.default_rng(seed)
    start = np.exp(rng.uniform(np.log(1e-3), np.log(2), GENES))
    start[:5] = 1e-8
    stop = ascent.ascend(profile, np.log(start), np.log(1e-9))
    reported = ascent.gene_wise(profile, start, (1e-8, HIGHEST)).alpha
    # The pipeline sends flat profiles here; the interpolant is made for those.
    flat = np.max(profile.curvature, axis=1) < dispersion.FLAT
    for i in range(GENES):
        gene = Gene(y[:, i], np.maximum(x @ beta[i], 0.5), x)
        limit = 1e-4 if flat[i] else 1e-3
        expected = ascend(math.log(start[i]), gene, math.log(1e-9))
        # Past its nodes the profile is not known: reported are 1e-8 and the largest dispersion.
        if profile.nodes[i, 0] < expected.a < profile.nodes[i, -1]:
            assert stop.log_alpha[i] == pytest.approx(expected.a, abs=limit)
        # Below 1e-7 the profile is level to 1e-8 and a grid's best is anyone's; unused by DESeq2.
        pair = np.maximum([reported[i], gene_wise(start[i], gene, HIGHEST)], 1e-7)
        assert np.log(pair[0]) == pytest.approx(np.log(pair[1]), abs=limit)
    # Of both kinds: at the bound and inside.
    assert np.any(reported[flat] == 1e-8)
    assert np.any(reported[flat] > 1e-2)


def test_interpolant_is_accurate_between_its_nodes():
    cohort, _, beta = simulated(4, 13)
    table = interpolant(cohort, beta)
    flat = np.flatnonzero(np.max(table.curvature, axis=1) < dispersion.FLAT)
    assert len(flat) > 10
    for a in (-18.3, -9.26, -4.1, -0.77, 2.2):
        log_alpha, zero = np.full(GENES, a), np.zeros(GENES)
        shape = profile.Shape(beta, zero, zero)
        exact = profile.adjusted(
            log_alpha, shape, cohort.sum(profile.profile_linear, log_alpha, shape)
        )
        loss, slope = table.at(log_alpha[flat], flat)
        # DESeq2's ascent stops at a gain of 1e-6, at slopes of 1e-3.
        np.testing.assert_allclose(loss, exact.loss[flat], rtol=0, atol=2e-7)
        np.testing.assert_allclose(slope, exact.slope[flat], rtol=0, atol=5e-6)


def test_steep_start_comes_back_from_beyond_the_largest_dispersion():
    """A first step of the steep slope at a small start proposes dispersions of e^10."""
    cohort, x, beta = simulated(6, 14)
    profile = interpolant(cohort, beta)
    everyone, start = np.arange(GENES), np.full(GENES, 1e-3)
    slope = profile.at(np.log(start), everyone)[1]
    thrown = np.flatnonzero((slope < -17) & np.any(profile.slope[:, -6:] > 0, axis=1))
    assert len(thrown) >= 3
    reported = ascent.gene_wise(profile, start, (1e-8, HIGHEST)).alpha
    y = np.asarray(cohort.rows.y)
    for i in thrown:
        gene = Gene(y[:, i], np.maximum(x @ beta[i], 0.5), x)
        expected = gene_wise(start[i], gene, HIGHEST)
        assert np.log(reported[i]) == pytest.approx(np.log(expected), abs=1e-3)


def test_transcription_is_r_s(case):
    """What is transcribed is R: all genes of a case end on R's values after R's number of steps."""
    c = case("small")
    design, theirs = c.rows.x, c.json["trend"]["dispPriorVar"]
    size = np.array(c.json["size_factors"]["ratio"])
    normalised = np.asarray(c.rows.y) / size[:, None]
    beta = np.linalg.lstsq(design, normalised, rcond=None)[0]
    some = np.flatnonzero((c.table["baseMean"] > 0) & (c.table["baseMean"] < 2000))
    for i in some:
        mu = np.maximum(size * (design @ beta[:, i]), 0.5)
        trend = c.table["dispFit"][i]
        gene = Gene(np.asarray(c.rows.y)[:, i], mu, design, (math.log(trend), theirs))
        start = c.table["dispGeneEst"][i]
        stop = ascend(math.log(start if start > 0.1 * trend else trend), gene, math.log(1e-9))
        assert stop.steps == c.table["dispIter"][i]
        found = min(math.exp(stop.a), HIGHEST)
        assert found == pytest.approx(c.table["dispMAP"][i], rel=1e-9)  # rounding of 1e-12
    assert len(some) > 90
