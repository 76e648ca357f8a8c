"""Losses of a model's outputs: negative log-likelihoods with their expected information.

Each is called with the outputs of one observation and its target, and gives one number, with all
constants of the likelihood, in natural logarithms. Of more than one output it is the sum over
independent ones, except for `categorical`, whose outputs are the logits of one choice.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from expressway._errors import InputError
from expressway._types import Array, Float

from .special import gamma_ratio


@runtime_checkable
class Loss(Protocol):
    """A negative log-likelihood that knows its expected information."""

    canonical: bool
    """The Hessian in the outputs does not depend on the target: it is the information."""
    convex: bool
    """The Hessian in the outputs is positive semidefinite everywhere."""

    def __call__(self, outputs: Any, target: Any) -> Any:
        """Of one observation."""
        ...

    def information(self, outputs: Any) -> Any:
        """Expected Hessian in the outputs, c × c."""
        ...

    def root(self, outputs: Any, e: Any) -> Any:
        """A factor of the information times e, which is shaped as the outputs; linear in e."""
        ...

    def mean(self, outputs: Any) -> Any:
        """What a target is on average, shaped as the outputs: probabilities, means."""
        ...


@dataclass(frozen=True)
class Categorical:
    """One of c classes, outputs their logits: ``log sum_k exp(f_k) - f_y``."""

    canonical: ClassVar[bool] = True
    convex: ClassVar[bool] = True

    def __call__(self, outputs: Float[Any, "c"], target: Any) -> Float[Any, ""]:
        """Of one observation; the target is a class, 0 to c - 1."""
        if np.ndim(target) != 0 or not jnp.issubdtype(jnp.result_type(target), jnp.integer):
            kind = jnp.result_type(target)
            msg = f"a target is {kind} of shape {np.shape(target)}, needed is one class, 0 to c - 1"
            raise InputError(msg)
        return jax.nn.logsumexp(outputs) - jnp.asarray(outputs)[target]

    def information(self, outputs: Float[Any, "c"]) -> Float[Array, "c c"]:
        """``diag(p) - p p'``, p the probabilities."""
        p = jax.nn.softmax(outputs)
        return jnp.diag(p) - jnp.outer(p, p)

    def root(self, outputs: Float[Any, "c"], e: Float[Any, "c"]) -> Float[Array, "c"]:
        """``(diag(sqrt p) - p sqrt(p)') e``."""
        p = jax.nn.softmax(outputs)
        moved = jnp.sqrt(p) * e
        return moved - p * jnp.sum(moved)

    def mean(self, outputs: Float[Any, "c"]) -> Float[Array, "c"]:
        """Probabilities."""
        return jax.nn.softmax(outputs)


@dataclass(frozen=True)
class Bernoulli:
    """Yes or no, outputs the logit: ``log(1 + exp(f)) - y f``."""

    canonical: ClassVar[bool] = True
    convex: ClassVar[bool] = True

    def __call__(self, outputs: Float[Any, "*c"], target: Any) -> Float[Any, ""]:
        """Of one observation; the target is 0 or 1."""
        return jnp.sum(jax.nn.softplus(outputs) - _alike(target, outputs) * outputs)

    def information(self, outputs: Float[Any, "*c"]) -> Float[Array, "d d"]:
        """``p (1 - p)`` on the diagonal."""
        return _diagonal(self._weight(outputs))

    def root(self, outputs: Float[Any, "*c"], e: Float[Any, "*c"]) -> Float[Any, "*c"]:
        """``sqrt(p (1 - p)) e``."""
        return jnp.sqrt(self._weight(outputs)) * e

    def mean(self, outputs: Float[Any, "*c"]) -> Float[Any, "*c"]:
        """Probability of 1."""
        return jax.nn.sigmoid(outputs)

    def _weight(self, outputs: Any) -> Any:
        return jax.nn.sigmoid(outputs) * jax.nn.sigmoid(-outputs)


@dataclass(frozen=True)
class Poisson:
    """Counts, outputs the log mean: ``exp(f) - y f + log y!``."""

    canonical: ClassVar[bool] = True
    convex: ClassVar[bool] = True

    def __call__(self, outputs: Float[Any, "*c"], target: Any) -> Float[Any, ""]:
        """Of one observation."""
        y = _alike(target, outputs)
        return jnp.sum(jnp.exp(outputs) - y * outputs + gammaln(y + 1.0))

    def information(self, outputs: Float[Any, "*c"]) -> Float[Array, "d d"]:
        """The means on the diagonal."""
        return _diagonal(jnp.exp(outputs))

    def root(self, outputs: Float[Any, "*c"], e: Float[Any, "*c"]) -> Float[Any, "*c"]:
        """``exp(f / 2) e``."""
        return jnp.exp(0.5 * outputs) * e

    def mean(self, outputs: Float[Any, "*c"]) -> Float[Any, "*c"]:
        """The means."""
        return jnp.exp(outputs)


