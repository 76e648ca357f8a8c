"""The toy of a request, clustered by NUTS, by AutoNormal and by the variational fit: one table.

40 genes × 200 times on [0, 1], two groups of 20: sums of six radial basis functions, with
dispersions of their own. What is fitted has an intercept and three other functions, which are made
orthonormal. Then level, two shapes and dispersion have two clusters, and the third shape has one.

A row a method and coordinate: clusters found, adjusted Rand index with the truth, means of the two
groups, and how far the genes' posterior means and standard deviations are from those of NUTS (in
posterior standard deviations; Monte-Carlo error is about that over the root of ``ess``). NUTS
starts at the variational optimum.
"""

import argparse
import time
from typing import Any, NamedTuple

import anndata
import jax
import numpy as np
import numpyro
import pandas as pd
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from timecourse_truth import adjusted_rand

import expressway as ew
from expressway.clustering.draws import point
from expressway.core.cohort import Pooled, samples
from expressway.models import dirichlet_sampler, nb
from expressway.models.dirichlet import Prior
from expressway.models.dirichlet_draws import Draws
from expressway.models.dirichlet_sampler import Point, Settings

TIMES, EACH = 200, 20
# Of Adam, for AutoNormal: ten times smaller moves too little in thousands of steps.
RATE = 0.01
# Draws from AutoNormal's posterior that labels are averaged over.
SHOWN = 200
TRUE_SCALE, TRUE_CENTRES = 0.59, (0.15, 0.23, 0.4, 0.67, 0.7, 0.8)
# Intercept and weights of a group, and the size parameter (1 / dispersion).
GROUPS = (
    ((2.45, -1.0, -0.76, 0.1, 0.5, 1.1, 1.4), 23.7),
    ((2.45, 1.2, 0.46, -0.1, -0.9, -1.1, -1.4), 3.7),
)
SCALE, CENTRES = 0.5, (0.1, 0.4, 0.7)
COORDINATES = ("level", "basis[1]", "basis[2]", "basis[3]", "log_dispersion")
# One cluster, where the truth in the fitted basis is 0 and 0.
NULL = "basis[3]"


class Automatic(NamedTuple):
    """What AutoNormal (independent normals after transformation) found."""

    mean: np.ndarray
    """Of eta."""
    sd: np.ndarray
    draws: Draws
    label: np.ndarray
    elbo: np.ndarray
    """After each step, from one draw: noisy. It is that of the counts."""
    rise: float
    """Of the ELBO's mean from the last but one tenth of the steps to the last."""
    error: float
    """Standard error of the rise, from the steps' scatter."""
    seconds: float
    """All, with compilation."""

    @property
    def converged(self) -> bool:
        """The ELBO no longer rises, as far as its noise lets one see."""
        return abs(self.rise) < 2 * self.error


class Toy(NamedTuple):
    """Counts, design and truth."""

    y: np.ndarray
    z: np.ndarray
    offset: np.ndarray
    group: np.ndarray


class Found(NamedTuple):
    """What a method found: seconds, notes, labels and posterior of eta."""

    method: str
    seconds: float
    note: str
    labels: np.ndarray
    """A row a gene, a column a coordinate."""
    mean: np.ndarray
    sd: np.ndarray


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sticks", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="*", default=[2000, 10_000], help="AutoNormal's")
    wanted = parser.parse_args()
    toy = simulated(wanted.seed)
    eta = gene_wise(toy)
    priors = [
        Prior(mean=float(m), mean_sd=float(2 * s), rate=0.05)
        for m, s in zip(eta.mean(0), eta.std(0), strict=True)
    ]
    ours, start = variational(toy, priors, wanted.sticks)
    settings = Settings(wanted.warmup, wanted.draws, seed=wanted.seed)
    exact = nuts(toy, priors, start, settings)
    found = [ours, exact]
    found += [automatic(toy, priors, wanted.sticks, steps, wanted.seed) for steps in wanted.steps]
    for one in found:
        print(f"{one.method}: {one.seconds:.1f} s; {one.note}")
    print()
    print(table(found, exact, toy.group).to_string(index=False))


def variational(toy: Toy, priors: list[Prior], sticks: int) -> tuple[Found, Point]:
    """The variational fit, warm, and the point where NUTS starts."""
    adata = anndata.AnnData(
        toy.y.T.copy(),
        obs=pd.DataFrame({"t": np.linspace(0, 1, TIMES)}, index=map(str, range(TIMES))),
    )
    settings = {
        "centers": CENTRES,
        "length": SCALE,
        "size_factors": "none",
        "prior": dict(zip(COORDINATES, priors, strict=True)),
    }
    for _ in range(2):
        begin = time.perf_counter()
        ours = ew.tl.cluster(adata, "t", **settings)
        seconds = time.perf_counter() - begin
    table, labels = ours.coefficients(), ours.clusters()
    found = Found(
        "variational",
        seconds,
        f"bound {ours.elbo().nb_elbo.iloc[-1]:.1f}, with gene-wise fits and modules",
        np.column_stack([labels.label[labels.coefficient == name] for name in COORDINATES]),
        table[list(COORDINATES)].to_numpy(),
        table[[f"{name}_sd" for name in COORDINATES]].to_numpy(),
    )
    return found, point(ours, sticks)


