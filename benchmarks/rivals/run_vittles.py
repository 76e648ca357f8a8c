"""Taylor terms of an optimum by vittles 0.173, in its own environment: OUT PROBLEMS.

PROBLEMS is the .npz file that `optima.py` writes, OUT a .json file with, by problem and way:

- `terms`: D^k theta[delta^k], direction x order x parameter, without the division by k!
- `evaluate_s`: wall seconds of the terms 1 to k in the first direction, warm, the best of several
- `setup_s`: wall seconds to make the expansion that serves all these orders, the first time
- `leave_one_out`: of logistic problems, theta without each observation, predicted at order 3 one
  by one, and the seconds of all

and `jacobian`, d theta / d hyper, by problem, with its seconds. The ways to use vittles:

- `objective`: as documented, forward mode, given the exact Hessian
- `equation`: given the gradient by hand instead of the objective
- `linear`: besides, told that the equation is linear in the weights (`max_hyper_order=1`)
- `reverse`: the equation in reverse mode, whose arrays of derivatives are made in advance; to order
  2 of the small problem only. Its order 3 was not made within 7 minutes; of 500 weights, order 1
  took 62 s at 100 columns and order 2 took 45 s at 10.
"""
# pyright: reportMissingImports=false

from __future__ import annotations  # Python 3.8 cannot evaluate the annotations below

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import autograd.numpy as np
import vittles
from autograd.extend import defjvp
from autograd.scipy.special import expit
from vittles.solver_lib import get_cholesky_solver

sys.path.append(str(Path(__file__).parents[1]))
import optima

LEAVE_ONE_OUT_ORDER = 3
PACKAGES = ("vittles", "autograd", "numpy", "scipy")

# autograd has no forward rule of it; that of 1 / (1 + exp(-x)) overflows at order 8
defjvp(expit, lambda g, ans, _: g * ans * (1 - ans))


def main() -> None:
    """Measure every problem and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("problems")
    parser.add_argument("--orders", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.5, help="of repeating each measurement")
    wanted = parser.parse_args()
    warnings.filterwarnings("ignore", message=".* experimental")
    warnings.filterwarnings("ignore", message="Output seems independent")  # linear in weights
    versions = {name: version(name) for name in PACKAGES}
    found: dict[str, Any] = {"versions": {"python": platform.python_version(), **versions}}
    for name, problem in optima.read(wanted.problems).items():
        functions = blog(problem) if name == "blog" else logistic(problem)
        found[name] = {"jacobian": jacobian(problem, functions[0]), "ways": {}}
        for way, (make, orders) in ways(problem, *functions, orders=wanted.orders).items():
            found[name]["ways"][way] = measured(problem, make, orders, wanted.seconds)
            said = " ".join(f"{s:.5f}" for s in found[name]["ways"][way]["evaluate_s"])
            print(name, way, said, flush=True)
    wanted.out.write_text(json.dumps(found))


def blog(problem: dict[str, np.ndarray]) -> tuple[Callable, Callable]:
    """Objective and estimating equation of `optima.blog`."""
    matrix = problem["matrix"]

    def objective(theta, hyper):
        quadratic = 0.5 * np.dot(theta, np.dot(matrix, theta))
        return quadratic + np.mean(theta - 0.5) ** 5 * np.mean(hyper - 0.5) ** 5

    def equation(theta, hyper):
        slope = 5 / len(matrix) * np.mean(theta - 0.5) ** 4 * np.mean(hyper - 0.5) ** 5
        return np.dot(matrix, theta) + slope

    return objective, equation


def logistic(problem: dict[str, np.ndarray]) -> tuple[Callable, Callable]:
    """Objective and estimating equation of `optima.logistic`."""
    x, y, penalty = problem["x"], problem["y"], float(problem["penalty"])

    def objective(theta, weights):
        eta = np.dot(x, theta)
        loss = np.sum(weights * (np.logaddexp(0.0, eta) - y * eta))
        return loss + 0.5 * penalty * np.dot(theta, theta)

    def equation(theta, weights):
        return np.dot(weights * (expit(np.dot(x, theta)) - y), x) + penalty * theta

    return objective, equation


def ways(
    problem: dict[str, np.ndarray], objective: Callable, equation: Callable, *, orders: int
) -> dict[str, tuple[Callable, int]]:
    """Makers of the expansion, each with the highest order to ask of it."""
    theta, hyper, hessian = (problem[key] for key in ("theta", "hyper", "hessian"))
    expansion = vittles.ParametricSensitivityTaylorExpansion

    def documented(order):
        return expansion.optimization_objective(objective, theta, hyper, order, hess0=hessian)

    def by_equation(order, **options):
        return expansion(equation, theta, hyper, order, get_cholesky_solver(hessian), **options)

    def linear(order):
        return by_equation(order, max_hyper_order=1)

    def reverse(order):
        return by_equation(order, forward_mode=False, force=True)

    found = {"objective": (documented, orders), "equation": (by_equation, orders)}
    if "x" in problem:
        return {**found, "linear": (linear, orders)}
    return {**found, "reverse": (reverse, min(orders, 2))}


def measured(
    problem: dict[str, np.ndarray], make: Callable, orders: int, seconds: float
) -> dict[str, Any]:
    """Terms and times of one way."""
    directions = problem["directions"]
    begin = time.perf_counter()
    expansion = make(orders)
    found = {"setup_s": time.perf_counter() - begin}

    def terms(direction, order=orders):
        return expansion.evaluate_input_derivs(direction, max_order=order)

    found["terms"] = [np.array(terms(direction)).tolist() for direction in directions]
    found["evaluate_s"] = [
        best(lambda k=k: terms(directions[0], k), seconds) for k in range(1, orders + 1)
    ]
    if "x" in problem and orders >= LEAVE_ONE_OUT_ORDER:
        begin = time.perf_counter()
        theta = [
            expansion.evaluate_taylor_series(weights, max_order=LEAVE_ONE_OUT_ORDER)
            for weights in 1 - np.eye(len(problem["hyper"]))
        ]
        spent = time.perf_counter() - begin
        found["leave_one_out"] = {"seconds": spent, "theta": np.array(theta).tolist()}
    return found


def jacobian(problem: dict[str, np.ndarray], objective: Callable) -> dict[str, Any]:
    """First derivatives in all hyperparameters, given the exact Hessian."""
    theta, hyper, hessian = (problem[key] for key in ("theta", "hyper", "hessian"))
    begin = time.perf_counter()
    linear = vittles.HyperparameterSensitivityLinearApproximation(
        objective, theta, hyper, hessian_at_opt=hessian
    )
    value = linear.get_dopt_dhyper()
    return {"seconds": time.perf_counter() - begin, "value": value.tolist()}


def best(call: Callable[[], object], seconds: float) -> float:
    """Wall seconds of the fastest of at least three calls, repeated for so many seconds."""
    spent: list[float] = []
    while len(spent) < 3 or sum(spent) < seconds:
        begin = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begin)
    return min(spent)


if __name__ == "__main__":
    main()
