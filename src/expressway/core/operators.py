"""Hessians and information matrices of objectives, by products summed over mini-batches.

Every matrix is summed over all observations, never a mean; vectors are in the order of
``ravel_pytree`` of the unconstrained parameters. With J the derivative of a model's outputs in the
parameters, w_n how often observation n counts, and the loss a negative log-likelihood:

- `hessian`: second derivative of the whole objective, of any sign away from a minimum;
- `gauss_newton`: ``sum_n w_n J_n' H_n J_n``, H_n the loss's Hessian in the outputs (Schraudolph
  2002, Neural Computation 14:1723, section 3);
- `fisher`: the same with the expectation of H_n under the model (Martens 2020, JMLR 21:146,
  section 9: equal to Gauss-Newton for the canonical losses of `expressway.losses`);
- `empirical_fisher`: ``sum_n w_n g_n g_n'``, g_n the observation's gradient. No approximation of
  the others away from a well-specified optimum (Kunstner, Balles & Hennig 2019, NeurIPS).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from expressway._errors import InputError
from expressway._types import Float

from .coordinates import precision
from .losses import Loss
from .minibatch import Batch, Point, losses_of, outputs_of, penalty_of, point_of, weights_positive
from .operator import Operator
from .problem import Objective
from .problem import functions as functions_of

Curvature = Literal["gauss-newton", "fisher", "empirical-fisher"]
# Outputs up to which a Hessian in them is decomposed for every observation: 64³ operations are
# as many as a small network's forward pass.
MANY = 64


def hessian(
    objective: Objective,
    theta: Any,
    data: Any = None,
    *,
    hyper: Any = (),
    batch_size: int | None = None,
    prior_precision: float = 0.0,
) -> Operator:
    """The Hessian of an objective, summed over all observations, plus a multiple of the identity.

    Forward over reverse; one linearisation of a mini-batch serves all vectors.

    Parameters
    ----------
    objective
        Any objective; one that is no sum over observations is differentiated whole, in doubles.
    theta
        Where. Products are in float32 where all of theta is, else in float64; data are converted.
    data
        Observations instead of the objective's own.
    hyper
        Hyperparameters; weights of observations count if they are `Weighted`.
    batch_size
        Observations that are computed together; chosen by the size of the model when not given.
    prior_precision
        Added to the diagonal, besides what the objective itself has.

    Raises
    ------
    InputError
        Parameters, data or weights do not fit the objective.
    """
    damping = _checked(prior_precision)
    if objective.rows is None:
        if data is not None or batch_size is not None:
            msg = "this objective is no sum over observations: it takes no data or batch_size"
            raise InputError(msg)
        return _whole(objective, theta, hyper, damping)
    point = point_of(objective, theta, data, hyper, batch_size)
    damping, penalty = _damping(point, damping)

    def make(point: Point) -> Callable[..., Any]:
        losses = losses_of(point)

        def product(batch: Batch, t: Any, h: Any, v: Any) -> Any:
            total = jax.grad(lambda t: jnp.sum(batch.weight * losses(t, h, batch.data)))
            _, push = jax.linearize(total, t)
            return jax.vmap(push)(v)

        return product

    return Operator(
        size=point.t.size,
        dtype=point.coordinates.dtype,
        kind="hessian",
        rows=_rows(point, "hessian", make, penalty, damping),
        damping=damping,
    )


def gauss_newton(
    objective: Objective,
    theta: Any,
    data: Any = None,
    *,
    hyper: Any = (),
    batch_size: int | None = None,
    prior_precision: float = 0.0,
) -> Operator:
    """The generalised Gauss-Newton matrix of a supervised objective, ``J' H J``.

    Positive semidefinite where the loss is convex in the outputs. That is known of the losses of
    `expressway.losses`; of another it is looked for in every observation's Hessian, to rounding
    (of up to 64 outputs). Only then ``lower`` and ``noise`` are given.

    Parameters and errors as for `hessian`; `InputError` also for an objective that was not made by
    `Objective.supervised`.
    """
    point = _supervised("gauss_newton", objective, theta, data, hyper, batch_size)
    return _curvature("gauss-newton", point, prior_precision)


def fisher(
    objective: Objective,
    theta: Any,
    data: Any = None,
    *,
    hyper: Any = (),
    batch_size: int | None = None,
    prior_precision: float = 0.0,
) -> Operator:
    """The Fisher information of a supervised objective at its inputs, ``J' E[H] J``.

    The expectation is exact, not sampled. Parameters and errors as for `gauss_newton`;
    `InputError` also for a loss that does not know its expected information.
    """
    point = _supervised("fisher", objective, theta, data, hyper, batch_size)
    if not isinstance(_loss(point), Loss):
        msg = (
            f"the loss {_loss(point)!r} has no expected information; take one of ew.losses "
            "(categorical, bernoulli, poisson, normal, negative_binomial), or gauss_newton or "
            "hessian"
        )
        raise InputError(msg)
    return _curvature("fisher", point, prior_precision)


def empirical_fisher(
    objective: Objective,
    theta: Any,
    data: Any = None,
    *,
    hyper: Any = (),
    batch_size: int | None = None,
    prior_precision: float = 0.0,
) -> Operator:
    """The sum of outer products of the observations' gradients, ``sum_n w_n g_n g_n'``.

    Weights count once: an observation of weight 2 is two observations. (The middle of a sandwich,
    where weights are not counts, has their squares; it is not made here.) Parameters and errors as
    for `hessian`, of any additive objective.
    """
    if objective.rows is None:
        msg = "empirical_fisher is of sums over observations: use Objective.additive or .supervised"
        raise InputError(msg)
    point = point_of(objective, theta, data, hyper, batch_size)
    return _curvature("empirical-fisher", point, prior_precision)


# What follows is how.


def _checked(prior_precision: float) -> float:
    if not 0.0 <= prior_precision < np.inf:
        msg = f"prior_precision is {prior_precision}, needed is a finite number >= 0"
        raise InputError(msg)
    return float(prior_precision)


def _supervised(
    name: str, objective: Objective, theta: Any, data: Any, hyper: Any, batch_size: int | None
) -> Point:
    if objective.rows is None or objective.rows.made is None:
        msg = (
            f"{name} needs a model and its loss apart: make the objective by "
            "Objective.supervised(model, loss, (inputs, targets)), or take hessian"
        )
        raise InputError(msg)
    return point_of(objective, theta, data, hyper, batch_size)


def _loss(point: Point) -> Any:
    return None if point.rows.made is None else point.rows.made.loss


def _damping(point: Point, prior_precision: float) -> tuple[float, bool]:
    """The identity's multiple, and whether there is a penalty besides it."""
    made = point.rows.made
    if made is None or point.coordinates.constraints is not None:
        return prior_precision, point.rows.penalty is not None
    return prior_precision + made.prior_precision, False


