"""One measurement of `sensitivity.py`, in a process of its own: NAME JSON-ARGUMENTS.

Prints what it found as the last line, JSON too. Sizes of memory are MB of 10^6 bytes.
"""

import json
import resource
import sys
import time

BEGIN = time.perf_counter()

from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import expressway as ew  # noqa: E402

IMPORTED = time.perf_counter()

import optima  # noqa: E402


def main() -> None:
    """Measure, and print what was found."""
    name, given = sys.argv[1:]
    print(json.dumps(MEASURES[name](**json.loads(given))))


def terms(path: str, name: str, orders: int, seconds: float) -> dict[str, Any]:
    """Seconds of the first call and of a warm one by order, and derivatives in each direction."""
    problem = optima.read(path)[name]
    fit = solved(name, problem)
    deltas = [direction(fit, row) for row in problem["directions"]]
    first, warm = [], []
    for order in range(1, orders + 1):
        begin = time.perf_counter()
        series = ew.taylor(fit, order)
        jax.block_until_ready(series.terms(deltas[0]))
        first.append(time.perf_counter() - begin)
        warm.append(best(lambda s=series: s.terms(deltas[0]), seconds))
    return {
        "theta": np.asarray(fit.theta).tolist(),
        "first_s": first,
        "warm_s": warm,
        "terms": [np.asarray(series.derivatives(delta)).tolist() for delta in deltas],
    }


def whole(path: str, name: str, order: int) -> dict[str, Any]:
    """Seconds that a user waits, from the start of the interpreter's first line."""
    problem = optima.read(path)[name]
    laps = {"import_s": IMPORTED - BEGIN}
    begin = time.perf_counter()
    fit = solved(name, problem)
    laps["solve_s"] = time.perf_counter() - begin
    begin = time.perf_counter()
    series = ew.taylor(fit, order)
    delta = direction(fit, problem["directions"][0])
    jax.block_until_ready(series.terms(delta))
    laps["first_terms_s"] = time.perf_counter() - begin
    laps["warm_terms_s"] = best(lambda: series.terms(delta), 0.2)
    return laps


def leave_one_out(path: str, name: str, order: int, seconds: float) -> dict[str, Any]:
    """All leave-one-out predictions of an order: seconds, and how far from exact refits."""
    problem = optima.read(path)[name]
    fit = solved(name, problem)
    begin = time.perf_counter()
    jack = ew.jackknife(fit)
    found = np.asarray(jack.leave_out(order=order))
    laps = {"cold_s": time.perf_counter() - begin}
    laps["warm_s"] = best(lambda: jack.leave_out(order=order), seconds)
    begin = time.perf_counter()
    jax.block_until_ready(ew.jackknife(fit).leave_out(order=order))
    laps["another_jackknife_s"] = time.perf_counter() - begin
    changes = jnp.asarray(-np.eye(jack.count, len(fit.stages[0].functions.h)))
    laps["series_alone_s"] = best(lambda: jack.series(order).flat(changes), seconds)
    begin = time.perf_counter()
    exact = np.asarray(jack.refit())
    laps["exact_cold_s"] = time.perf_counter() - begin
    laps["exact_warm_s"] = best(jack.refit, seconds)
    return {**laps, "theta": found.tolist(), "from_exact": float(np.max(np.abs(found - exact)))}