@dataclass(frozen=True)
class Normal:
    """Numbers around the outputs: ``(y - f)² / (2 sd²) + log sd + log(2 pi) / 2``."""

    sd: float
    canonical: ClassVar[bool] = True
    convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _positive(self.sd, "sd")

    def __call__(self, outputs: Float[Any, "*c"], target: Any) -> Float[Any, ""]:
        """Of one observation."""
        scaled = (_alike(target, outputs) - outputs) / float(self.sd)
        return jnp.sum(0.5 * scaled**2 + (math.log(self.sd) + 0.5 * math.log(2.0 * math.pi)))

    def information(self, outputs: Float[Any, "*c"]) -> Float[Array, "d d"]:
        """``1 / sd²`` on the diagonal."""
        return _diagonal(jnp.full_like(outputs, float(self.sd) ** -2.0))

    def root(self, outputs: Float[Any, "*c"], e: Float[Any, "*c"]) -> Float[Any, "*c"]:  # noqa: ARG002
        """``e / sd``."""
        return e / float(self.sd)

    def mean(self, outputs: Float[Any, "*c"]) -> Float[Any, "*c"]:
        """The outputs themselves."""
        return outputs


@dataclass(frozen=True)
class NegativeBinomial:
    """Counts of variance ``mu + alpha mu²``, outputs the log mean.

    With ``r = 1 / alpha``: ``(y + r) log(1 + alpha mu) - y log(alpha mu) + log y! -
    log Gamma(y + r) + log Gamma(r)``. The log link is not canonical: the Hessian
    ``mu (1 + alpha y) / (1 + alpha mu)²`` depends on the target.
    """

    alpha: float
    canonical: ClassVar[bool] = False
    convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _positive(self.alpha, "alpha")

    def __call__(self, outputs: Float[Any, "*c"], target: Any) -> Float[Any, ""]:
        """Of one observation."""
        y, r = _alike(target, outputs), 1.0 / float(self.alpha)
        each = (y + r) * jax.nn.softplus(self._logit(outputs)) - y * outputs
        # The difference of two log-gammas loses all digits at small alpha; in doubles only.
        counts = jnp.ravel(y).astype(float)[None]
        ratio = gamma_ratio(counts, jnp.full(counts.shape[1], r), jnp.ones_like(counts)).log
        return jnp.sum(each + gammaln(y + 1.0)) - jnp.sum(ratio).astype(each.dtype)

    def information(self, outputs: Float[Any, "*c"]) -> Float[Array, "d d"]:
        """``mu / (1 + alpha mu)`` on the diagonal."""
        return _diagonal(self._weight(outputs))

    def root(self, outputs: Float[Any, "*c"], e: Float[Any, "*c"]) -> Float[Any, "*c"]:
        """``sqrt(mu / (1 + alpha mu)) e``."""
        return jnp.sqrt(self._weight(outputs)) * e

    def mean(self, outputs: Float[Any, "*c"]) -> Float[Any, "*c"]:
        """The means."""
        return jnp.exp(outputs)

    def _weight(self, outputs: Any) -> Any:
        return jax.nn.sigmoid(self._logit(outputs)) / float(self.alpha)

    def _logit(self, outputs: Any) -> Any:
        """``log(alpha mu)``."""
        return outputs + math.log(self.alpha)


categorical = Categorical()
bernoulli = Bernoulli()
poisson = Poisson()
normal = Normal
negative_binomial = NegativeBinomial


def _alike(target: Any, outputs: Any) -> Any:
    """Targets shaped as the outputs, in their precision."""
    if np.size(target) != np.size(outputs):
        msg = (
            f"a target of shape {np.shape(target)} for outputs of shape {np.shape(outputs)}; the "
            "model gives one output for each number of a target"
        )
        raise InputError(msg)
    outputs = jnp.asarray(outputs)
    return jnp.reshape(jnp.asarray(target, dtype=outputs.dtype), outputs.shape)


def _diagonal(weight: Any) -> Any:
    return jnp.diag(jnp.ravel(weight))


def _positive(value: float, name: str) -> None:
    if not 0.0 < value < np.inf:
        msg = f"{name} is {value}, needed is a finite number > 0"
        raise InputError(msg)
