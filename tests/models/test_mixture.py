"""The mixture's objective and its derivatives, against ten lines of JAX and the published code."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from expressway.models import mixture as mx
from expressway.models.mixture import Change, Mixture, Observed

# Sums of some thousand terms of order one, cancelling to a tenth of that.
ROUNDING = 1e-12
SHAPES = [(7, 3, 2), (40, 5, 4), (12, 1, 3), (9, 4, 1), (5, 1, 1)]  # genes, k, d


def genes(g, d, seed=0):
    """Estimates, and precisions whose eigenvalues differ by some powers of ten."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(g, d, d)) * np.exp(rng.normal(size=(g, 1, 1)))
    return Observed(rng.normal(size=(g, d)), a @ a.swapaxes(1, 2))


def some(g, k, d, seed=0):
    """Genes, and the free parameters of a mixture."""
    rng = np.random.default_rng(seed + 1)
    return genes(g, d, seed), rng.normal(size=k * d + k - 1)


def direct(theta, x, precision, ridge=mx.RIDGE):
    """The formula, as it is written."""
    g, d = x.shape
    k = (len(theta) + 1) // (d + 1)
    c = theta[: k * d].reshape(k, d)
    odds = jnp.concatenate([jnp.zeros(1), theta[k * d :]])
    log_p = odds - logsumexp(odds)
    inner = jnp.einsum("gi,gij,kj->gk", x, precision, c)
    inner = inner - 0.5 * jnp.einsum("ki,gij,kj->gk", c, precision, c)
    return -(jnp.sum(logsumexp(log_p[None] + inner, axis=1)) - 0.5 * ridge * jnp.sum(c**2)) / g


def assert_close(found, expected):
    """To rounding of the largest."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=ROUNDING * max(1.0, np.max(np.abs(expected), initial=0))
    )


@jax.jit
def derivatives(theta, x, precision, dx, dl, ridge):
    """Value, gradient, Hessian, and the gradient's derivatives along changes."""
    gradient = jax.grad(direct)

    def along(change, other):
        return jax.jvp(
            lambda x, precision: gradient(theta, x, precision, ridge),
            (x, precision),
            (change, other),
        )[1]

    return (
        *jax.value_and_grad(direct)(theta, x, precision, ridge),
        jax.hessian(direct)(theta, x, precision, ridge),
        jax.vmap(along, out_axes=1)(dx, dl),
    )


@pytest.mark.parametrize(("g", "k", "d"), SHAPES)
def test_derivatives(g, k, d):
    observed, theta = some(g, k, d)
    x, precision = observed
    rng = np.random.default_rng(2)
    dx = rng.normal(size=(3, g, d))
    half = rng.normal(size=(3, g, d, d))
    dl = half + half.swapaxes(2, 3)
    for ridge in (mx.RIDGE, 3.0):
        t = mx.terms(observed)
        value, gradient = mx.value_gradient(theta, t, ridge)
        hessian = mx.hessian(theta, t, ridge)
        changes = [
            Change(
                np.einsum("gij,gj->gi", dl[q], x) + np.einsum("gij,gj->gi", precision, dx[q]),
                mx.half(d).of(dl[q]),
            )
            for q in range(3)
        ]
        expected = derivatives(theta, x, precision, dx, dl, ridge)
        assert value == pytest.approx(float(expected[0]), rel=ROUNDING)
        for found, each in zip(
            (gradient, hessian, mx.moved(theta, t, changes)), expected[1:], strict=True
        ):
            assert_close(found, each)
        np.testing.assert_allclose(hessian, hessian.T, rtol=0, atol=ROUNDING * np.max(abs(hessian)))


