"""Draws of all coefficients of all genes, and ranks of genes: what they cost.

``cost``: wall and CPU seconds and peak memory of draws, of intervals with ranks, and of the
covariances that need rows, in a process that did nothing before (cold, with an empty cache) and
warm. ``rivals``: the same draws by NumPy and SciPy, gene by gene in a loop, of some of the genes;
what all would take is extrapolated, and said so.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from scipy import stats

import expressway as ew
from expressway.core.cohort import Pooled, samples
from expressway.io import peak_memory
from expressway.models import deseq, gene_ranks
from expressway.models.cells import groups
from expressway.models.gene_covariance import normal
from expressway.models.gene_draws import draws

REPEATS = 5


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cost", "rivals", "once"))
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--draws", type=int, default=1_000)
    parser.add_argument("--some", type=int, default=1_000, help="Genes of the rivals.")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    {"cost": cost, "rivals": rivals, "once": once}[wanted.what](wanted)


def fitted(wanted: argparse.Namespace) -> tuple[deseq.DESeqFit, Pooled]:
    """A fit of three coefficients: level, batch, condition."""
    adata = ew.datasets.simulate(wanted.genes, wanted.samples, batches=2, seed=wanted.seed)
    x: Any = adata.X
    coded = ew.io.design("~ batch + condition", adata.obs, {})
    rows = samples(np.asarray(x, float), coded.matrix)
    fit, cohort = deseq.fit(Pooled(rows), groups(coded.matrix))
    return fit, cohort  # pyright: ignore[reportReturnType]


def clocked(fn: Any) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    fn()
    return time.perf_counter() - wall, time.process_time() - cpu


def once(wanted: argparse.Namespace) -> None:
    """First and later calls of this process, as a line of JSON."""
    fit, cohort = fitted(wanted)
    key, n = jax.random.key(wanted.seed), wanted.draws
    contrast = np.array([0.0, 0.0, 1.0])

    def ranked() -> None:
        of = gene_ranks.along(normal(fit), contrast)
        gene_ranks.intervals(*of)
        gene_ranks.ranks(of, key, gene_ranks.Choices(draws=n))

    work = {
        "intervals and ranks of a contrast": ranked,
        "covariances: hessian": lambda: normal(fit, "hessian", cohort=cohort),
        "covariances: sandwich": lambda: normal(fit, "sandwich", cohort=cohort),
        "draws of all coefficients": lambda: draws(fit, key, n),
    }
    found: dict[str, Any] = {"the fit before": {"peak_mb": peak_memory()}}
    for name, fn in work.items():
        times = [clocked(fn) for _ in range(1 + REPEATS)]
        found[name] = {
            "cold": times[0],
            "warm": [float(np.median(part)) for part in zip(*times[1:], strict=True)],
            "peak_mb": peak_memory(),
        }
    print(json.dumps(found))


def cost(wanted: argparse.Namespace) -> None:
    """Cold and warm."""
    sizes = [f"--{k}={getattr(wanted, k)}" for k in ("genes", "samples", "draws", "seed")]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        command = [sys.executable, __file__, "once", *sizes]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    cores = len(os.sched_getaffinity(0))
    print(
        f"{wanted.genes:,} genes x 3 coefficients x {wanted.draws:,} draws, {wanted.samples} "
        f"samples, {cores} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'seconds: wall / CPU':36}{'cold':>16}{'warm':>16}{'peak MB':>10}")
    for name, row in found.items():
        cells = (f"{row[k][0]:.2f} / {row[k][1]:.2f}" if k in row else "" for k in ("cold", "warm"))
        print(f"{name:36}{''.join(f'{cell:>16}' for cell in cells)}{row['peak_mb']:10.0f}")


def rivals(wanted: argparse.Namespace) -> None:
    """Loops over genes."""
    fit, _ = fitted(wanted)
    there = np.flatnonzero(np.isfinite(fit.gene.beta).all(axis=1))[: wanted.some]
    rng = np.random.default_rng(wanted.seed)
    pairs = [(fit.gene.beta[g], fit.gene.covariance[g]) for g in there]
    n = wanted.draws

    def by_scipy(b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return stats.multivariate_normal(b, c).rvs(n, random_state=rng)

    def by_numpy(b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return rng.multivariate_normal(b, c, n)

    def by_cholesky(b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return rng.multivariate_normal(b, c, n, method="cholesky")

    def of_all(fn: Any) -> None:
        kept = np.empty((len(pairs), n, pairs[0][0].size))
        for out, pair in zip(kept, pairs, strict=True):
            out[:] = fn(*pair)

    share = wanted.genes / len(pairs)
    print(f"loops over {len(pairs):,} genes; of {wanted.genes:,} genes: extrapolated")
    print(f"{'seconds: wall / CPU':44}{'measured':>16}{'extrapolated':>18}")
    for name, fn in (
        ("numpy Generator.multivariate_normal", by_numpy),
        ("numpy, method='cholesky'", by_cholesky),
        ("scipy.stats.multivariate_normal.rvs", by_scipy),
    ):
        wall, cpu = clocked(lambda fn=fn: of_all(fn))
        whole = f"{wall * share:.1f} / {cpu * share:.1f}"
        print(f"{name:44}{f'{wall:.2f} / {cpu:.2f}':>16}{whole:>18}")
    wall, cpu = [clocked(lambda: draws(fit, jax.random.key(0), n)) for _ in range(REPEATS)][-1]
    print(f"{'expressway, all genes, warm':44}{f'{wall:.2f} / {cpu:.2f}':>16}")


if __name__ == "__main__":
    main()