def cross_validation(
    observations: int, columns: int, exact: bool, sample: int, repeats: int, out: str
) -> dict[str, Any]:
    """Leave-one-out cross-validation: losses and some thetas into a file, seconds and memory."""
    problem = optima.logistic(columns, observations)
    begin = time.perf_counter()
    fit = solved("logistic", problem)
    found: dict[str, Any] = {"solve_s": time.perf_counter() - begin, "before_mb": peak()}
    jack = ew.jackknife(fit)
    spent = []
    for _ in range(1 + repeats):
        begin = time.perf_counter(), time.process_time()
        validated = jack.cross_validate(exact=exact)
        spent.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    found |= {"cold_s": spent[0][0], "cold_cpu_s": spent[0][1]}
    found |= {"warm_s": min(spent[1:])[0], "warm_cpu_s": min(spent[1:])[1]} if repeats else {}
    found |= {"peak_mb": peak(), "loss": validated.loss, "error": validated.standard_error}
    some = np.arange(0, observations, max(1, observations // sample))[:sample, None]
    theta = jack.refit(some) if exact else jack.leave_out(some)
    np.savez(out, each=validated.per_observation, theta=theta, whole=fit.theta)
    return found


def staged(regressions: int, observations: int, columns: int, seconds: float) -> dict[str, Any]:
    """Seconds and peak memory of a staged fit, its series and its influence."""
    found: dict[str, Any] = {"import_mb": peak()}
    problem, starts, weight = two_stages(regressions, observations, columns)
    found["data_mb"] = peak()

    def lap(name: str, call: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = jax.block_until_ready(call())
        found[f"{name}_s"] = time.perf_counter() - begin
        found[f"{name}_mb"] = peak()
        return result

    fit = lap("solve", lambda: problem.solve(starts, weight, structure=["block", "dense"]))
    series = ew.taylor(fit, 2)
    delta = -np.eye(observations)[0]
    lap("taylor", lambda: series.terms(delta))
    found["taylor_warm_s"] = best(lambda: series.terms(delta), seconds)
    lap("influence", lambda: ew.jackknife(fit).influence())
    return found


def against_dense(regressions: int, observations: int, columns: int) -> dict[str, float]:
    """Largest relative difference from a solve with the joint Jacobian of both stages."""
    problem, starts, weight = two_stages(regressions, observations, columns)
    fit = problem.solve(starts, weight, structure=["block", "dense"])
    first, second = (stage.fn for stage in problem.stages)
    sizes = [np.size(part) for part in fit.theta]

    def joint(theta: Any, weight: Any) -> Any:
        one, two = theta[: sizes[0]].reshape(-1, columns), theta[sizes[0] :]
        parts = jax.grad(first)(one, weight), jax.grad(second)(two, (weight, one))
        return jnp.concatenate([part.ravel() for part in parts])

    at = jnp.concatenate([jnp.ravel(part) for part in fit.theta])
    jacobian, cross = (jax.jacfwd(joint, argnums=i)(at, jnp.asarray(weight)) for i in (0, 1))
    dense = -np.linalg.solve(jacobian, cross).T
    influence = ew.jackknife(fit).influence()
    derivative = jax.jacfwd(ew.implicit(fit))(jnp.asarray(weight))
    ways = {
        "influence": [np.reshape(part, (observations, -1)) for part in influence],
        "implicit": [np.reshape(part, (-1, observations)).T for part in derivative],
    }
    return {
        f"{way}, stage {i + 1}": apart(part, whole)
        for way, parts in ways.items()
        for i, (part, whole) in enumerate(zip(parts, np.split(dense, sizes[:1], 1), strict=True))
    }


def two_stages(regressions: int, observations: int, columns: int) -> tuple[Any, Any, np.ndarray]:
    """Poisson regressions of shared observations, then a normal model of their second coefficients.

    Weights of the observations are the hyperparameter; the start is that of both stages.
    """
    random = np.random.default_rng(0)
    x = np.column_stack([np.ones(observations), random.normal(size=(observations, columns - 1))])
    truth = 0.3 * random.normal(size=(regressions, columns)) + np.eye(columns)[0]
    y = random.poisson(np.exp(truth @ x.T)).astype(float)

    def first(theta: Any, weight: Any) -> Any:
        eta = theta @ x.T
        return jnp.sum((jnp.exp(eta) - y * eta) @ weight) + 0.5 * jnp.sum(theta**2)

    def second(theta: Any, given: Any) -> Any:
        z = (given[1][:, 1] - theta[0]) * jnp.exp(-theta[1])
        return jnp.sum(theta[1] + 0.5 * z**2)

    starts = (np.zeros((regressions, columns)), np.zeros(2))
    return ew.Staged(ew.Objective(first), ew.Objective(second)), starts, np.ones(observations)


def solved(name: str, problem: dict[str, np.ndarray]) -> Any:
    """Our solution of one of `optima`, from zero."""
    start = np.zeros(len(problem["theta"]))
    if name == "blog":
        matrix = problem["matrix"]

        def objective(theta: Any, hyper: Any) -> Any:
            quadratic = 0.5 * theta @ matrix @ theta
            return quadratic + jnp.mean(theta - 0.5) ** 5 * jnp.mean(hyper - 0.5) ** 5

        return ew.Objective(objective).solve(start, problem["hyper"])

    def term(theta: Any, hyper: Any, row: Any) -> Any:  # noqa: ARG001
        x, y = row
        eta = x @ theta
        return jnp.logaddexp(0.0, eta) - y * eta

    def ridge(theta: Any, penalty: Any) -> Any:
        return 0.5 * penalty * theta @ theta

    additive = ew.Objective.additive(term, (problem["x"], problem["y"]), ridge)
    return additive.solve(start, float(problem["penalty"]))


def direction(fit: Any, row: np.ndarray) -> Any:
    """A change of all hyperparameters by a row of directions, of weights where there are any."""
    return ew.Weighted(row, 0.0) if isinstance(fit.hyper, ew.Weighted) else row


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest entry."""
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def peak() -> float:
    """Largest memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def best(call: Callable[[], Any], seconds: float) -> float:
    """Wall seconds of the fastest of at least three calls, repeated for so many seconds."""
    spent: list[float] = []
    while len(spent) < 3 or sum(spent) < seconds:
        begin = time.perf_counter()
        jax.block_until_ready(call())
        spent.append(time.perf_counter() - begin)
    return min(spent)


MEASURES = {
    measure.__name__: measure
    for measure in (terms, whole, leave_one_out, cross_validation, staged, against_dense)
}

if __name__ == "__main__":
    main()
