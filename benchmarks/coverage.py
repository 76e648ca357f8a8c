"""How often nominal 90 % intervals of draws hold the truth: simulated regressions, right and wrong.

Intervals are quantiles of `expressway.draws`: "model" ones of the Fisher information, and the
sandwich's, also with clusters. What they should hold is the parameter itself, or, where the model
is wrong, the one that the fit tends to (pseudo-true), found on a huge simulated sample with the
response's mean for the response.

- **engine**: `Objective.supervised`, one problem whose blocks are replicates, covariates of each
  drawn anew. Functions of parameters beside the delta method, which is done in NumPy;
- **genes**: `models.nb.fit`, genes as replicates, several designs.

Errors are those of the simulation: between replicates, or between designs. Widths are mean ones of
the last interval of a line, relative to the model's. Quantiles of 1,000 draws hold .898 of a normal
distribution where .900 is meant.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit
from scipy.stats import norm

import expressway as ew
from expressway.core.cohort import Pooled, samples
from expressway.models import nb

LEVEL, DRAWS = 0.9, 1_000
TAILS = [0.5 - 0.5 * LEVEL, 0.5 + 0.5 * LEVEL]
# Replicates that are one problem: the time of its matrix grows with their square.
TOGETHER = 250
HUGE = 1_000_000
MEMBERS = 5
# Coefficients of which one line tells: 0 is the intercept.
ALL = {"coefficients": [0, 1, 2, 3]}
FIRST = {"x1": [1], "the others": [0, 2, 3]}
LEVELS = {"intercept, x1": [0, 1], "x2, x3": [2, 3]}
LOGISTIC = np.array([0.3, 0.8, -0.5, 0.0])
COUNTS = np.array([2.0, 0.5, -0.3, 0.0])
ALPHA, EFFECT, CURVE = 0.4, 1.5, 0.7
# Where probabilities are wanted: a probable case, and the same with another x1.
HERE, THERE = np.array([1.0, 2.0, -1.0, 1.0]), np.array([1.0, -1.0, -1.0, 1.0])


class Interval(NamedTuple):
    """Ends, replicates x quantities."""

    lower: np.ndarray
    upper: np.ndarray


class Held(NamedTuple):
    """Share of intervals that hold the truth, and their mean widths; units x quantities."""

    share: np.ndarray
    width: np.ndarray


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1_000, help="Of the engine.")
    parser.add_argument("--designs", type=int, default=20)
    parser.add_argument("--genes", type=int, default=500, help="Of each design.")
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    begin = time.perf_counter()
    print("| case | n | quantity | model | sandwich | clustered | width |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in ENGINE:
        for n in wanted.samples:
            told(case.name, n, engine(case, n, wanted))
    for case in GENES:
        for n in wanted.samples:
            told(case.name, n, genes(case, n, wanted))
    print(f"\n{time.perf_counter() - begin:.0f} s, CPU {time.process_time():.0f} s")


def told(case: str, n: int, found: dict[str, dict[str, Held]]) -> None:
    """Lines of one case: of each quantity, kinds beside one another."""
    for quantity, kinds in found.items():
        cells = []
        for kind in ("model", "sandwich", "clustered"):
            if kind in kinds:
                unit = np.mean(kinds[kind].share, axis=1)
                error = np.std(unit, ddof=1) / np.sqrt(len(unit))
                cells.append(f"{np.mean(unit):.3f} ± {error:.3f}")
            else:
                cells.append("")
        last = kinds.get("clustered", kinds["sandwich"])
        cells.append(f"{np.mean(last.width) / np.mean(kinds['model'].width):.2f}")
        print(f"| {case} | {n} | {quantity} | {' | '.join(cells)} |", flush=True)


def quantiles(drawn: Any) -> Interval:
    """Of draws, the first axis."""
    return Interval(*np.quantile(np.asarray(drawn), TAILS, axis=0))


def held(of: Interval, truth: np.ndarray) -> Held:
    """What of the intervals holds the truth."""
    return Held((of.lower <= truth) & (truth <= of.upper), of.upper - of.lower)


def grouped(of: dict[str, Held], groups: dict[str, list[int]]) -> dict[str, dict[str, Held]]:
    """By quantity, then kind."""
    return {
        name: {kind: Held(h.share[:, at], h.width[:, at]) for kind, h in of.items()}
        for name, at in groups.items()
    }


def joined(parts: list[Held]) -> Held:
    """All units of several parts."""
    return Held(*(np.concatenate(part) for part in zip(*parts, strict=True)))


# The engine.


class Simulated(NamedTuple):
    """A regression that is fitted to what may be another."""

    name: str
    loss: Any
    eta: Callable[..., np.ndarray]
    """``eta(rng, x)``: linear predictor, for covariates rows x replicates x 4."""
    response: Callable[..., np.ndarray]
    """``response(rng, eta)``."""
    target: Callable[[], np.ndarray]
    groups: dict[str, list[int]]
    clustered: bool = False
    functions: bool = False


def covariates(rng: np.random.Generator, n: int, count: int, *, clustered: bool) -> np.ndarray:
    """Rows x replicates x 4; x1 is the same for the members of a cluster."""
    x = rng.normal(size=(n, count, 4))
    x[:, :, 0] = 1.0
    if clustered:
        x[:, :, 1] = np.repeat(x[: n // MEMBERS, :, 1], MEMBERS, axis=0)
    return x


def straight(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """As it is fitted."""
    return x @ LOGISTIC


def curved(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """With a square that the fit leaves out."""
    return x @ LOGISTIC + CURVE * x[..., 1] ** 2


def shared(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """With a normal effect that members of a cluster share."""
    effect = EFFECT * rng.normal(size=(len(x) // MEMBERS, *x.shape[1:-1]))
    return x @ LOGISTIC + np.repeat(effect, MEMBERS, axis=0)


def chosen(rng: np.random.Generator, eta: np.ndarray) -> np.ndarray:
    """0 or 1."""
    return (rng.uniform(size=eta.shape) < expit(eta)).astype(float)


def spread(rng: np.random.Generator, eta: np.ndarray) -> np.ndarray:
    """Negative-binomial counts."""
    return rng.poisson(np.exp(eta) * rng.gamma(1 / ALPHA, ALPHA, eta.shape)).astype(float)


def pseudo_true(eta: Callable[..., np.ndarray], nodes: int = 1) -> np.ndarray:
    """Where a logistic fit tends to: Newton's steps for the mean response of a huge sample.

    With more than one node, over a normal effect that is left out.
    """
    rng = np.random.default_rng(1)
    x = covariates(rng, HUGE, 1, clustered=False)[:, 0]
    at, weight = np.polynomial.hermite_e.hermegauss(nodes)
    whole = eta(rng, x)
    mean = sum(
        w * expit(whole + EFFECT * z) for z, w in zip(at, weight / weight.sum(), strict=True)
    )
    beta = LOGISTIC.copy()
    for _ in range(20):
        p = expit(x @ beta)
        beta += np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x, x.T @ (mean - p))
    return beta


BERNOULLI, POISSON = ew.losses.bernoulli, ew.losses.poisson
ENGINE = (
    Simulated("logistic", BERNOULLI, straight, chosen, lambda: LOGISTIC, ALL, functions=True),
    Simulated(
        "logistic, x1² left out", BERNOULLI, curved, chosen, lambda: pseudo_true(curved), FIRST
    ),
    Simulated(
        "logistic, clusters share an effect",
        BERNOULLI,
        shared,
        chosen,
        lambda: pseudo_true(straight, 40),
        LEVELS,
        clustered=True,
    ),
    Simulated("Poisson, counts are NB", POISSON, straight, spread, lambda: LOGISTIC, FIRST),
)


def linear(theta: Any, x: Any) -> Any:
    """Linear predictors of one row in every replicate."""
    return jnp.sum(theta * x, axis=1)


def engine(case: Simulated, n: int, wanted: argparse.Namespace) -> dict[str, dict[str, Held]]:
    """Intervals of a case."""
    target = case.target()
    parts = []
    for first in range(0, wanted.replicates, TOGETHER):
        count = min(TOGETHER, wanted.replicates - first)
        rng = np.random.default_rng([wanted.seed, n, first])
        x = covariates(rng, n, count, clustered=case.clustered)
        y = case.response(rng, case.eta(rng, x))
        problem = ew.Objective.supervised(linear, case.loss, (x, y))
        fit = problem.solve(np.zeros((count, 4)), structure="block")
        key = jax.random.fold_in(jax.random.key(wanted.seed), first)
        labels = np.arange(n) // MEMBERS
        # Of these losses the Hessian is the Fisher information, whose products are quicker here.
        robust = functools.partial(ew.draws, fit, key, DRAWS, kind="sandwich", bread="fisher")
        drawn = {"model": ew.draws(fit, key, DRAWS, kind="fisher"), "sandwich": robust()}
        if case.clustered:
            drawn["clustered"] = robust(clusters=labels)
        of = {kind: held(quantiles(d.theta), target[None]) for kind, d in drawn.items()}
        part = grouped(of, case.groups)
        if case.functions:
            part |= pushed(drawn, target) | delta(x, y, np.asarray(fit.theta), target)
        parts.append(part)
    return {
        name: {kind: joined([part[name][kind] for part in parts]) for kind in kinds}
        for name, kinds in parts[0].items()
    }


def pushed(drawn: dict[str, Any], target: np.ndarray) -> dict[str, dict[str, Held]]:
    """Probabilities, of every draw."""

    def probabilities(theta: np.ndarray) -> np.ndarray:
        here, there = (expit(theta @ x)[..., None] for x in (HERE, THERE))
        return np.concatenate([here, here - there], axis=-1)

    truth = probabilities(target)[None]
    of = {k: held(quantiles(probabilities(np.asarray(d.theta))), truth) for k, d in drawn.items()}
    return grouped(of, {"a probability": [0], "difference of two": [1]})


def delta(
    x: np.ndarray, y: np.ndarray, beta: np.ndarray, target: np.ndarray
) -> dict[str, dict[str, Held]]:
    """The same by the delta method of logistic regression, without draws."""
    p = expit(np.einsum("nrp,rp->nr", x, beta))
    bread = np.linalg.inv(np.einsum("nr,nrp,nrq->rpq", p * (1 - p), x, x, optimize=True))
    scores = x * (y - p)[:, :, None]
    middle = np.einsum("nrp,nrq->rpq", scores, scores, optimize=True)
    here, there = expit(beta @ HERE), expit(beta @ THERE)
    slope = (here * (1 - here))[:, None] * HERE
    other = slope - (there * (1 - there))[:, None] * THERE
    truth = expit(target @ HERE)
    found: dict[str, dict[str, Held]] = {}
    for name, value, g, at in (
        ("a probability, delta method", here, slope, truth),
        ("difference of two, delta method", here - there, other, truth - expit(target @ THERE)),
    ):
        found[name] = {}
        for kind, covariance in (("model", bread), ("sandwich", bread @ middle @ bread)):
            half = norm.ppf(TAILS[1]) * np.sqrt(np.einsum("rp,rpq,rq->r", g, covariance, g))
            ends = Interval((value - half)[:, None], (value + half)[:, None])
            found[name][kind] = held(ends, np.full((1, 1), at))
    return found


# Genes.


class Genes(NamedTuple):
    """Negative-binomial counts, and what they are fitted with."""

    name: str
    groups: dict[str, list[int]]
    given: bool = False
    """The dispersion is given."""
    varies: bool = False
    """It depends on x1."""
    clustered: bool = False


GENES = (
    Genes("NB, alpha given", ALL, given=True),
    Genes("NB, alpha fitted", ALL | {"log alpha": [4]}),
    Genes("NB, alpha depends on x1", FIRST, varies=True),
    Genes("NB, clusters share an effect", LEVELS, clustered=True),
)


def genes(case: Genes, n: int, wanted: argparse.Namespace) -> dict[str, dict[str, Held]]:
    """Intervals of a case; units are designs."""
    parts: dict[str, list[Held]] = {}
    truth = np.append(COUNTS, np.log(ALPHA))
    for design in range(wanted.designs):
        rng = np.random.default_rng([wanted.seed, n, design])
        x = covariates(rng, n, 1, clustered=case.clustered)[:, 0]
        mean = np.exp(x @ COUNTS)[:, None] * np.ones(wanted.genes)
        if case.clustered:
            # Mean 1, so that the model of the mean stays right.
            effect = rng.gamma(1 / ALPHA, ALPHA, (n // MEMBERS, wanted.genes))
            mean = mean * np.repeat(effect, MEMBERS, axis=0)
        alpha = ALPHA * np.exp(x[:, 1:2] if case.varies else 0.0)
        y = rng.poisson(mean * rng.gamma(1 / alpha, alpha, mean.shape)).astype(float)
        cohort = Pooled(samples(y, x))
        fit = nb.fit(cohort, ALPHA if case.given else None)
        key = jax.random.fold_in(jax.random.key(wanted.seed), design)
        kinds: dict[str, Any] = {"model": {"kind": "fisher"}, "sandwich": {"kind": "sandwich"}}
        if case.clustered:
            kinds["clustered"] = {"kind": "sandwich", "clusters": np.arange(n) // MEMBERS}
        for kind, options in kinds.items():
            drawn = ew.draws(fit, key, DRAWS, cohort=cohort, **options)
            of = held(quantiles(drawn.theta), truth[None, : drawn.theta.shape[2]])
            unit = Held(*(np.mean(a, axis=0, keepdims=True) for a in of))
            parts.setdefault(kind, []).append(unit)
    return grouped({kind: joined(of) for kind, of in parts.items()}, case.groups)


if __name__ == "__main__":
    main()
