"""Series arithmetic against nested forward mode, which differentiates one order at a time."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import linalg, special, stats

from expressway.core.series import through

ORDER = 3
RNG = np.random.default_rng(0)
X = RNG.uniform(0.1, 1.0, 5)
MOVE = RNG.normal(size=5)
MIX = RNG.normal(size=(5, 5))


def spd(x: Any) -> Any:
    return jnp.outer(x, x) + jnp.diag(2 + x**2) + MIX @ MIX.T


ELEMENTWISE: dict[str, Callable[[Any], Any]] = {
    "exp": jnp.exp,
    "log": lambda x: jnp.log(2 + x**2),
    "log1p": jnp.log1p,
    "expm1": jnp.expm1,
    "fifth power of both signs": lambda x: (x - 0.5) ** 5,
    "seventh power at zero": lambda x: (x - X) ** 3,
    "real power": lambda x: (2 + x) ** 2.5,
    "negative power": lambda x: (x - 3) ** -3,
    "power of series": lambda x: (1 + x) ** x,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "erf": special.erf,
    "log normal": stats.norm.logcdf,
    "inverse erf": lambda x: special.erfinv(x / 3),
    "log gamma": lambda x: special.gammaln(2 + x),
    "digamma": lambda x: special.digamma(2 + x),
    "sin": jnp.sin,
    "arctan": jnp.arctan,
    "arcsinh": jnp.arcsinh,
    "sqrt": lambda x: jnp.sqrt(2 + x),
    "rsqrt": lambda x: jax.lax.rsqrt(2 + x),
    "quotient": lambda x: jnp.sin(x) / (1 + x**2),
    "maximum": lambda x: jnp.maximum(x, 0.3) ** 2,
    "absolute": lambda x: jnp.abs(x - 0.5) ** 3,
    "clip": lambda x: jax.lax.clamp(0.2, x, 0.6) ** 2,
    "where": lambda x: jnp.where(x > 0.5, x**2, jnp.cos(x)),
    "interpolated": lambda x: jnp.interp(x, jnp.arange(5.0) - 2, jnp.sin(jnp.arange(5.0))),
    "hyperbolic": lambda x: jnp.sinh(x) * jnp.cosh(x),
    "tan": jnp.tan,
    "inverse sine and cosine": lambda x: jnp.arcsin(x / 3) * jnp.arccos(x / 2),
    "inverse hyperbolic": lambda x: jnp.arctanh(x / 3) + jnp.arccosh(2 + x),
    "angle": lambda x: jnp.arctan2(x, 1 + x**2),
    "cube root": lambda x: jnp.cbrt(2 + x),
    "power of two": jnp.exp2,
    "complementary erf": special.erfc,
    "trigamma": lambda x: special.polygamma(1, 2 + x),
    "steps": lambda x: x * (jnp.floor(3 * x) + jnp.ceil(3 * x) + jnp.round(3 * x) + jnp.sign(x)),
    "remainder": lambda x: jax.lax.rem(3 * x, jnp.full(5, 0.7)) ** 2,
    "smaller": lambda x: jax.lax.min(x, 1 - x) + jax.lax.square(x),
    "stopped": lambda x: jax.lax.stop_gradient(x) * x**2,
}
ARRAYS: dict[str, Callable[[Any], Any]] = {
    "softmax": jax.nn.softmax,
    "gradient of a log-sum-exp": jax.grad(lambda x: special.logsumexp(x * x)),
    "gradient of a logistic likelihood": jax.grad(lambda x: jnp.sum(jax.nn.softplus(MIX @ x))),
    "gathered": lambda x: x[jnp.array([0, 0, 3])] ** 2,
    "scattered": lambda x: x.at[1].set(x[0] ** 2).at[2].add(x[3]),
    "sorted": lambda x: jnp.sort(x) ** 3,
    "largest": lambda x: jnp.max(x) ** 2 + jnp.min(x),
    "product": jnp.prod,
    "cumulated": lambda x: jnp.cumsum(jnp.cumprod(x)),
    "running": lambda x: jax.lax.cumlogsumexp(x) + jax.lax.cummax(x),
    "norm": jnp.linalg.norm,
    "convolved": lambda x: jnp.convolve(x, x**2),
    "transformed": lambda x: jnp.real(jnp.fft.fft(jnp.sin(x))),
    "variance": jnp.var,
}
MATRICES: dict[str, Callable[[Any], Any]] = {
    "solved": lambda x: jnp.linalg.solve(spd(x), x),
    "inverted": lambda x: jnp.linalg.inv(spd(x)),
    "cholesky": lambda x: jnp.linalg.cholesky(spd(x)),
    "triangular": lambda x: linalg.solve_triangular(spd(x), x, lower=True),
    "gradient of a log determinant": jax.grad(lambda x: jnp.linalg.slogdet(spd(x))[1]),
    "factors of lu": lambda x: linalg.lu_factor(spd(x))[0],
    "triangle of qr": lambda x: jnp.linalg.qr(spd(x))[1],
    "singular values": lambda x: jnp.linalg.svd(spd(x))[1],
    "eigenvalues": lambda x: jnp.linalg.eigh(spd(x))[0],
}
FLOW: dict[str, Callable[[Any], Any]] = {
    "scan": lambda x: jax.lax.scan(lambda c, a: (jnp.sin(c) * a + c, c * a), 1.0, x)[1],
    "gradient of a scan": jax.grad(
        lambda x: jax.lax.scan(lambda c, a: (jnp.tanh(c) + a, c * a), 0.5, x)[1].sum()
    ),
    "while": lambda x: jax.lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.exp(-c[1]) * x), (0, x)
    )[1],
    "branch": lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
    "remembered": jax.checkpoint(lambda x: jnp.sin(jnp.exp(x))),
}


def nested(f: Callable[[Any], Any]) -> list[np.ndarray]:
    """Coefficients by one forward mode inside the other."""
    functions = [lambda e: f(X + e * MOVE)]
    for _ in range(ORDER):
        last = functions[-1]
        functions.append(lambda e, last=last: jax.jvp(last, (e,), (1.0,))[1])
    found = jax.jit(lambda e: [g(e) for g in functions])(0.0)
    return [np.asarray(a) / math.factorial(k) for k, a in enumerate(found)]


def series(f: Callable[[Any], Any]) -> list[np.ndarray]:
    program = jax.make_jaxpr(f)(X)
    given = [X, MOVE, *[np.zeros(5)] * (ORDER - 1)]
    return [np.asarray(a) for a in jax.jit(lambda g: through(program, [g])[0])(given)]


@pytest.mark.parametrize(
    "group",
    [pytest.param(ELEMENTWISE, marks=pytest.mark.slow), ARRAYS, MATRICES, FLOW],
    ids=["elementwise", "arrays", "matrices", "flow"],
)
def test_series_are_those_of_nested_forward_mode(group):
    # All of a group in one program: they are compiled together.
    def everything(x: Any) -> Any:
        return jnp.concatenate([jnp.ravel(f(x)) for f in group.values()])

    sizes = [np.size(f(jnp.asarray(X))) for f in group.values()]
    name = np.repeat(list(group), sizes)
    for k, (a, b) in enumerate(zip(series(everything), nested(everything), strict=True)):
        # Rounding of some thirty operations, relative to the largest coefficient of the function.
        wrong = np.abs(a - b) > 1e-11 * (1e-3 + np.abs(b))
        assert not np.any(wrong), (k, set(name[wrong]), a[wrong], b[wrong])


def test_a_primitive_without_a_rule_works_and_warns():
    def f(x: Any) -> Any:
        return jax.lax.igamma(jnp.full(5, 2.0), x)

    with pytest.warns(UserWarning, match="igamma has no Taylor rule of its own"):
        found = series(f)
    np.testing.assert_allclose(np.stack(found), np.stack(nested(f)), rtol=1e-9, atol=1e-12)


def test_what_has_no_derivative_is_refused_by_name():
    def f(x: Any) -> Any:
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((5,), float), x)

    warnings.simplefilter("ignore")
    with pytest.raises(TypeError, match="pure_callback has no derivative"):
        series(f)


def test_work_grows_with_the_square_of_the_order():
    def size(order: int) -> int:
        program = jax.make_jaxpr(lambda x: jnp.sum(jnp.exp(jnp.tanh(MIX @ x)) ** 3))(X)
        given = [X, MOVE, *[X] * (order - 1)]
        return len(jax.make_jaxpr(lambda g: through(program, [g])[0])(given).jaxpr.eqns)

    # Twice the order: at most four times the operations, and something that does not grow.
    assert size(8) < 4 * size(4)
