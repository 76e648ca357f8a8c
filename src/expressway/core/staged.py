"""Problems in a row: the solution of one is data of the next."""

import os
from collections.abc import Sequence
from typing import Any

from .problem import Equation, Objective, loaded, solve
from .solution import Solution, Stage


class Staged:
    """Problems in a row: the solution of one is data of the next.

    Each stage is an `Objective` or `Equation` ``fn(theta_i, (hyper, theta_1, …, theta_{i-1}))``,
    the first ``fn(theta_1, hyper)``. The Jacobian of all stages together is block-triangular; it is
    never formed: derivatives go through the stages one after the other, and memory is that of the
    largest stage.

    Parameters
    ----------
    *stages
        In the order in which they are solved. None of them additive: weights are a hyperparameter
        that all may share.
    """

    def __init__(self, *stages: Objective | Equation) -> None:
        if not stages or any(stage.rows is not None for stage in stages):
            msg = "stages are objectives or equations of (theta, hyper), with weights in hyper"
            raise ValueError(msg)
        self.stages = stages

    def solve(
        self, theta0: Sequence[Any], hyper0: Any = (), structure: Any = None, **options: Any
    ) -> "Solution":
        """All stages solved; ``structure`` is one for each stage, or one for all."""
        if len(theta0) != len(self.stages):
            msg = f"{len(theta0)} starts for {len(self.stages)} stages; give one for each"
            raise ValueError(msg)
        kinds = structure if isinstance(structure, tuple | list) else [structure] * len(theta0)
        thetas: list[Any] = []
        stages: list[Stage] = []
        for stage, start, kind in zip(self.stages, theta0, kinds, strict=True):
            hyper = (hyper0, *thetas) if thetas else hyper0
            fit = solve(stage, start, hyper, structure=kind, **options)
            thetas.append(fit.theta)
            stages += fit.stages
        return Solution(self, hyper0, tuple(stages), staged=True)

    def load(
        self, path: str | os.PathLike[str], theta: Sequence[Any], hyper: Any = ()
    ) -> "Solution":
        """The solution of all stages that was saved; arguments and errors as for `load`."""
        thetas: list[Any] = []
        stages: list[Stage] = []
        for number, (stage, like) in enumerate(zip(self.stages, theta, strict=True)):
            given = (hyper, *thetas) if thetas else hyper
            fit = loaded(stage, path, number, like, given)
            hyper = hyper if number else fit.hyper
            thetas.append(fit.theta)
            stages += fit.stages
        return Solution(self, hyper, tuple(stages), staged=True)
