"""What a certified draw of a network's parameters costs, beside Lanczos of half as many steps.

The network of `examples/mnist.py` (31,202 parameters, float32, 8,000 images), its Gauss-Newton
matrix with a prior. The rival is the usual single-vector recurrence at m = d / 2 steps, which takes
m products with the same matrix (and m² d numbers of orthogonalisation, or loses orthogonality): its
time is that of a few steps at the start and near basis sizes of the end, extrapolated to all.

    python benchmarks/draws.py [--draws 100] [--epochs 50]
"""

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import network

import expressway as ew
from expressway.core import lanczos

# Steps of the rival that are timed, and sizes of its basis.
STEPS = 20


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--prior-precision", type=float, default=3.0)
    options = parser.parse_args()
    data = ew.datasets.mnist()
    images, labels = jnp.asarray(data.images[data.train]), jnp.asarray(data.labels[data.train])
    precision = options.prior_precision
    theta = network.adam(
        network.start(jax.random.key(0)), images, labels, precision, epochs=options.epochs
    )
    theta = network.polished(theta, images, labels, precision, steps=100).theta
    problem = ew.Objective.supervised(
        network.logits, ew.losses.categorical, (images, labels), prior_precision=precision
    )
    fit = problem.trained(theta)
    operator = ew.operators.gauss_newton(problem, theta)
    print(f"{operator.size:,} parameters, gradient norm {fit.gradient_norm:.3g}")
    print(f"memory before draws: {_peak():.0f} MB")
    each = {}
    for run, rtol in (("cold", 1e-2), ("warm", 1e-2)):
        clock, cpu = time.perf_counter(), time.process_time()
        draws: Any = ew.draws(fit, jax.random.key(1), options.draws, kind="gauss-newton", rtol=rtol)
        wall, cpu = time.perf_counter() - clock, time.process_time() - cpu
        each[run, rtol] = wall / options.draws
        print(f"{run}, rtol {rtol:g}: {wall:.1f} s wall, {cpu:.1f} s CPU; {draws}")
    print(f"memory after: {_peak():.0f} MB")
    clock = time.perf_counter()
    one = lanczos.inverse_root(
        operator, np.random.default_rng(0).normal(size=(1, operator.size)), 1e-2
    )
    alone = time.perf_counter() - clock
    print(
        f"one draw alone: {alone:.1f} s, {one.matvecs} products; Ritz values {one.smallest:.4g} to "
        f"{one.largest:.4g}"
    )
    product, total = rival(operator)
    m = operator.size // 2
    print(f"rival, m = {m:,}: {m * product:,.0f} s of products alone ({product:.3f} s each)")
    print(f"rival with orthogonalisation against all: {total:,.0f} s (both extrapolated)")
    for (run, rtol), cost in each.items():
        print(f"{run}, rtol {rtol:g}: {cost:.3f} s a draw, {m * product / cost:,.0f} times cheaper")
    print(f"one draw alone: {m * product / alone:,.0f} times cheaper")


def rival(operator: Any) -> tuple[float, float]:
    """Seconds of one product, and of m = d / 2 steps with orthogonalisation, extrapolated."""
    m = operator.size // 2
    v = jnp.asarray(np.random.default_rng(1).normal(size=operator.size), dtype=operator.dtype)
    jax.block_until_ready(operator @ v)
    clock = time.perf_counter()
    for _ in range(STEPS):
        v = operator @ v
        v = v / jnp.linalg.norm(v)
    jax.block_until_ready(v)
    product = (time.perf_counter() - clock) / STEPS
    size = 2000
    basis = np.random.default_rng(2).normal(size=(size, operator.size)).astype(operator.dtype)
    w = np.asarray(v)
    clock = time.perf_counter()
    for _ in range(5):
        w = w - (basis @ w) @ basis
        w /= np.linalg.norm(w)
    step = (time.perf_counter() - clock) / 5 / size  # for each vector of the basis
    return product, m * product + step * m * (m + 1) / 2


def _peak() -> float:
    """Most memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
