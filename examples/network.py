"""A small convolutional network that reads digits, in JAX and in torch, and how it is trained.

Two convolutions of 5 × 5 at stride 2 (8 and 16 channels) and two dense layers (104 and 10), tanh
between them: 31,202 numbers. Convolutions are written as matrix products over patches: on a CPU
XLA's own take several times as long, most of all when they are vectorised or differentiated.

What is trained is the whole objective that uncertainty is about: the SUM of cross entropies over
all images, and half the prior precision times the squared length of the parameters. First by Adam on
small batches, then, so that it is an optimum, by quasi-Newton steps on all images.
"""

from collections.abc import Callable
from functools import partial
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


class Trained(NamedTuple):
    """Where training ended."""

    theta: list[Layer]
    objective: float
    gradient_norm: float
    """Of the whole objective: a sum, not a mean."""


def train(
    theta: list[Layer], images: Any, labels: Any, precision: float, *, epochs: int, polish: int
) -> Trained:
    """The parameters that minimise ``sum cross entropy + precision / 2 |theta|²``.

    Parameters
    ----------
    theta
        Start.
    images, labels
        n by 28 by 28, and n.
    precision
        Prior precision of every parameter.
    epochs
        Passes of Adam over all images.
    polish
        Most steps of L-BFGS on all images at once after it.
    """
    theta = adam(theta, images, labels, precision, epochs)
    return polished(theta, images, labels, precision, polish)


def adam(
    theta: list[Layer], images: Any, labels: Any, precision: float, epochs: int, batch: int = 100
) -> list[Layer]:
    """Parameters after Adam (Kingma and Ba 2015) on random batches; the rate falls to 0 linearly."""
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
        rate = 3e-3 * (1 - k / steps) * jnp.sqrt(1 - 0.999 ** (k + 1)) / (1 - 0.9 ** (k + 1))
        move = lambda a, m, s: (a - rate * m / (jnp.sqrt(s) + 1e-8)).astype(a.dtype)  # noqa: E731
        return jax.tree.map(move, theta, mean, square), mean, square

    order = np.random.default_rng(0)
    zero = jax.tree.map(jnp.zeros_like, theta)
    state, k = (theta, zero, zero), 0
    for _ in range(epochs):
        for rows in order.permutation(n)[: n // batch * batch].reshape(-1, batch):
            state, k = step(state, np.float32(k), rows), k + 1
    return state[0]


def whole(
    theta: list[Layer], images: Any, labels: Any, precision: float, batch: int = 250
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The objective over all images and its gradient, of a vector; batches fit a core's cache."""
    start, shaped = ravel_pytree(theta)
    n = len(labels) // batch * batch
    parts = [images[:n].reshape(-1, batch, *images.shape[1:]), labels[:n].reshape(-1, batch)]
    both = jax.value_and_grad(lambda t, x, y: cross_entropy(shaped(t), x, y))

    @jax.jit
    def total(t: Any, parts: Any, rest: Any) -> Any:
        def add(sums: Any, part: Any) -> Any:
            value, slope = both(t, *part)
            # Sums in doubles: a gradient near zero is what is left of large terms.
            return (sums[0] + value, sums[1] + slope), None

        zero = (jnp.zeros((), dtype=jnp.float64), jnp.zeros(t.shape, dtype=jnp.float64))
        value, slope = jax.lax.scan(add, zero, parts)[0]
        more, tail = both(t, *rest) if len(rest[1]) else (0.0, 0.0)
        return value + more + precision / 2 * jnp.vdot(t, t), slope + tail + precision * t

    rest = images[n:], labels[n:]

    def at(vector: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = total(jnp.asarray(vector, dtype=start.dtype), parts, rest)
        return float(value), np.asarray(slope, dtype=np.float64)

    return at