def nuts(toy: Toy, priors: list[Prior], start: Point, settings: Settings) -> Found:
    """NUTS from a start."""
    run = dirichlet_sampler.sample(toy.y, toy.z, toy.offset, priors, start=start, settings=settings)
    note = (
        f"{run.divergences} divergences in {settings.draws} draws, "
        f"{run.steps / settings.draws:.0f} steps a draw; of eta: largest r_hat "
        f"{run.r_hat.max():.3f}, least ess {run.ess.min():.0f}, median {np.median(run.ess):.0f}"
    )
    return of_draws("NUTS", run.seconds, note, run.draws)


def auto_normal(
    y: np.ndarray,
    z: np.ndarray,
    offset: np.ndarray,
    priors: list[Prior],
    *,
    sticks: int = 10,
    steps: int = 2000,
    seed: int = 0,
) -> Automatic:
    """What automatic variational inference finds: NumPyro's AutoNormal, started as by default.

    Adam with step size `RATE`, one draw a step.

    Parameters
    ----------
    y, z, offset, priors, sticks
        See `dirichlet_sampler.model`.
    steps
        Of Adam; at least 20.
    seed
        Of starts and draws.
    """
    begin = time.perf_counter()
    arguments = (y, z, offset, priors, sticks)
    guide = AutoNormal(dirichlet_sampler.model)
    inference = SVI(dirichlet_sampler.model, guide, numpyro.optim.Adam(RATE), Trace_ELBO())
    climbing, drawing = jax.random.split(jax.random.key(seed))
    result = inference.run(climbing, steps, *arguments, progress_bar=False)
    elbo = -np.asarray(result.losses)
    seconds = time.perf_counter() - begin
    found: Any = guide.sample_posterior(drawing, result.params, sample_shape=(SHOWN,))
    draws = dirichlet_sampler.as_draws({name: np.asarray(x) for name, x in found.items()})
    tenth = steps // 10
    last, before = elbo[-tenth:], elbo[-2 * tenth : -tenth]
    return Automatic(
        mean=np.asarray(result.params["eta_auto_loc"]),
        sd=np.asarray(result.params["eta_auto_scale"]),
        draws=draws,
        label=draws.label(),
        elbo=elbo,
        rise=float(np.mean(last) - np.mean(before)),
        error=float(np.sqrt((np.var(last, ddof=1) + np.var(before, ddof=1)) / tenth)),
        seconds=seconds,
    )


def automatic(toy: Toy, priors: list[Prior], sticks: int, steps: int, seed: int) -> Found:
    """AutoNormal."""
    run = auto_normal(toy.y, toy.z, toy.offset, priors, sticks=sticks, steps=steps, seed=seed)
    ended = "converged" if run.converged else "not converged"
    note = (
        f"ELBO {run.elbo[-steps // 10 :].mean():.1f} "
        f"({ended}: {run.rise:+.2f} ± {run.error:.2f} over the last tenth)"
    )
    return of_draws(f"AutoNormal, {steps} steps", run.seconds, note, run.draws)


def of_draws(method: str, seconds: float, note: str, draws: Draws) -> Found:
    """Labels and moments."""
    labels = np.column_stack([draws.labels(k) for k in range(draws.eta.shape[2])])
    return Found(method, seconds, note, labels, draws.eta.mean(axis=0), draws.eta.std(axis=0))


def table(found: list[Found], exact: Found, group: np.ndarray) -> pd.DataFrame:
    """A row a method and coordinate."""
    rows = []
    for one in found:
        for k, name in enumerate(COORDINATES):
            truth = np.zeros_like(group) if name == NULL else group
            label = one.labels[:, k]
            off = (one.mean[:, k] - exact.mean[:, k]) / exact.sd[:, k]
            rows.append(
                {
                    "method": one.method,
                    "coordinate": name,
                    "clusters": label.max(),
                    "ARI": 1.0 if same(label, truth) else adjusted_rand(label, truth),
                    "mean_0": one.mean[group == 0, k].mean(),
                    "mean_1": one.mean[group == 1, k].mean(),
                    "off_median": np.median(np.abs(off)),
                    "off_max": np.max(np.abs(off)),
                    "sd_ratio": np.median(one.sd[:, k] / exact.sd[:, k]),
                }
            )
    return pd.DataFrame(rows).round(3)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two partitions are the same, also where all is one cluster."""
    return np.array_equal(a[:, None] == a, b[:, None] == b)


def gene_wise(toy: Toy) -> np.ndarray:
    """Maximum-likelihood coefficients and log dispersions."""
    begin = time.perf_counter()
    fit = nb.fit(Pooled(samples(toy.y.T.copy(), toy.z)))
    print(f"gene-wise fits: {time.perf_counter() - begin:.1f} s, with compilation")
    return np.column_stack([fit.beta, fit.log_alpha])


def simulated(seed: int) -> Toy:
    """The toy as it was posted."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, TIMES)
    counts = []
    for weight, size in GROUPS:
        mu = np.exp(radial(t, TRUE_CENTRES, TRUE_SCALE) @ np.array(weight))
        counts.append(rng.poisson(rng.gamma(size, np.broadcast_to(mu, (EACH, TIMES)) / size)))
    q, r = np.linalg.qr(radial(t, CENTRES, SCALE))
    z = q * np.sign(np.diag(r)) * np.sqrt(TIMES)
    group = np.repeat([0, 1], EACH)
    return Toy(np.vstack(counts).astype(float), z, np.zeros(TIMES), group)


def radial(t: np.ndarray, centres: tuple[float, ...], scale: float) -> np.ndarray:
    """A column of ones, and Gaussian functions of time."""
    functions = np.exp(-((t[:, None] - np.array(centres)) ** 2) / (2 * scale**2))
    return np.column_stack([np.ones(len(t)), functions])


if __name__ == "__main__":
    main()
