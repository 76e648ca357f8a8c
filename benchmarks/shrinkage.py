"""Shrunken fold changes against quadrature of the same posterior, and their time.

``quadrature DATA`` takes 200 genes of airway (folder of the counts and metadata) and of two
simulated groups, and integrates each posterior over all coefficients: the contrast's on a grid, the
others by tensor Gauss-Hermite rules about their conditional modes. ``time`` prints seconds of
`tl.shrink`, cold (the first in a process) and warm.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special

import expressway as ew

# Nodes of the grid in the contrast and of the rule in each other coefficient.
GRID, RULE = 161, 7
# Standard deviations to the grid's end: a group of zeros leaves Cauchy's tail.
REACH = 1e3


class Gene(NamedTuple):
    """One posterior: the contrast is the last coefficient, in natural log."""

    y: np.ndarray
    x: np.ndarray
    offset: np.ndarray
    alpha: float
    scale: float

    def parts(self, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Minus log posterior, its gradient and its Hessian at points ``m p``."""
        eta, r = self.offset + b @ self.x.T, 1 / self.alpha
        loss = np.sum((self.y + r) * np.logaddexp(eta, np.log(r)) - self.y * eta, axis=-1)
        w = special.expit(eta - np.log(r))
        gradient = ((self.y + r) * w - self.y) @ self.x
        hessian = np.einsum("mn,np,nq->mpq", (self.y + r) * w * (1 - w), self.x, self.x)
        others = np.append(np.full(b.shape[1] - 1, 1 / 15**2), 0.0)
        t = b[:, -1]
        loss = loss + np.log1p((t / self.scale) ** 2) + 0.5 * b**2 @ others
        gradient = gradient + others * b
        gradient[:, -1] += 2 * t / (self.scale**2 + t**2)
        return loss, gradient, hessian + np.diag(others)

    def conditional(self, t: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Points whose other coefficients are at their best for each contrast."""
        curvature = self.parts(start[None])[2][0]
        slope = -np.linalg.solve(curvature[:-1, :-1], curvature[:-1, -1])
        b = np.column_stack([start[:-1] + (t - start[-1])[:, None] * slope, t])
        for _ in range(2000):
            _, gradient, hessian = self.parts(b)
            step = np.linalg.solve(hessian[:, :-1, :-1], gradient[:, :-1, None])[..., 0]
            size = np.max(np.abs(step), axis=1, keepdims=True)
            b[:, :-1] -= step / np.maximum(size / 3.0, 1.0)
            if np.all(size < 1e-11):
                break
        return b

    def slope(self, t: float, start: np.ndarray) -> float:
        """Derivative of minus log posterior along the contrast, the others at their best."""
        return float(self.parts(self.conditional(np.array([t]), start))[1][0, -1])


class Exact(NamedTuple):
    """A posterior by quadrature; natural log."""

    mode: float
    sd: float
    lower: float
    upper: float
    lfsr: float


def integrated(gene: Gene, start: np.ndarray, sd: float, level: float = 0.95) -> Exact:
    """Mode of the joint posterior, and the contrast's own distribution."""
    u = np.linspace(-np.arcsinh(REACH), np.arcsinh(REACH), GRID)
    t = start[-1] + sd * np.sinh(u)
    b = gene.conditional(t, start)
    profile, _, hessian = gene.parts(b)
    factor = np.linalg.inv(np.linalg.cholesky(hessian[:, :-1, :-1]))
    node, weight = np.polynomial.hermite_e.hermegauss(RULE)
    p = b.shape[1]
    nodes = np.array(list(itertools.product(node, repeat=p - 1)))
    log_weight = np.sum(list(itertools.product(np.log(weight), repeat=p - 1)), axis=1)
    log = np.empty(len(t))
    for i in range(len(t)):
        points = np.column_stack([b[i, :-1] + nodes @ factor[i], np.full(len(nodes), t[i])])
        loss = gene.parts(points)[0]
        term = log_weight + 0.5 * np.sum(nodes**2, axis=1) - (loss - profile[i])
        log[i] = -profile[i] + np.log(np.sum(np.exp(term)) * np.prod(np.diagonal(factor[i])))
    density = np.exp(log - log.max()) * np.cosh(u)
    total = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    total /= total[-1]
    density /= np.sum(density)
    mean = density @ t
    ends = np.interp([(1 - level) / 2, (1 + level) / 2], total, u)
    below = float(np.interp(0.0, t, total))
    best = int(np.argmin(profile))
    mode = optimize.brentq(gene.slope, t[best - 1], t[best + 1], args=(b[best],), xtol=1e-12)
    near = np.abs(t - start[-1]) < 40 * sd  # Cauchy's tail has no variance
    spread = np.sqrt(density[near] @ (t[near] - mean) ** 2 / np.sum(density[near]))
    lower, upper = start[-1] + sd * np.sinh(ends)
    return Exact(float(mode), float(spread), lower, upper, min(below, 1 - below))


def compared(adata, design: str, settings, count: int = 200) -> pd.DataFrame:
    """Laplace's and the exact figures of genes with a fit, every so many of them."""
    ew.tl.de(adata, design, settings=settings)
    table = ew.tl.shrink(adata)
    scale = adata.uns["de"]["shrunken"]["prior_scale"] * np.log(2)
    fitted = np.flatnonzero(table["log2_fold_change"].notna())
    some = fitted[np.linspace(0, len(fitted) - 1, count).astype(int)]
    x = np.asarray(adata.obsm["de_design"])
    offset = np.log(ew.get.samples(adata)["size_factor"].to_numpy())
    counts = np.asarray(adata.X)
    alpha = ew.get.genes(adata)["dispersion"].to_numpy()
    beta = np.asarray(adata.varm["de_beta"])
    rows = []
    for g in some:
        gene = Gene(counts[:, g].astype(float), x, offset, float(alpha[g]), scale)
        ours = table.iloc[g]
        start = np.append(beta[g, :-1], ours["log2_fold_change"] * np.log(2))
        exact = integrated(gene, start, ours["posterior_sd"] * np.log(2))
        sd = ours["posterior_sd"]
        low, high = exact.lower / np.log(2), exact.upper / np.log(2)
        rows.append(
            {
                "gene": table.index[g],
                "mode": abs(exact.mode / np.log(2) - ours["log2_fold_change"]),
                "sd_ratio": sd * np.log(2) / exact.sd,
                "lower": (ours["lower"] - low) / sd,
                "upper": (ours["upper"] - high) / sd,
                "lfsr": ours["lfsr"] - exact.lfsr,
                "lfsr_exact": exact.lfsr,
                "base_mean": ours["base_mean"],
                "status": ours["status"],
            }
        )
    return pd.DataFrame(rows)


def described(table: pd.DataFrame) -> None:
    """Print the distribution of differences."""
    columns = ["mode", "sd_ratio", "lower", "upper", "lfsr"]
    shares = [0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1]
    print(table[columns].quantile(shares).to_string(float_format=lambda v: f"{v:.3g}"))


def seconds(fn: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    begin = time.perf_counter(), time.process_time()
    fn()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["quadrature", "time"])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--genes", type=int, default=20000)
    parser.add_argument("--samples", type=int, default=12)
    wanted = parser.parse_args()
    if wanted.what == "quadrature":
        two = ew.datasets.simulate(genes=2000, samples=8, seed=1)
        print("simulated, 4 + 4 samples")
        described(compared(two, "~ condition", ew.tl.Settings()))
        if wanted.data:
            airway = ew.io.read_counts(
                wanted.data / "airway_counts.csv.gz", wanted.data / "airway_metadata.csv"
            )
            airway = airway[:, np.asarray(airway.X).sum(axis=0) >= 10].copy()
            print("airway, ~ cell + dex")
            described(compared(airway, "~ cell + dex", ew.tl.Settings()))
        return
    adata = ew.datasets.simulate(genes=wanted.genes, samples=wanted.samples, seed=0)
    ew.tl.de(adata, "~ condition")
    for kind in ("apeglm", "normal"):
        for name in ("cold", "warm", "warm"):
            wall, cpu = seconds(lambda kind=kind: ew.tl.shrink(adata, kind=kind))
            print(f"{wanted.genes} x {wanted.samples} {kind} {name}: {wall:.2f} s, cpu {cpu:.2f} s")


if __name__ == "__main__":
    main()
