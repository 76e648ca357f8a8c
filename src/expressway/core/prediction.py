"""Predictions with the uncertainty of parameters: variances, intervals, class probabilities.

Of outputs f(theta, x) at a fit, with parameters from N(theta, C):

- *linearised*: ``f + J delta``, whose variance is ``J C J'`` (the delta method). It needs no
  draws: each variance ``g' A⁻¹ g`` is bracketed by Gauss and Gauss-Radau rules, or exact where A
  can be factorised;
- *draws*, pushed through: f at theta plus each draw. Of a network that is often worse, as draws
  leave the region where its quadratic approximation holds (Immer, Korzepa & Bauer 2021, Improving
  predictions of Bayesian neural nets via local linearization, AISTATS).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special

from expressway._errors import InputError
from expressway._types import Float, Int

from . import conjugate
from .conjugate import ROUNDING
from .draws import factored, numbered, preconditioner
from .functions import DENSE
from .lanczos import MEMORY
from .losses import Loss
from .operator import Operator
from .quadrature import brackets
from .source import Predictor, Source

How = Literal["linearised", "draws"]
# Bytes of gradients, or of what observations make of them, that are held at once.
BYTES = 2**28


class Prediction(NamedTuple):
    """Outputs at m inputs, c numbers each, with what the uncertainty of parameters makes of them.

    Without the noise of new observations.
    """

    mean: Float[np.ndarray, "m c"]
    """Linearised: at the fit. Pushed through: averaged over draws."""
    variance: Float[np.ndarray, "m c"]
    variance_lower: Float[np.ndarray, "m c"]
    variance_upper: Float[np.ndarray, "m c"]
    """Of variances without draws; from draws both are the variance itself."""
    lower: Float[np.ndarray, "m c"]
    upper: Float[np.ndarray, "m c"]
    """The interval: normal with the upper bound of the variance (its best value where there is no
    bound); from draws their quantiles."""
    certified: bool
    """The bounds of variances are proven."""
    matvecs: int
    probabilities: Float[np.ndarray, "m c"] | None = None
    """The loss's mean averaged over draws: probabilities of classes, of 1, means of counts. None
    without draws: the classes of one input depend on each other, and variances do not say how."""
    probability_sd: Float[np.ndarray, "m c"] | None = None
    probability_lower: Float[np.ndarray, "m c"] | None = None
    probability_upper: Float[np.ndarray, "m c"] | None = None


def predict(
    source: Source,
    predictor: Predictor,
    *,
    how: How = "linearised",
    interval: float = 0.9,
    draws: Float[Any, "b d"] | None = None,
    loss: Any = None,
    **options: Any,
) -> Prediction:
    """Outputs with their variances and intervals.

    Parameters
    ----------
    source, predictor
        A fit, and the outputs that are predicted.
    how
        "linearised", or "draws": pushed through, which needs draws.
    interval
        Probability that intervals hold.
    draws
        Deviations from the fit, a row each; without them variances are bracketed.
    loss
        One of `expressway.losses`: its mean at every draw gives probabilities. The fit's own, if
        it is one and its own model is predicted with.
    **options
        Without draws: of `bracketed`.

    Raises
    ------
    InputError
        Arguments do not fit together: which.
    Indefinite
        The information is not positive definite.
    """
    if not 0.0 < interval < 1.0:
        msg = f"interval is {interval}, needed is a probability between 0 and 1, as .9"
        raise InputError(msg)
    if how not in ("linearised", "draws"):
        msg = f"how is {how!r}, needed is 'linearised' or 'draws'"
        raise InputError(msg)
    if draws is None:
        if how == "draws":
            msg = "how='draws' needs draws of the parameters: give ew.draws(fit, key, n)"
            raise InputError(msg)
        return bracketed(source, predictor, interval=interval, **options)
    if options:
        msg = f"{', '.join(options)} given with draws: that is of predictions without them"
        raise InputError(msg)
    known = predictor.loss if isinstance(predictor.loss, Loss) else None
    return _drawn(predictor, np.asarray(draws), how, interval, loss or known)


def bracketed(
    source: Source,
    predictor: Predictor,
    *,
    interval: float = 0.9,
    kind: str = "hessian",
    rtol: float = 1e-2,
    prior_precision: float = 0.0,
    clusters: Any = None,
) -> Prediction:
    """Linearised predictions without draws.

    Parameters
    ----------
    source, predictor, interval
        As of `predict`.
    kind
        Of information: what the source has, or "sandwich".
    rtol
        Up to which a variance's bounds come together, ``upper - lower <= rtol * lower``; of up to
        3,000 parameters it is exact to rounding. Of a sandwich of more parameters the relative
        error of ``A⁻¹ g`` in the 2-norm; its variances have no bounds.
    prior_precision
        Added to the diagonal of the information.
    clusters
        For a sandwich: a label for each observation, those alike are summed.
    """
    outputs = np.asarray(predictor.outputs, dtype=float)
    sandwich = kind == "sandwich"
    if clusters is not None and not sandwich:
        msg = f"clusters are for kind='sandwich', and kind is {kind!r}: leave one of them out"
        raise InputError(msg)
    if sandwich and source.scores is None:
        msg = "kind='sandwich' needs the gradient of each observation; this fit has none"
        raise InputError(msg)
    operator = source.operator("hessian" if sandwich else kind, prior_precision)
    inverse = _Inverse.of(operator, rtol, outputs.size)
    middle = _Middle.of(source, clusters) if sandwich else None
    parts = [
        inverse.variances(g) if middle is None else middle.variances(inverse, g)
        for g in _gradients(predictor, operator, source.observations if sandwich else 0)
    ]
    lower, best, upper = (
        np.concatenate(each).reshape(outputs.shape)
        for each in zip(*(part[:3] for part in parts), strict=True)
    )
    half = scipy.special.ndtri(0.5 + 0.5 * interval) * np.sqrt(
        np.where(np.isfinite(upper), upper, best)
    )
    return Prediction(
        mean=outputs,
        variance=best,
        variance_lower=lower,
        variance_upper=upper,
        lower=outputs - half,
        upper=outputs + half,
        certified=bool(np.all(np.isfinite(upper))) and not (sandwich and inverse.factor is None),
        matvecs=inverse.made + sum(part.matvecs for part in parts),
    )


@dataclass(frozen=True, eq=False)
class Scores:
    """How good probabilities of classes are."""

    accuracy: float
    """Share of observations whose most probable class is theirs."""
    log_likelihood: float
    """Mean natural logarithm of the probability of the observation's class."""
    expected_calibration_error: float
    """``sum_b count_b / n |accuracy_b - confidence_b|``."""
    confidence: Float[np.ndarray, "b"]
    """Of bins: mean probability of the most probable class; NaN in an empty bin."""
    bin_accuracy: Float[np.ndarray, "b"]
    count: Int[np.ndarray, "b"]


