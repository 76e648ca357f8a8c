"""A small convolutional network that reads digits, in JAX, and how it is trained to an optimum.

Two convolutions of 5 × 5 at stride 2 (8 and 16 channels) and two dense layers (104 and 10), tanh
between them: 31,202 numbers. Convolutions are written as matrix products over patches: on a CPU
XLA's own take many times as long, most of all when they are differentiated for many vectors.

What is minimised is the objective that uncertainty is about: the SUM of cross entropies over all
images, and half the prior precision times the squared length of the parameters. First by Adam on
small batches, then by quasi-Newton steps on all images.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

KERNEL, STRIDE = 5, 2
CHANNELS = (8, 16)
HIDDEN = 104
CLASSES = 10
SIDE = (28, 12, 4)  # pixels of an image, and of what either convolution makes of it


class Layer(NamedTuple):
    """What one layer is made of."""

    weight: Any
    """Inputs by outputs; inputs of a convolution: rows, columns and channels of a patch."""
    bias: Any


def sizes(width: float = 1.0) -> list[tuple[int, int]]:
    """Inputs and outputs of the layers; their numbers grow with the square of the width."""
    first, second, hidden = (max(1, round(width * k)) for k in (*CHANNELS, HIDDEN))
    patch = KERNEL**2
    return [
        (patch, first),
        (patch * first, second),
        (SIDE[-1] ** 2 * second, hidden),
        (hidden, CLASSES),
    ]


def start(key: jax.Array, width: float = 1.0) -> list[Layer]:
    """Random weights in float32 whose outputs vary about as much as their inputs; biases are 0."""
    return [
        Layer(
            jax.random.normal(part, (a, b), dtype=jnp.float32) / np.float32(np.sqrt(a)),
            jnp.zeros(b, dtype=jnp.float32),
        )
        for part, (a, b) in zip(jax.random.split(key, 4), sizes(width), strict=True)
    ]


def count(theta: Any) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(theta))


def patches(image: Any) -> Any:
    """The 5 × 5 patches of an image (rows, columns, channels), every second one each way."""
    side = (image.shape[0] - KERNEL) // STRIDE + 1
    reach = STRIDE * side - 1
    return jnp.concatenate(
        [
            image[i : i + reach : STRIDE, j : j + reach : STRIDE]
            for i in range(KERNEL)
            for j in range(KERNEL)
        ],
        axis=-1,
    )


def logits(theta: list[Layer], image: Any) -> Any:
    """Ten numbers for one image (28 by 28): log probabilities of the digits, but for a constant."""
    first, second, hidden, last = theta
    x = jnp.tanh(patches(image[..., None]) @ first.weight + first.bias)
    x = jnp.tanh(patches(x) @ second.weight + second.bias)
    x = jnp.tanh(x.reshape(-1) @ hidden.weight + hidden.bias)
    return x @ last.weight + last.bias


def cross_entropy(theta: list[Layer], images: Any, labels: Any) -> Any:
    """The sum over images of -log probability of what they show."""
    out = jax.vmap(logits, (None, 0))(theta, images)
    right = jnp.take_along_axis(out, labels[:, None], axis=1)[:, 0]
    return jnp.sum(jax.nn.logsumexp(out, axis=1) - right)


def adam(
    theta: list[Layer],
    images: Any,
    labels: Any,
    precision: float,
    *,
    epochs: int,
    rate: float = 1e-2,
    batch: int = 100,
) -> list[Layer]:
    """Parameters after Adam (Kingma and Ba 2015) on random batches; its rate falls to 0."""
    n = len(labels)
    steps = epochs * (n // batch)

    def loss(theta: list[Layer], rows: Any) -> Any:
        prior = precision / (2 * n) * sum(jnp.vdot(a, a) for a in jax.tree.leaves(theta))
        return cross_entropy(theta, images[rows], labels[rows]) / batch + prior

    @jax.jit
    def step(state: Any, k: Any, rows: Any) -> Any:
        theta, mean, square = state
        slope = jax.grad(loss)(theta, rows)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, square, slope)
        now = rate * (1 - k / steps) * jnp.sqrt(1 - 0.999 ** (k + 1)) / (1 - 0.9 ** (k + 1))
        moved = jax.tree.map(
            lambda a, m, s: a - now * m / (jnp.sqrt(s) + 1e-8), theta, mean, square
        )
        return moved, mean, square

    order = np.random.default_rng(0)
    zero = jax.tree.map(jnp.zeros_like, theta)
    state, k = (theta, zero, zero), 0
    for _ in range(epochs):
        for rows in order.permutation(n)[: n // batch * batch].reshape(-1, batch):
            state, k = step(state, np.float32(k), rows), k + 1
    return state[0]


class Optimum(NamedTuple):
    """Where training ended."""

    theta: list[Layer]
    objective: float
    gradient_norm: float
    """Of the whole objective: a sum, not a mean."""


def whole(
    theta: list[Layer], images: Any, labels: Any, precision: float
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The objective over all images and its gradient, as functions of a vector."""
    _, shaped = ravel_pytree(theta)
    n = len(labels)
    size = max(k for k in range(1, 251) if n % k == 0)  # batches that fit a core's cache
    parts = images.reshape(-1, size, *images.shape[1:]), labels.reshape(-1, size)
    both = jax.value_and_grad(lambda t, x, y: cross_entropy(shaped(t), x, y))

    @jax.jit
    def total(t: Any, parts: Any) -> Any:
        def add(sums: Any, part: Any) -> Any:
            value, slope = both(t, *part)
            return (sums[0] + value, sums[1] + slope), None

        # Sums in doubles: a gradient near zero is what large terms leave of each other.
        zero = jnp.zeros((), jnp.float64), jnp.zeros(t.shape, jnp.float64)
        return jax.lax.scan(add, zero, parts)[0]

    def at(vector: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = total(jnp.asarray(vector, jnp.float32), parts)
        prior = precision / 2 * float(vector @ vector)
        return float(loss) + prior, np.asarray(slope) + precision * vector

    return at


def polished(
    theta: list[Layer], images: Any, labels: Any, precision: float, *, steps: int
) -> Optimum:
    """Parameters after so many steps of L-BFGS on all images."""
    t, shaped = ravel_pytree(theta)
    found = minimize(
        whole(theta, images, labels, precision),
        np.asarray(t, dtype=np.float64),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps, "maxcor": 30, "ftol": 0.0, "gtol": 1e-3},
    )
    norm = float(np.linalg.norm(found.jac))
    return Optimum(shaped(jnp.asarray(found.x, t.dtype)), float(found.fun), norm)
