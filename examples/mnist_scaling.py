"""Time of a draw against the number of parameters: ``python mnist.py --scaling``."""

import resource
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import network
import pandas as pd

import expressway as ew

# 9.9 thousand to 1.01 million parameters.
WIDTHS = (0.56, 1.0, 1.8, 3.2, 5.72)


def run(images: Any, labels: Any, precision: float, out: Path, draws: int = 8) -> None:
    """Draws of wider and wider networks, each trained by Adam on the same images.

    On the CPU, and on a GPU where JAX has one.
    """
    rows = []
    print("device  parameters  products a draw  seconds a draw  seconds a product  bound  memory")
    for device in {d.platform: d for d in (*jax.devices("cpu")[:1], *jax.devices()[:1])}.values():
        with jax.default_device(device):
            for width in WIDTHS:
                rows.append(
                    {
                        "method": device.platform.upper(),
                        **_one(width, jnp.asarray(images), jnp.asarray(labels), precision, draws),
                    }
                )
                print(_line(rows[-1]), flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(out / "scaling.csv", index=False)
    ew.pl.scaling(table).figure.savefig(out / "scaling.png")
    print(f"{out / 'scaling.png'}\n{out / 'scaling.csv'}")


def _one(width: float, images: Any, labels: Any, precision: float, draws: int) -> dict[str, Any]:
    """One network: what its draws cost once everything is compiled."""
    theta = network.start(jax.random.key(0), width)
    theta = network.adam(theta, images, labels, precision, epochs=20)
    problem = ew.Objective.supervised(
        network.logits, ew.losses.categorical, (images, labels), prior_precision=precision
    )
    fit = problem.trained(theta)
    seconds = 0.0
    for rtol in (0.5, 1e-2):  # the first compiles
        clock = time.perf_counter()
        found = ew.draws(
            fit, jax.random.key(1), draws, kind="gauss-newton", rtol=rtol, method="lanczos"
        )
        seconds = time.perf_counter() - clock
    return {
        "parameters": network.count(theta),
        "seconds": seconds / draws,
        "products": found.matvecs / draws,
        "product_seconds": seconds / found.matvecs,
        "bound": float(found.error_bound.max()),
        "basis": found.basis,
        # Kilobytes on Linux, of the largest so far: networks go up in size.
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['method']:6s} {row['parameters']:11,d} {row['products']:16.1f} "
        f"{row['seconds']:15.2f} {row['product_seconds']:18.3f} {row['bound']:6.0e} "
        f"{row['peak_gigabytes']:5.1f} GB"
    )