def _rows(
    point: Point, name: str, make: Callable[..., Any], penalty: bool, damping: float
) -> Callable[[Any], Any]:
    """``rows(v)`` of a sum of products, a penalty's Hessian and a multiple of the identity."""

    def beginning(point: Point) -> Callable[..., Any]:
        more = penalty_of(point) if penalty else None

        def begin(t: Any, h: Any, damping: Any, v: Any) -> Any:
            if more is None:
                return damping * v
            _, push = jax.linearize(lambda t: jax.grad(more)(t, h), t)  # pyright: ignore
            return damping * v + jax.vmap(push)(v)

        return begin

    begin = point.compiled(f"beginning {penalty}", beginning)
    added = np.asarray(damping, dtype=point.t.dtype)

    def product(v: Any) -> Any:
        return point.sum(name, make, begin(point.t, point.h, added, v), v)

    def rows(v: Float[Any, "b d"]) -> Float[Any, "b d"]:
        held = jnp.asarray(v, dtype=point.t.dtype)
        if held.ndim != 2 or held.shape[1] != point.t.size:
            msg = f"vectors are {held.shape}, needed are rows of {point.t.size} parameters"
            raise InputError(msg)
        return point.in_parts(product, held)

    return rows


def _curvature(kind: Curvature, point: Point, prior_precision: float) -> Operator:
    """``J' M J`` with its noise; M is positive semidefinite or said not to be."""
    damping, penalty = _damping(point, _checked(prior_precision))

    def make(point: Point) -> Callable[..., Any]:
        function, middle = _function(kind, point), _middle(kind, _loss(point))

        def product(batch: Batch, t: Any, h: Any, v: Any) -> Any:
            f, push = jax.linearize(lambda t: function(t, h, batch.data), t)
            pull = jax.linear_transpose(push, t)
            weight = jnp.reshape(batch.weight, (-1, *(1,) * (f.ndim - 1)))
            return jax.vmap(lambda v: pull(weight * middle(f, batch.data, push(v)))[0])(v)

        return product

    semidefinite = weights_positive(point) and not penalty and _convex(kind, point)
    return Operator(
        size=point.t.size,
        dtype=point.coordinates.dtype,
        kind=kind,
        rows=_rows(point, kind, make, penalty, damping),
        damping=damping,
        lower=damping if semidefinite and damping > 0.0 else None,
        noise=_noise(kind, point, damping) if semidefinite else None,
    )


