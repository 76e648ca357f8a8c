"""A solved problem, with what is needed to differentiate it."""

import functools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from expressway._types import Array

from . import newton
from .functions import Functions
from .newton import Certificate
from .system import System


@dataclass(frozen=True, eq=False)
class Stage:
    """A solved system: where, with which certificate, and the inverse of its Jacobian."""

    functions: Functions
    found: newton.Found
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def system(self) -> System:
        """The flat functions."""
        return self.functions.system

    def moved(self, h: Array, start: Array) -> newton.Found:
        """The solution at another vector of hyperparameters; errors as of `newton`."""
        f = self.functions._replace(h=jnp.asarray(h))
        search = newton.minimise if self.system.symmetric else newton.root
        return search(f, newton.Point(np.asarray(start), 0.0, 0, 0), newton.MOST, lambda _: None)

    @functools.cached_property
    def inverse(self) -> Any:
        """Inverse of the Jacobian.

        Raises
        ------
        SingularJacobian
            It has none.
        """
        return newton.regular(self.found, self.system)


@dataclass(frozen=True, eq=False)
class Solution:
    """An optimum or root, with what is needed to differentiate it; immutable.

    Attributes
    ----------
    problem, hyper
        What was solved, and at which hyperparameters.
    stages, staged
        The systems solved, and whether they are stages of one problem: then theta is a tuple.
    """

    problem: Any
    hyper: Any
    stages: tuple[Stage, ...]
    staged: bool = False

    @functools.cached_property
    def theta(self) -> Any:
        """Parameters; of a staged problem a tuple of those of each stage."""
        parts = tuple(s.system.forward(s.found.t) for s in self.stages)
        return parts if self.staged else parts[0]

    @property
    def certificate(self) -> Certificate | tuple[Certificate, ...]:
        """What says that it is a solution; of a staged problem one for each stage."""
        parts = tuple(s.found.certificate for s in self.stages)
        return parts if self.staged else parts[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, hyperparameters and certificate to one compressed file (npz).

        Functions are not written: `Objective.load` takes them from the problem.
        """
        parts: dict[str, Any] = {"stages": len(self.stages)}
        for i, stage in enumerate(self.stages):
            parts |= _numbers(stage, f"{i}.")
        write(path, parts)

    def again(self, hyper: Any, start: Any = None, **options: Any) -> "Solution":
        """The solution at other hyperparameters, started from this one or a given point."""
        start = self.theta if start is None else start
        kinds = [stage.functions.structure for stage in self.stages]
        kind = tuple(kinds) if self.staged else kinds[0]
        return self.problem.solve(start, hyper, structure=kind, **options)


def _numbers(stage: Stage, prefix: str) -> dict[str, Any]:
    found = stage.found
    return {
        f"{prefix}t": np.asarray(found.t),
        f"{prefix}h": np.asarray(stage.functions.h),
        f"{prefix}weakest": np.asarray(found.weakest),
        f"{prefix}certificate": json.dumps(found.certificate._asdict()),
        f"{prefix}structure": stage.functions.structure,
    }


def write(path: str | os.PathLike[str], parts: dict[str, Any]) -> None:
    """Whole or not at all."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **parts)
    part.replace(path)
