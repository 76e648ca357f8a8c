"""What is solved: objectives, estimating equations, sums over observations, stages; and solutions.

A `Solution` knows the problem it solves and the inverse of its Jacobian there, and is what
`implicit`, `taylor` and `jackknife` differentiate.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expressway._errors import NotAnOptimum, Unfinished

from . import newton
from .flat import kinds
from .functions import Functions, structure_of
from .newton import Point
from .rows import Rows as Rows
from .rows import Weighted as Weighted
from .rows import checked, rows_of, supervised, weighted
from .solution import Solution, Stage, write
from .system import System
from .trained import Trained, trained

# Seconds between two points that are written to a checkpoint.
EVERY = 20.0


@dataclass(frozen=True, eq=False)
class Objective:
    """A function to minimise, ``fn(theta, hyper) -> scalar``, smooth in both.

    Parameters
    ----------
    fn
        Of any pytrees of numbers; all arithmetic is in doubles.
    constraints
        Pytree of bijectors (`expressway.constraints`), a prefix of theta: what is positive,
        bounded, on the simplex, positive definite. It is solved and certified in unconstrained
        coordinates; parameters, series and jackknife are in the user's.
    """

    fn: Callable[..., Any]
    constraints: Any = None
    rows: Rows | None = None
    systems: dict[Any, System] = field(default_factory=dict, repr=False)
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def additive(
        cls,
        term: Callable[..., Any],
        data: Any,
        penalty: Callable[..., Any] | None = None,
        constraints: Any = None,
    ) -> "Objective":
        """The objective ``sum_n weight_n term(theta, hyper, row_n) + penalty(theta, hyper)``.

        Parameters
        ----------
        term
            What one observation adds, a scalar: a negative log-likelihood.
        data
            Pytree of arrays whose first axis is observations; ``row_n`` is entry n of each.
        penalty
            Prior or ridge, counted once and never weighted.
        constraints
            As for the class.
        """
        rows = rows_of(term, data, penalty)
        return cls(rows.total, constraints, rows)

    @classmethod
    def supervised(
        cls,
        model: Callable[..., Any],
        loss: Callable[..., Any],
        data: Any,
        prior_precision: float = 0.0,
        constraints: Any = None,
    ) -> "Objective":
        """The objective ``sum_n w_n loss(model(theta, x_n), y_n) + prior_precision / 2 |theta|²``.

        Parameters
        ----------
        model
            ``model(theta, input)``, of one input: a scalar or an array of c outputs.
        loss
            ``loss(outputs, target)``, a scalar: a negative log-likelihood. Those of
            `expressway.losses` know their expected information, too.
        data
            ``(inputs, targets)``, pytrees of arrays whose first axis is observations.
        prior_precision
            Of a normal prior on all of theta, in the user's coordinates; summed losses, not mean
            ones: of a mean loss with weight decay λ it is λ times the number of observations.
        constraints
            As for the class.
        """
        rows = supervised(model, loss, data, prior_precision)
        return cls(rows.total, constraints, rows)

    def trained(self, theta: Any, hyper: Any = ()) -> Trained:
        """A point taken as it is, a network after training; as for `trained`."""
        return trained(self, theta, hyper)

    def solve(self, theta0: Any, hyper0: Any = (), **options: Any) -> "Solution":
        """The minimum that descent reaches from a start; options as for `solve`."""
        return solve(self, theta0, hyper0, **options)

    def at(self, theta: Any, hyper: Any = (), **options: Any) -> "Solution":
        """A minimum found elsewhere; options as for `at`."""
        return at(self, theta, hyper, **options)

    def load(self, path: str | os.PathLike[str], theta: Any, hyper: Any = ()) -> "Solution":
        """The solution that was saved; arguments as for `load`."""
        return load(self, path, theta, hyper)


@dataclass(frozen=True, eq=False)
class Equation:
    """An equation to solve, ``fn(theta, hyper) = 0``, with a value for each entry of theta.

    Parameters
    ----------
    fn
        Returns a pytree like theta. Its Jacobian need not be symmetric, and is solved as such.
    constraints
        As for `Objective`.
    """

    fn: Callable[..., Any]
    constraints: Any = None
    rows: Rows | None = None
    systems: dict[Any, System] = field(default_factory=dict, repr=False)

    @classmethod
    def additive(
        cls,
        score: Callable[..., Any],
        data: Any,
        penalty: Callable[..., Any] | None = None,
        constraints: Any = None,
    ) -> "Equation":
        """The equation ``sum_n weight_n score(theta, hyper, row_n) + penalty(theta, hyper) = 0``.

        Parameters are those of `Objective.additive`; score and penalty return pytrees like theta.
        """
        rows = rows_of(score, data, penalty)
        return cls(rows.total, constraints, rows)

    def solve(self, theta0: Any, hyper0: Any = (), **options: Any) -> "Solution":
        """The root that damped Newton steps reach from a start; options as for `solve`."""
        return solve(self, theta0, hyper0, **options)

    def at(self, theta: Any, hyper: Any = (), **options: Any) -> "Solution":
        """A root found elsewhere; options as for `at`."""
        return at(self, theta, hyper, **options)

    def load(self, path: str | os.PathLike[str], theta: Any, hyper: Any = ()) -> "Solution":
        """The solution that was saved; arguments as for `load`."""
        return load(self, path, theta, hyper)


def functions(
    problem: Objective | Equation, theta: Any, hyper: Any, structure: str | None
) -> Functions:
    """Traced once for the shapes of theta and hyper, and kept with the problem."""
    key = jax.tree.structure((theta, hyper)), kinds((theta, hyper))
    if key not in problem.systems:
        symmetric = isinstance(problem, Objective)
        problem.systems[key] = System(
            problem.fn, theta, hyper, problem.constraints, symmetric=symmetric
        )
    system = problem.systems[key]
    return Functions(
        system, system.hyper.vector(hyper), system.held, structure_of(system, structure)
    )


def solve(
    problem: Objective | Equation,
    theta0: Any,
    hyper0: Any = (),
    *,
    structure: str | None = None,
    max_steps: int = newton.MOST,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Solution:
    """The solution of a problem, to a certificate.

    Parameters
    ----------
    problem
        Objective or equation.
    theta0
        Start, inside the constraints.
    hyper0
        Hyperparameters; of an additive problem without the weights, which are 1, or `Weighted`.
    structure
        "dense" forms the Jacobian (the default up to 3,000 parameters); "block" if it is block
        diagonal, blocks counted by the first axis of every part of theta; "matrix-free" needs its
        products only.
    max_steps
        Evaluations after which it is given up.
    checkpoint
        File to which the point reached is written on the way, and from which a solve that was
        interrupted or unfinished goes on.

    Returns
    -------
    Solution
        With its certificate.

    Raises
    ------
    Unfinished
        No solution in so many steps; the error's ``point`` is where it was.
    Saddle
        The gradient vanished at a saddle.
    ValueError
        A shape is wrong, or a value not finite: where.
    """
    hyper0 = weighted(problem.rows, hyper0)
    f = functions(problem, theta0, hyper0, structure)
    t0 = f.system.start(theta0)
    wrong = np.flatnonzero(~np.isfinite(np.asarray(f.h)))
    if len(wrong):
        at_fault = f.system.hyper.label(int(wrong[0]))
        msg = f"{at_fault} is {float(f.h[wrong[0]])}, needed is a finite number"
        raise ValueError(msg)
    value, gradient = f.both(t0)
    if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
        checked(problem.rows, theta0, hyper0)
    point = Point(np.asarray(t0), 0.0, 0, 0)
    if checkpoint is not None and Path(checkpoint).exists():
        point = _resumed(checkpoint, f)
        max_steps += point.steps
    written = [time.monotonic()]
    last = [point]

    def watch(at: Point) -> None:
        last[0] = at
        if checkpoint is not None and time.monotonic() - written[0] > EVERY:
            _keep(checkpoint, at, f)
            written[0] = time.monotonic()

    search = newton.minimise if f.system.symmetric else newton.root
    try:
        found = search(f, point, max_steps, watch)
    except (Unfinished, KeyboardInterrupt):
        if checkpoint is not None:
            _keep(checkpoint, last[0], f)
        raise
    fit = Solution(problem, hyper0, (Stage(f, found),))
    if checkpoint is not None:
        _keep(checkpoint, last[0]._replace(t=np.asarray(found.t)), f)
    return fit


def _keep(path: str | os.PathLike[str], point: Point, f: Functions) -> None:
    write(path, {**point._asdict(), "h": np.asarray(f.h)})


def _resumed(path: str | os.PathLike[str], f: Functions) -> Point:
    with np.load(path) as file:
        if "t" not in file:
            msg = f"{path} is no checkpoint of a solve; name another file"
            raise ValueError(msg)
        t, h = file["t"], file["h"]
        radius, steps, products = file["radius"], file["steps"], file["products"]
    if t.shape != (f.system.theta.size,) or not np.array_equal(h, np.asarray(f.h)):
        msg = (
            f"{path} is of another problem or other hyperparameters ({t.size} parameters, here "
            f"{f.system.theta.size}); name another file"
        )
        raise ValueError(msg)
    return Point(t, float(radius), int(steps), int(products))


def at(
    problem: Objective | Equation,
    theta: Any,
    hyper: Any = (),
    *,
    structure: str | None = None,
    tolerance: float = 1e-6,
) -> Solution:
    """A solution found elsewhere, certified.

    Parameters
    ----------
    problem, hyper, structure
        As for `solve`.
    theta
        The solution.
    tolerance
        Newton decrement (of an objective: of its square root of the objective's scale) up to which
        a point is taken for a solution: derivatives are wrong by about as much.

    Raises
    ------
    NotAnOptimum
        It is none, with the gradient norm; `Saddle` where it is a saddle.
    """
    hyper = weighted(problem.rows, hyper)
    f = functions(problem, theta, hyper, structure)
    t = f.system.start(theta)
    found = newton.judged(f, t)
    c = found.certificate
    scale = max(1.0, abs(f.both(t)[0])) ** 0.5 if f.system.symmetric else 1.0
    if not c.decrement <= tolerance * scale and found.inverse is not None:
        msg = (
            f"not {'an optimum' if f.system.symmetric else 'a root'}: gradient norm "
            f"{c.gradient_norm:.3g}, Newton decrement {c.decrement:.3g}; solve from there first "
            "(problem.solve(theta, hyper))"
        )
        raise NotAnOptimum(msg)
    return Solution(problem, hyper, (Stage(f, found),))


def load(
    problem: Objective | Equation, path: str | os.PathLike[str], theta: Any, hyper: Any = ()
) -> Solution:
    """The solution that `Solution.save` wrote, certified again.

    Parameters
    ----------
    problem
        What it is a solution of.
    path
        The file.
    theta, hyper
        Pytrees of the shapes that were solved: what the numbers mean.

    Raises
    ------
    NotAnOptimum
        The file's parameters do not solve this problem.
    ValueError
        The file does not hold parameters of these shapes.
    """
    return loaded(problem, path, 0, theta, hyper)


def loaded(
    problem: Objective | Equation,
    path: str | os.PathLike[str],
    number: int,
    theta: Any,
    hyper: Any,
) -> Solution:
    """One stage of a file; the first has the hyperparameters of all."""
    hyper = weighted(problem.rows, hyper)
    with np.load(path) as file:
        if f"{number}.t" not in file:
            msg = f"{path} is no saved solution of such a problem; name another file"
            raise ValueError(msg)
        t, h, structure = (file[f"{number}.{name}"] for name in ("t", "h", "structure"))
    f = functions(problem, theta, hyper, str(structure))
    if t.shape != (f.system.theta.size,) or h.shape != (f.system.hyper.size,):
        msg = (
            f"{path} holds {t.size} parameters and {h.size} hyperparameters, needed are "
            f"{f.system.theta.size} and {f.system.hyper.size}: theta and hyper as they were solved"
        )
        raise ValueError(msg)
    hyper = f.system.hyper.tree(jnp.asarray(h))
    return at(problem, f.system.forward(jnp.asarray(t)), hyper, structure=str(structure))
