"""Draws of the parameters of any fit, and predictions with them.

Whatever was fitted (`expressway.Objective`, a gene model, a network of JAX or PyTorch), an estimate
is asymptotically normal around its target with the inverse of the information, summed over all
observations, or the sandwich, as covariance (van der Vaart 1998, Asymptotic Statistics, theorem
5.23). `draws` samples from that, `predict` says what it means for a function of the parameters.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from ._errors import InputError
from ._types import Array
from .core import draws as core_draws
from .core import fitted, prediction
from .core.draws import Draws, Kind, Method
from .core.jackknife import jackknife
from .core.lanczos import MEMORY, rounding_of
from .core.prediction import How, Prediction
from .core.prediction import Scores as Scores
from .core.prediction import scores as scores
from .core.predictor import predictor as predictor_of
from .core.problem import Objective
from .core.solution import Solution
from .core.source import Predictor, Source
from .core.trained import Trained
from .models import gene_draws
from .models.deseq import DESeqFit
from .models.joint import MaximumLikelihood


@runtime_checkable
class Elsewhere(Protocol):
    """A fit of another library (`expressway.torch.fit`)."""

    def source(self) -> Source:
        """What draws need of it."""
        ...

    def predictor(self, inputs: Any) -> Predictor:
        """What predictions need of it."""
        ...


def draws(  # noqa: PLR0913
    fit: Any,
    key: Array,
    n: int = 100,
    *,
    kind: Kind | None = None,
    rtol: float = 1e-3,
    prior_precision: float | int = 0.0,
    clusters: Any = None,
    method: Method | None = None,
    bread: Kind | None = None,
    cohort: Any = None,
    memory: float | int = MEMORY,
) -> Draws | gene_draws.GeneDraws:
    """Draws of the parameters of a fit from their asymptotic normal distribution.

    ``theta + x``, ``x ~ N(0, C)``, ``C = A⁻¹`` with A the information summed over the observations
    (losses that are means are multiplied by their number), or the sandwich
    ``C = A⁻¹ (sum_n g_n g_n') A⁻¹``, g_n the gradient of observation n's loss. Parameters with
    constraints are drawn in unconstrained coordinates, and keep to them.

    Parameters
    ----------
    fit
        A `Solution`, a point taken as it is (`Objective.trained`, `expressway.torch.fit`), or a fit
        of gene models (`models.deseq.fit`, `models.nb.fit`): then all genes at once.
    key
        JAX key.
    n
        How many.
    kind
        "hessian": of the objective. "gauss-newton": ``sum_n J_n' H_n J_n``, J_n the derivative of
        the model's outputs, H_n the Hessian of the loss in them; never negative. "fisher": its
        expectation under the model. Both need `Objective.supervised`. "sandwich": holds where the
        model is wrong. "hessian" for a solution if nothing is said, "gauss-newton" for a point
        taken as it is, "fisher" for genes.
    rtol
        Largest error of a draw's deviation, relative to its length. What was reached is
        ``error_bound``.
    prior_precision
        Precision of a normal prior that is added to A, the damping of networks. That of the
        objective itself counts without being named here.
    clusters
        Label of each observation, of a sandwich: gradients are summed within clusters.
    method
        "cholesky" (to 3,000 parameters if nothing is said), "lanczos" (beyond), or
        "perturb-and-solve" (where a basis does not fit in memory, or of its own choice).
    bread
        A of the sandwich: "hessian", or where the fit is no optimum "gauss-newton" or "fisher".
    cohort
        The rows, for the sandwich of genes.
    memory
        Bytes that vectors of a basis may take.

    Returns
    -------
    Draws
        ``theta`` is like that of the fit with a leading axis n; ``error_bound``, ``certified``,
        ``matvecs``, ``method``. Of genes a `GeneDraws`.

    Raises
    ------
    Indefinite
        A is not positive definite; the message has a negative Ritz value or eigenvalue.
    Unfinished
        The tolerance cannot be met; its ``point`` holds what was reached.
    InputError
        An argument does not fit the fit.
    """
    if isinstance(fit, DESeqFit | MaximumLikelihood):
        if prior_precision or method is not None or bread is not None:
            msg = "prior_precision, method and bread are not for fits of genes; leave them out"
            raise InputError(msg)
        return gene_draws.draws(
            fit, key, n, kind=kind or "fisher", cohort=cohort, clusters=clusters
        )
    if isinstance(fit, Solution) and (fit.staged or not isinstance(fit.problem, Objective)):
        if kind != "sandwich" or prior_precision or bread is not None:
            what = "several stages have" if fit.staged else "an equation has"
            msg = f'{what} no information matrix to draw with; use kind="sandwich" alone'
            raise InputError(msg)
        core_draws.checked(n, rtol, prior_precision, memory)
        return _by_influence(fit, key, n, clusters)
    return core_draws.draw(
        source(fit),
        key,
        n,
        kind=kind or default_kind(fit),
        rtol=rtol,
        prior_precision=prior_precision,
        clusters=clusters,
        method=method,
        bread=bread or (None if isinstance(fit, Solution) else "gauss-newton"),
        memory=memory,
    )


def predict(  # noqa: PLR0913
    fit: Any,
    fn: Any,
    inputs: Any,
    how: How = "linearised",
    interval: float = 0.9,
    *,
    draws: Draws | None = None,
    loss: Any = None,
    kind: Kind | None = None,
    rtol: float | None = None,
    prior_precision: float | int = 0.0,
    clusters: Any = None,
    key: Array | None = None,
    n: int = 100,
) -> Prediction:
    """Outputs of a function of the parameters, with what their uncertainty makes of them.

    Noise of new observations is not in it. "linearised": ``f + J x``, of variance ``J C J'``.
    Without draws each ``g' A⁻¹ g`` is exact (to 3,000 parameters) or bracketed by Gauss and
    Gauss-Radau rules, which need no root and no draws (Golub & Meurant 2010, Matrices, Moments and
    Quadrature with Applications, chapter 12). "draws": f at parameters plus x; of networks mostly
    worse, as draws leave the region where f is linear.

    Parameters
    ----------
    fit
        As of `draws`, but of genes.
    fn
        ``fn(theta, input)`` of one input: a scalar or an array of c outputs, before any link
        (logits, a log mean). None for a fit of PyTorch: its module.
    inputs
        Pytree of arrays whose first axis is the m inputs.
    how
        "linearised" or "draws".
    interval
        Probability that intervals hold.
    draws
        What `draws` returned, to use it for several predictions. Made here, n of them, for
        ``how="draws"`` if it is not given.
    loss
        One of `expressway.losses`: with draws, its mean (probabilities of classes) is averaged
        over them. The loss of a supervised objective where fn is its model.
    kind, prior_precision, clusters, key, n
        As of `draws`.
    rtol
        Of bracketed variances ``(upper - lower) / lower``, 1e-2 if not given; of draws as there.

    Returns
    -------
    Prediction
        ``mean, variance, variance_lower, variance_upper, lower, upper`` (m × c), ``certified``;
        with draws and a loss ``probabilities``.

    Raises
    ------
    InputError, Indefinite, Unfinished
        As `draws`; or arguments do not fit together.
    """
    given = source(fit)
    if isinstance(fit, Solution | Trained):
        predictor = predictor_of(fit, fn, inputs)
    elif fn is None:
        predictor = fit.predictor(inputs)
    else:
        msg = "a fit of PyTorch predicts with its module: give None as fn"
        raise InputError(msg)
    kind = kind or default_kind(fit)
    options = {"kind": kind, "prior_precision": float(prior_precision), "clusters": clusters}
    if draws is not None:
        return prediction.predict(
            given, predictor, how=how, interval=interval, draws=draws.deviations, loss=loss
        )
    if how == "linearised" and loss is None:
        return prediction.predict(
            given, predictor, how=how, interval=interval, rtol=rtol or 1e-2, **options
        )
    made = core_draws.draw(
        given, jax.random.key(0) if key is None else key, n, rtol=rtol or 1e-3, **options
    )
    return prediction.predict(
        given, predictor, how=how, interval=interval, draws=made.deviations, loss=loss
    )


def source(fit: Any) -> Source:
    """What draws need of a fit; `InputError` for what is none."""
    if isinstance(fit, Solution | Trained):
        return fitted.source(fit)
    if isinstance(fit, Elsewhere):
        return fit.source()
    msg = (
        f"draws are of a fit, got {type(fit).__name__}; give what Objective.solve, .at, .trained, "
        "expressway.torch.fit, models.deseq.fit or models.nb.fit returned"
    )
    raise InputError(msg)


def default_kind(fit: Any) -> Kind:
    """The Hessian at an optimum; elsewhere what is never negative."""
    return "hessian" if isinstance(fit, Solution) else "gauss-newton"


def _by_influence(fit: Solution, key: Array, n: int, clusters: Any) -> Draws:
    """The sandwich of equations and stages: influence functions with random weights.

    ``x = sum_n e_n dtheta / dw_n``, in the user's coordinates.
    """
    jack = jackknife(fit)
    e = core_draws.weights(key, n, jack.count, clusters)
    moves = [np.asarray((e * jack.weight) @ rows) for rows in jack.influences]
    starts = [
        np.asarray(s.system.constrained.vector(s.system.forward(jnp.asarray(s.found.t))))
        for s in fit.stages
    ]
    parts = tuple(
        stage.system.constrained.trees(start[None] + move)
        for stage, start, move in zip(fit.stages, starts, moves, strict=True)
    )
    found = [stage.found.certificate for stage in fit.stages]
    worst = max(c.largest / max(c.smallest, 1e-300) for c in found)
    deviations = np.concatenate(moves, axis=1)
    return Draws(
        theta=parts if fit.staged else parts[0],
        deviations=deviations,
        error_bound=np.full(n, rounding_of(float, worst)),
        certified=False,
        matvecs=0,
        method="solve",
        kind="sandwich",
        damping=0.0,
        basis=0,
    )
