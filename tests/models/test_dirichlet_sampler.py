"""The sampler's density is the model's, and what is told of draws does not depend on labels."""

import jax
import numpy as np
import pytest
from numpyro.infer.util import initialize_model, log_density
from scipy import stats
from scipy.special import logsumexp

from expressway._errors import InputError
from expressway.models import dirichlet_sampler as ds
from expressway.models.dirichlet import Prior

PRIORS = [
    Prior(6, 2.0, 0.5, 1.0, 2.0, 2.0, 0.05),
    Prior(6, 1.0, 1.0, 0.0, 1.0, 2.0, 0.05),
    Prior(6, 1.0, 2.0, -1.0, 1.5, 2.0, 0.05),
]
STICKS = 3


@pytest.fixture(autouse=True)
def _promoted():
    """NumPyro promotes ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def problem(g=8, n=30, seed=0):
    """Counts of two groups of genes, a column of ones and a contrast, offsets; and a start."""
    rng = np.random.default_rng(seed)
    z = np.column_stack([np.ones(n), np.resize([1.0, -1.0], n)])
    offset = rng.normal(0, 0.2, n)
    eta = np.where(np.arange(g)[:, None] < g // 2, [3.0, 0.8, -1.5], [1.5, -0.8, -1.0])
    mu, r = np.exp(offset + eta[:, :2] @ z.T), np.exp(-eta[:, 2:])
    y = rng.negative_binomial(r, r / (r + mu)).astype(float)
    component = np.column_stack([eta[0], eta[-1], np.zeros(3)])
    s, v = rng.gamma(40, 1, (3, STICKS)), rng.uniform(0.2, 0.6, (3, STICKS - 1))
    return (y, z, offset), ds.Point(eta, component, s, v, np.array([0.5, 1.0, 2.0]))


def sampled(seed):
    rows, start = problem()
    return ds.sample(*rows, PRIORS, start=start, settings=ds.Settings(30, 20, seed=seed))


def test_the_density_is_that_of_the_formulas():
    (y, z, offset), at = problem()
    weight = np.column_stack([at.v, np.ones(3)]) * np.cumprod(
        np.column_stack([np.ones(3), 1 - at.v]), axis=1
    )
    total = 0.0
    for k, p in enumerate(PRIORS):
        c = at.concentration[k]
        total += stats.gamma.logpdf(c, p.concentration_shape, scale=1 / p.concentration_rate)
        total += np.sum(stats.beta.logpdf(at.v[k], 1, c))
        total += np.sum(stats.norm.logpdf(at.mu[k], p.mean, p.mean_sd))
        total += np.sum(stats.gamma.logpdf(at.s[k], p.shape, scale=1 / p.rate))
        of_each = stats.norm.logpdf(at.eta[:, k, None], at.mu[k], at.s[k] ** -0.5)
        total += np.sum(logsumexp(of_each, axis=1, b=weight[k]))
    mu, r = np.exp(offset + at.eta[:, :2] @ z.T), np.exp(-at.eta[:, 2:])
    total += np.sum(stats.nbinom.logpmf(y, r, r / (r + mu)))
    found, _ = log_density(ds.model, (y, z, offset, PRIORS, STICKS), {}, at._asdict())
    # Sums of some 300 terms, the largest of 1e2, each good to 1e-13.
    np.testing.assert_allclose(found, total, rtol=1e-11)


def test_a_leap_has_a_finite_density_and_slope():
    (y, z, offset), at = problem()
    far = at.eta + np.array([900.0, 0.0, 0.0])
    value, slope = jax.value_and_grad(lambda eta: ds.log_likelihood(eta, y, z, offset).sum())(far)
    # y log mu - (y + r) log(mu / r): -r each unit, a row and gene.
    np.testing.assert_allclose(slope[:, 0], -30 * np.exp(-at.eta[:, 2]), rtol=1e-10)
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))


def test_steps_start_in_proportion_to_the_curvature():
    rows, start = problem(g=3, n=8)
    arguments = (*rows, PRIORS, STICKS)
    strategy = ds.init_to_value(values=start._asdict())
    found = ds._variances(arguments, strategy)
    info = initialize_model(
        jax.random.key(0),
        ds.model,
        init_strategy=strategy,
        model_args=arguments,
        validate_grad=False,
    )
    flat, back = jax.flatten_util.ravel_pytree(info.param_info.z)
    slope = jax.jit(jax.grad(lambda x: info.potential_fn(back(x))))
    step = 1e-4 * np.eye(len(flat))
    both = [[slope(flat + sign * e) @ e for e in step] for sign in (1, -1)]
    whole = (np.array(both[0]) - both[1]) / (2 * 1e-8)
    expected = 1 / np.where(whole > ds.LEAST, whole, 1)
    # Of central differences: 1e-8 times the third derivative's share of the first, which is of
    # order one; rounding is 1e-13 of slopes near 1e2, over the step.
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_draws():
    one, again = sampled(1), sampled(1)
    assert one.draws.eta.shape == (20, 8, 3)
    for part in one.draws[1:]:
        assert part.shape == (20, 3, STICKS)
    assert one.label.shape == (8, 3, STICKS)
    assert one.r_hat.shape == one.ess.shape == (8, 3)
    np.testing.assert_allclose(one.draws.weight.sum(axis=2), 1, rtol=1e-12)  # rounding
    np.testing.assert_allclose(one.label.sum(axis=2), 1, rtol=1e-12)
    assert one.steps > 20
    assert one.divergences <= 2  # of 20; a density with a mistake in its slope has many
    np.testing.assert_array_equal(one.draws.eta, again.draws.eta)
    # Levels are 20 standard errors apart; twenty draws may split one of them.
    labels = one.draws.labels(0)
    assert set(labels[:4]).isdisjoint(labels[4:])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"eta": np.zeros((7, 3))}, r"eta of shape \(7, 3\)"),
        ({"s": np.zeros((3, STICKS))}, "out of range in s:"),
        ({"v": np.ones((3, STICKS - 1))}, "out of range in v:"),
        ({"mu": np.full((3, STICKS), np.nan)}, "out of range in an array"),
    ],
)
def test_starts_that_cannot_be(changed, said):
    rows, start = problem()
    with pytest.raises(InputError, match=said):
        ds.sample(*rows, PRIORS, start=start._replace(**changed))


def test_priors_that_cannot_be():
    rows, start = problem()
    with pytest.raises(InputError, match="2 priors for 3 coordinates"):
        ds.sample(*rows, PRIORS[:2], start=start)
    with pytest.raises(InputError, match="mean_sd or rate None"):
        ds.sample(*rows, [*PRIORS[:2], Prior()], start=start)