def _function(kind: Curvature, point: Point) -> Callable[..., Any]:
    """What J is the derivative of: outputs, or the losses themselves."""
    if kind == "empirical-fisher":
        return losses_of(point)
    outputs = outputs_of(point)
    return lambda t, h, data: outputs(t, data)  # noqa: ARG005


def _middle(kind: Curvature, loss: Any) -> Callable[..., Any]:
    """``middle(f, data, m)``: M times a change of all outputs of a batch."""
    if kind == "empirical-fisher":
        return lambda f, data, m: m  # noqa: ARG005
    # The same matrix where the loss's Hessian does not depend on the target; by its root it takes a
    # fraction of the time of differentiating the loss once more for every vector.
    if kind == "fisher" or (isinstance(loss, Loss) and loss.canonical):

        def expected(f: Any, m: Any) -> Any:
            def factor(e: Any) -> Any:
                return loss.root(f, e)

            return factor(jax.linear_transpose(factor, m)(m)[0])

        return lambda f, data, m: jax.vmap(expected)(f, m)  # noqa: ARG005

    def observed(f: Any, y: Any, m: Any) -> Any:
        return jax.jvp(jax.grad(lambda f: loss(f, y)), (f,), (m,))[1]

    return lambda f, data, m: jax.vmap(observed)(f, data[1], m)


def _convex(kind: Curvature, point: Point) -> bool:
    """Whether M is positive semidefinite: known of the loss, or seen in all observations."""
    loss = _loss(point)
    if kind != "gauss-newton" or (isinstance(loss, Loss) and loss.convex):
        return True
    if _outputs(point) > MANY:
        return False

    def make(point: Point) -> Callable[..., Any]:
        outputs = outputs_of(point)

        def ends(batch: Batch, t: Any, h: Any) -> Any:  # noqa: ARG001
            values = jnp.linalg.eigvalsh(_hessians(loss, outputs(t, batch.data), batch.data[1]))
            return jnp.stack([jnp.max(-values), jnp.max(jnp.abs(values))])

        return ends

    zero = jnp.zeros(2, dtype=point.t.dtype)
    below, largest = point.sum("ends", make, zero, combine=jnp.maximum)
    # Derivatives and eigenvalues of c numbers are wrong by a few units of rounding, times c.
    return bool(below <= 4 * MANY * jnp.finfo(zero.dtype).eps * largest)


