"""Losses and intervals from fits with observations left out: cross-validation, jackknife+."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Float

from . import folds as folds_of
from .solution import Solution, Stage
from .system import kept

if TYPE_CHECKING:
    from .jackknife import Jackknife


class CrossValidation(NamedTuple):
    """Held-out loss, and what lies behind it."""

    loss: float
    """Mean over observations that were left out; one left out more than once is averaged first."""
    standard_error: float
    """Standard deviation of the observations' losses over the root of their number."""
    training: float
    """Mean loss of all observations at the fit of all."""
    per_observation: Float[np.ndarray, "n"]
    """NaN for one that was never left out."""
    per_fold: Float[np.ndarray, "f"]
    """Mean over the observations of each fold."""


class Interval(NamedTuple):
    """Lower and upper ends of prediction intervals."""

    lower: Float[np.ndarray, "m"]
    upper: Float[np.ndarray, "m"]


def cross_validate(
    jack: "Jackknife",
    folds: Any = None,
    loss: Callable[..., Any] | None = None,
    *,
    exact: bool = False,
    order: int = 1,
    corrected: bool = False,
) -> CrossValidation:
    """Mean loss of observations that were left out.

    Parameters
    ----------
    jack
        The jackknife of a solution.
    folds
        Sets as for `leave_out`; their number for folds in the order of the data; leave-one-out
        when not given.
    loss
        ``loss(theta, row)`` of an observation: its row of an additive problem's data, else its
        number. The problem's own term when not given.
    exact
        Refit every fold, instead of predicting it.
    order, corrected
        As for `leave_out`.
    """
    chosen = folds_of.k_fold(jack.count, folds) if isinstance(folds, int) else jack.sets(folds)
    held_out = _loss(jack, loss)
    shown = functools.partial(jack.refit, order=order)
    if not exact:
        shown = functools.partial(jack.leave_out, order=order, corrected=corrected)
    total, times = np.zeros(jack.count), np.zeros(jack.count)
    per_fold = []
    linear = not exact and order == 1 and not corrected
    for first, last in jack.batches(len(chosen), linear=linear):
        some = chosen[first:last]
        theta = shown(some)
        fold = np.repeat(np.arange(len(some)), [len(s) for s in some])
        rows = np.concatenate(some)
        values = held_out(theta, fold, rows)
        np.add.at(total, rows, values)
        np.add.at(times, rows, 1.0)
        size = np.bincount(fold)
        per_fold.append(np.bincount(fold, values) / size)
    whole = jax.tree.map(lambda a: jnp.asarray(a)[None], jack.fit.theta)
    everyone = np.arange(jack.count)
    training = held_out(whole, np.zeros(jack.count, int), everyone)
    seen = times > 0
    each = np.full(jack.count, np.nan)
    each[seen] = total[seen] / times[seen]
    spread = np.std(each[seen], ddof=1) if np.sum(seen) > 1 else np.nan
    return CrossValidation(
        loss=float(np.mean(each[seen])),
        standard_error=float(spread / np.sqrt(np.sum(seen))),
        training=float(np.mean(training)),
        per_observation=each,
        per_fold=np.concatenate(per_fold),
    )


def jackknife_plus(
    jack: "Jackknife",
    predict: Callable[[Any, Any], Any],
    inputs: Any,
    seen: tuple[Any, Any],
    *,
    level: float = 0.9,
    exact: bool = True,
) -> Interval:
    """Prediction intervals that hold without a model (jackknife+).

    Barber, Candès, Ramdas & Tibshirani 2021 (Annals of Statistics 49:486, section 1.2): ends
    are order statistics of ``predict(theta_{-n}, x) ∓ |y_n - predict(theta_{-n}, x_n)|``, and
    cover a new response with probability at least ``2 level - 1``, in practice about level.

    Parameters
    ----------
    jack
        The jackknife of a solution.
    predict
        ``predict(theta, x)``, a number.
    inputs
        Pytree of new inputs, observations as first axis.
    seen
        Inputs and responses of the observations fitted.
    level
        Nominal coverage.
    exact
        Leave-one-out fits are exact, else predicted.
    """
    theta = jack.refit() if exact else jack.leave_out()
    x, y = seen
    own = np.asarray(jax.jit(jax.vmap(predict))(theta, x))
    error = np.abs(np.asarray(y) - own)
    each = jax.jit(lambda new: jax.vmap(lambda t: predict(t, new))(theta))
    lower, upper = [], []
    alpha = 1.0 - level
    rank = int(np.ceil((1.0 - alpha) * (jack.count + 1)))
    for i in range(len(jax.tree.leaves(inputs)[0])):
        value = np.asarray(each(jax.tree.map(lambda a, i=i: jnp.asarray(a)[i], inputs)))
        if rank > jack.count:
            lower.append(-np.inf)
            upper.append(np.inf)
            continue
        lower.append(-np.sort(error - value)[rank - 1])
        upper.append(np.sort(value + error)[rank - 1])
    return Interval(np.array(lower), np.array(upper))


@kept
def _own_loss(_stage: Stage, fit: Solution) -> Callable[..., Any]:
    """What an observation adds to the objective."""
    return lambda theta, row: fit.problem.rows.term(theta, fit.hyper.hyper, row)


@kept
def _mapped(_stage: Stage, loss: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(jax.vmap(loss))


def _loss(
    jack: "Jackknife", loss: Callable[..., Any] | None
) -> Callable[..., Float[np.ndarray, "m"]]:
    """``loss(theta of folds, fold of each, row of each)``."""
    rows = getattr(jack.fit.problem, "rows", None)
    data: Any = jnp.arange(jack.count) if rows is None else rows.data
    if loss is None:
        if rows is None or not jack.fit.stages[0].system.symmetric:
            msg = "no loss is known of this problem; give loss=function of (theta, row)"
            raise ValueError(msg)
        loss = _own_loss(jack.fit.stages[0], jack.fit)
    compiled = _mapped(jack.fit.stages[0], loss)

    def held_out(theta: Any, fold: np.ndarray, at: np.ndarray) -> np.ndarray:
        taken = jax.tree.map(lambda a: jnp.asarray(a)[fold], theta)
        found = np.asarray(compiled(taken, jax.tree.map(lambda a: a[at], data)))
        if found.shape != (len(at),):
            msg = f"the loss of one observation has shape {found.shape[1:]}, needed is a number"
            raise ValueError(msg)
        return found

    return held_out
