"""Optima to differentiate, as one .npz file that every program reads: OUT.

NumPy alone and nothing newer than Python 3.8, so that a rival's environment can import it too.
"""

from __future__ import annotations  # Python 3.8 cannot evaluate the annotations below

import argparse
from collections.abc import Callable

import numpy as np

COLUMNS = (10, 30, 100)
OBSERVATIONS = 500
PENALTY = 0.1


def main() -> None:
    """Write all problems into a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    write(parser.parse_args().out)


def write(path: str) -> None:
    """Write blog, logistic_10, logistic_30 and logistic_100 with keys NAME/ARRAY."""
    problems = {"blog": blog(), **{f"logistic_{p}": logistic(p) for p in COLUMNS}}
    arrays = {
        f"{name}/{key}": a for name, problem in problems.items() for key, a in problem.items()
    }
    np.savez(path, **arrays)


def read(path: str) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of each problem by name."""
    problems: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as arrays:
        for key in arrays:
            name, _, array = key.partition("/")
            problems.setdefault(name, {})[array] = arrays[key]
    return problems


def blog() -> dict[str, np.ndarray]:
    """Minimum of theta' A theta / 2 + mean(theta - 1/2)⁵ mean(hyper - 1/2)⁵ at hyper = 0.

    The problem that vittles' author measured in a blog: 4 parameters, 3 hyperparameters.
    """
    random = np.random.RandomState(42)
    root = random.random_sample((4, 4))
    matrix = root @ root.T + np.eye(4)
    hyper = np.zeros(3)
    scale = np.mean(hyper - 0.5) ** 5

    def equation(theta: np.ndarray) -> np.ndarray:
        return matrix @ theta + 5 / 4 * np.mean(theta - 0.5) ** 4 * scale

    def hessian(theta: np.ndarray) -> np.ndarray:
        return matrix + 20 / 16 * np.mean(theta - 0.5) ** 3 * scale

    theta = newton(equation, hessian, np.zeros(4))
    return {
        "matrix": matrix,
        "theta": theta,
        "hyper": hyper,
        "hessian": hessian(theta),
        "directions": 0.1 * random.random_sample((1, 3)),
    }


def logistic(columns: int, observations: int = OBSERVATIONS) -> dict[str, np.ndarray]:
    """Minimum of Σ w (log(1 + exp(x' theta)) - y x' theta) + penalty |theta|² / 2 at weights w = 1.

    Directions drop the first observation, and the first tenth of them.
    """
    random = np.random.default_rng(0)
    x = random.normal(size=(observations, columns)) / np.sqrt(columns)
    truth = random.normal(size=columns)
    y = (random.uniform(size=observations) < _expit(x @ truth)).astype(float)

    def equation(theta: np.ndarray) -> np.ndarray:
        return x.T @ (_expit(x @ theta) - y) + PENALTY * theta

    def hessian(theta: np.ndarray) -> np.ndarray:
        mu = _expit(x @ theta)
        return (x.T * (mu * (1 - mu))) @ x + PENALTY * np.eye(columns)

    theta = newton(equation, hessian, np.zeros(columns))
    directions = np.zeros((2, observations))
    directions[0, 0] = -1
    directions[1, : observations // 10] = -1
    return {
        "x": x,
        "y": y,
        "penalty": np.array(PENALTY),
        "theta": theta,
        "hyper": np.ones(observations),
        "hessian": hessian(theta),
        "directions": directions,
    }


def newton(
    equation: Callable[[np.ndarray], np.ndarray],
    hessian: Callable[[np.ndarray], np.ndarray],
    theta: np.ndarray,
) -> np.ndarray:
    """Root of an equation, to a last step of 1e-14 of its largest element."""
    for _ in range(50):
        step = np.linalg.solve(hessian(theta), equation(theta))
        theta = theta - step
        if np.abs(step).max() <= 1e-14 * np.abs(theta).max():
            return theta
    msg = f"no optimum after 50 Newton steps; the last one is {np.abs(step).max()}"
    raise RuntimeError(msg)


def _expit(eta: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-eta))


if __name__ == "__main__":
    main()