def _outputs(point: Point) -> int:
    """Numbers that the model gives for one input."""
    row = jax.tree.map(lambda a: a[:1], point.rows.data)
    found = jax.eval_shape(outputs_of(point), point.t, row)
    return int(np.prod(found.shape))


def _hessians(loss: Any, f: Any, y: Any) -> Any:
    """Of each observation in its outputs: m by c by c."""

    def one(f: Any, y: Any) -> Any:
        return jax.hessian(lambda a: loss(jnp.reshape(a, f.shape), y))(jnp.ravel(f))

    return jax.vmap(one)(f, y)


def _noise(kind: Curvature, point: Point, damping: float) -> Callable[[Any, int], Any] | None:
    """``noise(key, b)``: ``J' (w M)^(1/2) e + damping^(1/2) e2``, or None without a factor."""
    loss = _loss(point)
    if kind == "gauss-newton" and not (isinstance(loss, Loss) and loss.canonical):
        if _outputs(point) > MANY:
            return None
        factor = _decomposed(loss)
    elif kind == "empirical-fisher":
        factor = lambda f, data, e: e  # noqa: ARG005, E731
    else:
        factor = lambda f, data, e: jax.vmap(jax.vmap(loss.root), (None, 0))(f, e)  # noqa: ARG005, E731

    def make(point: Point) -> Callable[..., Any]:
        function = _function(kind, point)

        def drawn(batch: Batch, t: Any, h: Any, key: Any, like: Any) -> Any:
            f, pull = jax.vjp(lambda t: function(t, h, batch.data), t)
            own = jax.random.fold_in(key, batch.first)
            e = _normal(own, (len(like), *f.shape), f.dtype)
            root = jnp.reshape(jnp.sqrt(batch.weight), (1, -1, *(1,) * (f.ndim - 1)))
            return jax.vmap(lambda e: pull(e)[0])(root * factor(f, batch.data, e))

        return drawn

    def noise(key: Any, b: int) -> Any:
        observed, prior = jax.random.split(key)
        parts = []
        for first in range(0, b, point.together):
            shape = (min(point.together, b - first), point.t.size)
            zero = jnp.zeros(shape, point.t.dtype)
            own = jax.random.fold_in(observed, first)
            parts.append(point.sum(f"{kind} noise", make, zero, own, np.zeros(shape[0])))
        white = _normal(prior, (b, point.t.size), point.t.dtype)
        return jnp.concatenate(parts) + np.asarray(damping**0.5, point.t.dtype) * white

    return noise


def _normal(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """White noise; drawn flat, which XLA compiles in a tenth of the time that three axes take."""
    return jnp.reshape(jax.random.normal(key, (int(np.prod(shape)),), dtype=dtype), shape)


def _decomposed(loss: Any) -> Callable[..., Any]:
    """A factor of each observation's Hessian, of its eigenvectors; for any loss."""

    def factor(f: Any, data: Any, e: Any) -> Any:
        values, vectors = jnp.linalg.eigh(_hessians(loss, f, data[1]))
        scaled = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[:, None]
        flat = jnp.reshape(e, (*e.shape[:2], -1))
        return jnp.reshape(jnp.einsum("mij,bmj->bmi", scaled, flat), e.shape)

    return factor


def _whole(objective: Objective, theta: Any, hyper: Any, damping: float) -> Operator:
    """The Hessian of a function that is no sum, in doubles."""
    f = functions_of(objective, theta, hyper, "matrix-free")
    t = f.system.start(theta)
    dtype = precision(theta)
    if "products" not in f.system.kept:
        push = jax.vmap(f.system.push, (None, None, None, 0))
        f.system.kept["products"] = jax.jit(push)
    products = f.system.kept["products"]

    def rows(v: Float[Any, "b d"]) -> Float[Any, "b d"]:
        held = jnp.asarray(v, dtype=float)
        return jnp.asarray(products(t, f.h, f.held, held) + damping * held, dtype=dtype)

    return Operator(f.system.theta.size, dtype, "hessian", rows, damping)