def scores(probabilities: Float[Any, "m c"], labels: Int[Any, "m"], bins: int = 15) -> Scores:
    """Accuracy, log-likelihood and calibration of probabilities of classes.

    The calibration error is that of Guo, Pleiss, Sun & Weinberger (2017, On Calibration of Modern
    Neural Networks, ICML, eq. 3): bins of equal width ``(b / B, (b + 1) / B]`` of the confidence.

    Parameters
    ----------
    probabilities
        Of c classes; a single column is the probability of class 1 of two.
    labels
        The classes, 0 to c - 1.
    bins
        B.

    Raises
    ------
    InputError
        Labels are no classes, or not as many as rows of probabilities.
    """
    p, y = np.asarray(probabilities, dtype=float), np.asarray(labels)
    p = np.concatenate([1.0 - p, p], axis=1) if p.shape[1] == 1 else p
    if y.shape != (len(p),) or y.min() < 0 or y.max() >= p.shape[1]:
        msg = (
            f"labels of shape {y.shape} from {y.min()} to {y.max()}, needed are {len(p)} of "
            f"classes 0 to {p.shape[1] - 1}"
        )
        raise InputError(msg)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count, sure, hits = (
        np.bincount(at, weights=w, minlength=bins) for w in (np.ones(len(p)), confidence, right)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        log_likelihood = float(np.mean(np.log(p[np.arange(len(p)), y])))
        mean_sure, mean_right = sure / count, hits / count
    return Scores(
        accuracy=float(np.mean(right)),
        log_likelihood=log_likelihood,
        expected_calibration_error=float(np.sum(np.abs(hits - sure)) / len(p)),
        confidence=mean_sure,
        bin_accuracy=mean_right,
        count=count.astype(int),
    )


# What follows is how.


class _Variances(NamedTuple):
    """Of some outputs: lower bound, best value, upper bound."""

    lower: Float[np.ndarray, "k"]
    best: Float[np.ndarray, "k"]
    upper: Float[np.ndarray, "k"]
    matvecs: int


class _Inverse(NamedTuple):
    """An information matrix and how it is solved with."""

    operator: Operator
    factor: Any
    """Cholesky's, of few parameters."""
    ahead: Any
    """A preconditioner, of more."""
    rtol: float
    made: int
    """Products that it took to make these."""
    norm: float
    """Of the matrix, at most: what rounding is a share of."""

    @classmethod
    def of(cls, operator: Operator, rtol: float, count: int) -> "_Inverse":
        """For so many outputs."""
        if operator.size <= DENSE:
            factor = factored(operator).lower
            norm = float(np.sum(np.square(factor)))  # the trace
            return cls(operator, factor, None, rtol, operator.size, norm)
        # Less than the products of a few outputs pay for no preconditioner.
        key = jax.random.key(0)
        ahead = preconditioner(operator, key, float(MEMORY), count) if count > 8 else None
        made = 0 if ahead is None else len(ahead.vectors)
        return cls(operator, None, ahead, rtol, made, np.nan)

    def solve(self, g: Float[np.ndarray, "k d"]) -> tuple[Float[np.ndarray, "k d"], int]:
        """``A⁻¹ g`` and the products it took."""
        if self.factor is not None:
            return scipy.linalg.cho_solve((self.factor, True), g.T.astype(float)).T, 0
        found = conjugate.solve(self.operator, g, self.rtol, preconditioner=self.ahead)
        return np.asarray(found.rows), found.matvecs

    def variances(self, g: Float[np.ndarray, "k d"]) -> _Variances:
        """``g' A⁻¹ g``."""
        if self.factor is None:
            found = brackets(self.operator, g, self.rtol, preconditioner=self.ahead)
            both = np.where(
                np.isfinite(found.upper), 0.5 * (found.lower + found.upper), found.lower
            )
            return _Variances(found.lower, both, found.upper, found.matvecs)
        x, _ = self.solve(g)
        best = np.sum(x * g, axis=1)
        # To first order a matrix that is wrong by E changes a variance by x'E x.
        eps = float(np.finfo(self.operator.dtype).eps)
        off = ROUNDING * eps * (self.norm * np.sum(x * x, axis=1) + best)
        return _Variances(np.maximum(best - off, 0.0), best, best + off, 0)


class _Middle(NamedTuple):
    """The middle of a sandwich: gradients of observations, of which clusters are summed."""

    source: Source
    cluster: Int[np.ndarray, "n"] | None

    @classmethod
    def of(cls, source: Source, clusters: Any) -> "_Middle":
        """With clusters numbered."""
        if clusters is None:
            return cls(source, None)
        return cls(source, numbered(clusters, source.observations))

    def variances(self, inverse: _Inverse, g: Float[np.ndarray, "k d"]) -> _Variances:
        """``x' (sum_c s_c s_c') x`` with ``A x = g``."""
        x, matvecs = inverse.solve(g)
        along = self._along(x)
        if self.cluster is not None:
            summed = np.zeros((len(x), int(self.cluster.max()) + 1))
            np.add.at(summed.T, self.cluster, along.T)
            along = summed
        best = np.sum(np.square(along), axis=1)
        return _Variances(best, best, best, matvecs)

    def _along(self, x: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "k n"]:
        """``w_n g_n' x`` of each observation: scores are linear in weights, transposed."""
        dtype = self.source.dtype
        like = jax.ShapeDtypeStruct((len(x), self.source.observations), dtype)
        try:
            back = jax.linear_transpose(self.source.scores, like)  # pyright: ignore
        except TypeError as error:
            msg = "a sandwich without draws is of fits in JAX only: give draws of this one"
            raise InputError(msg) from error
        return np.asarray(back(jnp.asarray(x, dtype=dtype))[0], dtype=float)


def _gradients(
    predictor: Predictor, operator: Operator, observations: int
) -> Iterator[Float[np.ndarray, "k d"]]:
    """Gradients of outputs, as many inputs at a time as fit in memory."""
    count, c = np.shape(predictor.outputs)
    size = max(1, BYTES // (8 * c * max(operator.size, observations)))
    for first in range(0, count, size):
        yield np.asarray(predictor.gradients(first, min(first + size, count)))


def _drawn(
    predictor: Predictor, rows: Float[np.ndarray, "b d"], how: How, interval: float, loss: Any
) -> Prediction:
    """From draws."""
    if len(rows) < 2:
        msg = f"{len(rows)} draw has no variance; give at least two, a hundred for an interval"
        raise InputError(msg)
    if how == "draws":
        outputs = np.asarray(predictor.at(rows), dtype=float)
        mean = outputs.mean(axis=0)
    else:
        mean = np.asarray(predictor.outputs, dtype=float)
        outputs = mean[None] + np.asarray(predictor.along(rows), dtype=float)
    ends = 0.5 - 0.5 * interval, 0.5 + 0.5 * interval
    variance = outputs.var(axis=0, ddof=1)
    lower, upper = np.quantile(outputs, ends, axis=0)
    found = Prediction(mean, variance, variance, variance, lower, upper, False, 0)
    if loss is None:
        return found
    if not isinstance(loss, Loss):
        msg = f"the loss {loss!r} has no mean; take one of ew.losses for probabilities"
        raise InputError(msg)
    each = jax.jit(jax.vmap(loss.mean))
    p = np.stack([np.asarray(each(f)) for f in outputs])
    low, high = np.quantile(p, ends, axis=0)
    return found._replace(
        probabilities=p.mean(axis=0),
        probability_sd=p.std(axis=0, ddof=1),
        probability_lower=low,
        probability_upper=high,
    )
