"""The infinitesimal jackknife: how a solution moves with the weights of its observations.

A sum over observations ``sum_n w_n g_n(theta) = 0`` makes the solution a smooth function of the
weights. Its derivatives at w = 1 predict what leaving observations out would do, without refitting
(Jaeckel 1972; Giordano, Stephenson, Liu, Jordan & Broderick 2019, A Swiss Army Infinitesimal
Jackknife, AISTATS; higher orders: arXiv:1907.12116). Everything here is beside its exact
counterpart: warm-started refits, many at a time.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float, Int

from . import folds as folds_of
from .conclusion import Influential
from .implicit import implicit
from .influential import Change, most_influential
from .refit import Left, refitted
from .solution import Solution, Stage
from .taylor import Series, taylor
from .validation import CrossValidation, Interval, cross_validate, jackknife_plus
from .weights import in_users, scores, solved_many, weights_of

# Numbers in one batch of hyperparameter vectors: 2^22 doubles are 32 megabytes.
BATCH = 2**22


class Jackknife:
    """What weights do to a solution; made by `jackknife`.

    Attributes
    ----------
    fit
        The solution.
    count
        Number of observations.
    """

    def __init__(self, fit: Solution, weights: str | None) -> None:
        self.fit = fit
        for stage in fit.stages:
            _ = stage.inverse
        system = fit.stages[0].system
        given, self.place = weights_of(fit, weights)
        self.count = len(given)
        self.weight = np.asarray(given)
        marked = system.hyper.vector(self.place(np.arange(1.0, self.count + 1.0)))
        plain = system.hyper.vector(self.place(np.zeros(self.count)))
        number = np.asarray(marked - plain)
        self.index = np.argsort(np.where(number > 0, number, np.inf), kind="stable")[: self.count]
        """Where the weights are in the vector of hyperparameters."""

    def influence(self, quantity: Callable[[Any], Any] | None = None) -> Any:
        """``d theta / d w_n`` of every observation, or that of a quantity of theta.

        ``- A⁻¹ g_n``: A is the Jacobian, g_n the observation's gradient. Leaving n out changes
        theta by about minus this.

        Parameters
        ----------
        quantity
            Smooth function of theta, its result any pytree.

        Returns
        -------
        pytree
            Like theta, or like the quantity, each leaf with observations as first axis.
        """
        if quantity is None:
            return self._shaped(self.influences)
        theta_hat = implicit(self.fit)
        rows = jax.jacrev(lambda w: quantity(theta_hat(self.place(w))))(jnp.asarray(self.weight))
        return jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), rows)

    def leave_out(self, sets: Any = None, order: int = 1, *, corrected: bool = False) -> Any:
        """Predicted parameters with each set of observations left out.

        Parameters
        ----------
        sets
            Sets of indices (`expressway.folds`), or a boolean matrix of sets × observations; each
            observation by itself when not given.
        order
            Of the Taylor series in the weights; 1 is linear. A higher order is no better where
            `taylor(fit).trust` says so.
        corrected
            Newton's steps from the prediction: the exact refit.

        Returns
        -------
        pytree
            Like theta, each leaf with sets as first axis.
        """
        chosen = self.sets(sets)
        if corrected:
            return self.refit(chosen, order=order)
        return self._shaped(self._predicted(chosen, order))

    def refit(self, sets: Any = None, *, order: int = 1) -> Any:
        """Exact parameters with each set left out: solved anew from the prediction, in batches.

        Parameters and result as for `leave_out`.

        Raises
        ------
        Unfinished
            A set leaves a problem that has no solution: which set.
        """
        chosen = self.sets(sets)
        starts = self._free_starts(chosen, order)
        parts: list[list[Any]] = [[] for _ in self.fit.stages]
        for first, last in self.batches(len(chosen)):
            some, begin = chosen[first:last], [start[first:last] for start in starts]
            left = Left(some, self.index, self.weight)
            for part, value in zip(parts, refitted(self.fit, left, begin, first), strict=True):
                part.append(value)
        return self._shaped([np.concatenate(part) for part in parts])

    def cross_validate(
        self, folds: Any = None, loss: Callable[..., Any] | None = None, **options: Any
    ) -> CrossValidation:
        """Mean loss of observations that were left out, predicted or (``exact=True``) refitted.

        Parameters and result as for `expressway.core.validation.cross_validate`.
        """
        return cross_validate(self, folds, loss, **options)

    def covariance(self, clusters: Any = None) -> Float[np.ndarray, "d d"]:
        """The infinitesimal-jackknife (sandwich) covariance of the parameters.

        ``sum_c u_c u_c'``, u_c the sum over a cluster's observations of ``w_n d theta / d w_n``,
        which is ``A⁻¹ (sum_c s_c s_c') A⁻ᵀ``. No correction for few clusters.

        Parameters
        ----------
        clusters
            Label of each observation; each by itself when not given.

        Returns
        -------
        array
            In the order of ``ravel_pytree(theta)``; of a staged problem, of all stages.
        """
        rows = np.concatenate(self.influences, axis=1) * self.weight[:, None]
        if clusters is not None:
            if len(clusters) != self.count:
                msg = f"{len(clusters)} cluster labels for {self.count} observations; give one each"
                raise ValueError(msg)
            _, number = np.unique(np.asarray(clusters), return_inverse=True)
            summed = np.zeros((number.max() + 1, rows.shape[1]))
            np.add.at(summed, number, rows)
            rows = summed
        return rows.T @ rows

    def bootstrap(
        self,
        key: Array,
        draws: int,
        *,
        kind: Literal["multinomial", "bayesian"] = "multinomial",
        clusters: Any = None,
    ) -> Any:
        """Parameters at random weights, by the linear prediction: the infinitesimal bootstrap.

        Parameters
        ----------
        key
            Of the draws.
        draws
            How many.
        kind
            Weights of resampling with replacement, or Dirichlet ones (Rubin 1981).
        clusters
            Label of each observation: whole clusters are drawn.

        Returns
        -------
        pytree
            Like theta, each leaf with draws as first axis.
        """
        labels = np.arange(self.count) if clusters is None else np.asarray(clusters)
        _, number = np.unique(labels, return_inverse=True)
        size = int(number.max()) + 1
        if kind == "multinomial":
            drawn = jax.random.randint(key, (draws, size), 0, size)
            weight = np.stack([np.bincount(row, minlength=size) for row in np.asarray(drawn)])
        else:
            raw = np.asarray(jax.random.exponential(key, (draws, size), dtype=float))
            weight = size * raw / np.sum(raw, axis=1, keepdims=True)
        change = (weight[:, number] - 1.0) * self.weight
        starts = [self._user(stage) for stage in self.fit.stages]
        return self._shaped(
            [
                start[None] + change @ rows
                for start, rows in zip(starts, self.influences, strict=True)
            ]
        )

    def jackknife_plus(
        self, predict: Callable[[Any, Any], Any], inputs: Any, seen: tuple[Any, Any], **options: Any
    ) -> Interval:
        """Prediction intervals that hold without a model (jackknife+).

        Parameters and result as for `expressway.core.validation.jackknife_plus`.
        """
        return jackknife_plus(self, predict, inputs, seen, **options)

    def most_influential(
        self, quantity: Callable[[Any], Any], change: Change = "sign", **options: Any
    ) -> Influential:
        """The smallest set of observations whose removal changes a conclusion.

        Parameters and result as for `expressway.core.influential.most_influential`.
        """
        return most_influential(self, quantity, change, **options)

    @functools.cached_property
    def influences(self) -> list[Float[np.ndarray, "n _"]]:
        """Derivatives of each stage's parameters in weights: vectors, user's coordinates."""
        rows = getattr(self.fit.problem, "rows", None)
        if rows is not None:
            (stage,) = self.fit.stages
            return [np.asarray(in_users(stage, -solved_many(stage, scores(self.fit))))]
        parts: list[list[Any]] = [[] for _ in self.fit.stages]
        size = self.fit.stages[0].system.hyper.size
        for first, last in self.batches(self.count):
            hot = np.zeros((last - first, size))
            hot[np.arange(last - first), self.index[first:last]] = 1.0
            for part, value in zip(parts, self.series(1).flat(jnp.asarray(hot)), strict=True):
                part.append(np.asarray(value))
        return [np.concatenate(part) for part in parts]

    # What follows is how.

    @functools.cached_property
    def series(self) -> Callable[[int], Series]:
        """The Taylor series of an order, made once."""
        return functools.cache(functools.partial(taylor, self.fit))

    def _shaped(self, rows: Sequence[Any]) -> Any:
        """Many vectors of parameters as the user knows them."""
        parts = tuple(
            stage.system.constrained.trees(np.asarray(a))
            for stage, a in zip(self.fit.stages, rows, strict=True)
        )
        return parts if self.fit.staged else parts[0]

    def _user(self, stage: Stage) -> Float[np.ndarray, "d"]:
        system = stage.system
        return np.asarray(system.constrained.vector(system.forward(jnp.asarray(stage.found.t))))

    def sets(self, sets: Any) -> list[Int[np.ndarray, "_"]]:
        """Sets as arrays of indices; each observation by itself when none are given."""
        if sets is None:
            return folds_of.leave_one_out(self.count)
        return folds_of.checked(sets, self.count)

    def batches(self, count: int, *, linear: bool = False) -> Iterator[tuple[int, int]]:
        """Sets of a batch: as many as fit in memory, with their weights unless they are linear."""
        systems = [stage.system for stage in self.fit.stages]
        width = sum(s.theta.size for s in systems) + (0 if linear else systems[0].hyper.size)
        size = max(1, min(count, BATCH // max(width, 1)))
        for first in range(0, count, size):
            yield first, min(first + size, count)

    def _hypers(self, sets: Sequence[Int[np.ndarray, "_"]]) -> Float[np.ndarray, "b p"]:
        """Vectors of hyperparameters with each set's weights at zero."""
        h = np.repeat(np.asarray(self.fit.stages[0].functions.h)[None], len(sets), axis=0)
        for row, chosen in zip(h, sets, strict=True):
            row[self.index[chosen]] = 0.0
        return h

    def _summed(self, sets: Sequence[Int[np.ndarray, "_"]]) -> list[Float[np.ndarray, "b _"]]:
        """First-order change of each stage's parameters."""
        size = np.array([len(s) for s in sets])
        rows, first = np.concatenate(sets), np.concatenate([[0], np.cumsum(size)[:-1]])
        moves = []
        for influence in self.influences:
            moved = -influence[rows] * self.weight[rows, None]
            moves.append(moved if np.all(size == 1) else np.add.reduceat(moved, first))
        return moves

    def _predicted(self, sets: Sequence[Int[np.ndarray, "_"]], order: int) -> list[np.ndarray]:
        """Predictions of each stage's parameters, user's coordinates."""
        starts = [self._user(stage) for stage in self.fit.stages]
        if order == 1:
            moves = self._summed(sets)
            return [start[None] + move for start, move in zip(starts, moves, strict=True)]
        series = self.series(order)
        h0 = np.asarray(self.fit.stages[0].functions.h)
        parts: list[list[Any]] = [[] for _ in self.fit.stages]
        for first, last in self.batches(len(sets)):
            move = series.flat(jnp.asarray(self._hypers(sets[first:last]) - h0))
            for part, value in zip(parts, move, strict=True):
                part.append(np.asarray(value))
        return [
            start[None] + np.concatenate(part) for start, part in zip(starts, parts, strict=True)
        ]

    def _free_starts(self, sets: Sequence[Int[np.ndarray, "_"]], order: int) -> list[np.ndarray]:
        """Where refits start, unconstrained coordinates: the prediction if constraints allow it."""
        if all(stage.system.plain for stage in self.fit.stages):
            return self._predicted(sets, order)
        return [np.repeat(np.asarray(s.found.t)[None], len(sets), 0) for s in self.fit.stages]


def jackknife(fit: Solution, weights: str | None = None) -> Jackknife:
    """What the weights of observations do to a solution.

    Parameters
    ----------
    fit
        A solution: of an additive problem, or of any whose hyperparameters hold weights.
    weights
        Field, or key, of the hyperparameters that holds the weights; not needed for an additive
        problem, or where the hyperparameters are the weights.

    Raises
    ------
    SingularJacobian
        The solution has no derivative: along which direction.
    ValueError
        No weights are found.
    """
    return Jackknife(fit, weights)