def test_the_published_code(data):
    z = np.load(data / "reference" / "shoemaker500.df7.k10.npz")
    about = json.loads((data / "reference" / "shoemaker500.df7.k10.json").read_text())
    turn = z["transform"]
    # Information of gamma = T beta is that of beta in the coordinates beta = T⁻¹ gamma; T drops
    # the constant, so that it is the inverse of the covariance's part.
    covariance = turn @ np.linalg.inv(z["binfo"]) @ turn.T
    t = mx.terms(Observed(z["beta"] @ turn.T, np.linalg.inv(covariance)))
    value, gradient = mx.value_gradient(z["xo"], t)
    # The agreement asked for; the design has a condition number of 60.
    assert value == pytest.approx(float(z["kl"]), rel=1e-10)
    assert np.linalg.norm(gradient) == pytest.approx(about["grad_norm"], rel=1e-2)
    hessian = mx.hessian(z["xo"], t)
    np.testing.assert_allclose(hessian, z["H"], rtol=0, atol=1e-10)
    ends = np.linalg.eigvalsh(hessian)[[0, -1]]
    np.testing.assert_allclose(ends, about["gmm_hess_ev"], rtol=1e-8)
    mixture = mx.of_vector(z["xo"], 9)
    np.testing.assert_allclose(mixture.centroids, z["centroids"], atol=1e-14)
    np.testing.assert_allclose(mixture.weight, z["probs"][0], rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_free_parameters_and_back(k):
    rng = np.random.default_rng(0)
    weight = rng.dirichlet(np.ones(k))
    given = Mixture(rng.normal(size=(k, 3)), np.log(weight))
    theta = given.vector()
    assert len(theta) == 4 * k - 1
    back = mx.of_vector(theta, 3)
    np.testing.assert_array_equal(back.centroids, given.centroids)
    np.testing.assert_allclose(back.weight, weight, rtol=1e-14)  # rounding
    assert np.sum(back.weight) == pytest.approx(1.0, abs=1e-15)
    # Weights that exp cannot hold.
    far = mx.of_vector(np.array([0.0, 0.0, 900.0]), 1)
    np.testing.assert_allclose(far.log_weight, [-900, 0], atol=1e-12)


def test_memberships():
    observed, theta = some(20, 3, 4)
    mixture = mx.of_vector(theta, 4)
    found = mx.members(mixture, mx.terms(observed))
    for g, (x, precision) in enumerate(zip(*observed, strict=True)):
        density = [
            w * np.exp(x @ precision @ c - 0.5 * c @ precision @ c)
            for w, c in zip(mixture.weight, mixture.centroids, strict=True)
        ]
        assert found.log_likelihood[g] == pytest.approx(np.log(np.sum(density)), rel=1e-11)
        np.testing.assert_allclose(
            found.responsibility[g], density / np.sum(density), rtol=1e-10, atol=1e-300
        )


def test_memberships_of_very_precise_genes():
    """Exponents of 10⁸ overflow nothing."""
    x = np.array([[0.0], [1.0], [0.5]])
    t = mx.terms(Observed(x, np.full((3, 1, 1), 1e8)))
    mixture = Mixture(np.array([[0.0], [1.0]]), np.log([0.25, 0.75]))
    found = mx.members(mixture, t)
    np.testing.assert_array_equal(found.responsibility[:2], np.eye(2))
    np.testing.assert_allclose(found.responsibility[2], [0.25, 0.75])  # halfway: the weights
    assert np.all(np.isfinite(mx.hessian(mixture.vector(), t)))


def test_it_adds_over_genes():
    """Of parts: G F is the sum of theirs but for the ridge, and so are its derivatives."""
    observed, theta = some(41, 3, 4)
    t = mx.terms(observed)
    whole = mx.value_gradient(theta, t, 0.0)
    parts = [slice(0, 1), slice(1, 20), slice(20, 41)]
    sizes = np.array([1, 19, 21])
    each = [mx.value_gradient(theta, t.some(part), 0.0) for part in parts]
    assert whole[0] * 41 == pytest.approx(sizes @ [value for value, _ in each], rel=ROUNDING)
    assert_close(whole[1] * 41, sizes @ np.array([gradient for _, gradient in each]))
    hessians = [mx.hessian(theta, mx.terms(observed.some(part)), 0.0) for part in parts]
    assert_close(mx.hessian(theta, t, 0.0) * 41, np.einsum("p,pij->ij", sizes, hessians))
    # And the order of genes is nothing.
    order = np.random.default_rng(0).permutation(41)
    other = mx.terms(observed.some(order))
    assert_close(mx.value_gradient(theta, other)[1], mx.value_gradient(theta, t)[1])
    assert_close(mx.hessian(theta, other), mx.hessian(theta, t))


def test_a_gene_that_says_nothing_only_counts():
    observed, theta = some(10, 3, 2)
    none = Observed(
        np.vstack([observed.estimate, [[5.0, 5.0]]]),
        np.concatenate([observed.precision, np.zeros((1, 2, 2))]),
    )
    with_, without = (mx.value_gradient(theta, mx.terms(each), 0.0) for each in (none, observed))
    assert with_[0] * 11 == pytest.approx(without[0] * 10, rel=ROUNDING)
    assert_close(with_[1] * 11, without[1] * 10)
    mixture = mx.of_vector(theta, 2)
    found = mx.members(mixture, mx.terms(none))
    np.testing.assert_allclose(found.responsibility[-1], mixture.weight, rtol=1e-14)
    assert found.log_likelihood[-1] == pytest.approx(0.0, abs=1e-15)


def test_coordinates_and_order_of_clusters_are_arbitrary():
    """In turned coordinates, and with clusters in another order, F is the same."""
    observed, theta = some(25, 3, 4)
    q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))
    mixture = mx.of_vector(theta, 4)
    turned = mx.terms(Observed(observed.estimate @ q.T, q @ observed.precision @ q.T))
    order = [2, 0, 1]
    other = Mixture(mixture.centroids[order] @ q.T, mixture.log_weight[order])
    expected = mx.value_gradient(theta, mx.terms(observed))[0]
    assert mx.value_gradient(other.vector(), turned)[0] == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("part", [1, 17, 100])
def test_the_hessian_in_parts(monkeypatch, part):
    observed, theta = some(40, 5, 4)
    t = mx.terms(observed)
    whole = mx.hessian(theta, t)
    monkeypatch.setattr(mx, "PART", part)
    assert_close(mx.hessian(theta, t), whole)


def test_halves_of_symmetric_matrices():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 4))
    held = mx.half(4)
    m = rng.normal(size=(6, 4, 4))
    m += m.swapaxes(1, 2)
    np.testing.assert_array_equal(held.whole(held.of(m), 4), m)
    for left, right in ((a, b), (a, a)):
        product = np.einsum("gi,gj->gij", left, right)
        product = 0.5 * (product + product.swapaxes(1, 2))
        np.testing.assert_allclose(held.product(left, right), held.of(product), rtol=1e-14)
    # The sum of all entries of a product of two of them.
    entries = np.sum(held.of(m) * held.twice * held.product(a, b), axis=1)
    np.testing.assert_allclose(entries, np.einsum("gi,gij,gj->g", a, m, b), rtol=1e-12)


def test_closed():
    observed, theta = some(30, 3, 2)
    t = mx.terms(observed)
    f = mx.closed(t, 3, 0.5)
    assert f.both(theta)[0] == mx.value_gradient(theta, t, 0.5)[0]
    np.testing.assert_array_equal(f.matrix(theta), mx.hessian(theta, t, 0.5))
    assert f.theta.size == len(theta)
    assert [f.theta.label(i) for i in (0, 5, 6)] == [
        "mixture['centroid'][0, 0]",
        "mixture['centroid'][2, 1]",
        "mixture['log_odds'][0]",
    ]
