"""How coefficients, dispersions and tests of one gene move when a sample counts more.

Everything is a derivative in `Samples.weight` of the estimating equations of the pipeline, at the
weights of the rows. An estimate that solves ``F(theta, w) = sum_n w_n f_n(theta) + ridge = 0``
moves by ``d theta / d w_n = H⁻¹ f_n``, ``H = -dF/dtheta``. Of a row only numbers are needed, never
vectors: what is wanted in the end is ``t' d theta``, with t a gene's own, and
``t' H⁻¹ f_n = (x_n' H⁻¹ t) × score_n``. So a gene costs O(n p).
"""

from typing import NamedTuple

import jax.numpy as jnp

from expressway._types import Array, Bool, Float
from expressway.core import linear
from expressway.core.arrow import Wide
from expressway.core.cohort import Samples
from expressway.core.linear import weighted_crossproduct, weighted_sum

from .means import MIN_MU, mean, row_weight
from .nb import RIDGE


class Solved(NamedTuple):
    """Coefficients of each gene, and which equation they solve."""

    beta: Float[Array, "g p"]
    alpha: Float[Array, "g"]
    floor: Float[Array, "g"]
    """Means are raised to it: DESeq2's .5, or 0 for genes finished by the boxed solver."""
    free: Bool[Array, "g p"]
    """Coefficients that are not at a bound of the box."""


class Moving(NamedTuple):
    """How one estimate of each gene moves with its rows, given the vector t it is wanted along."""

    score: Float[Array, "n g"]
    """Of a row, times its precision: its term is ``score x``."""
    factor: Float[Array, "g p p"]
    """Of H, with coordinates at a bound frozen."""
    slope: Float[Array, "g p"]
    """Derivative of the equation in log alpha, summed over rows."""
    free: Bool[Array, "g p"]
    leverage: Float[Array, "n g"]
    """``o_n x' H⁻¹ x``, the row's share of H: a row left out moves ``1 / (1 - share)`` times as
    far in one step of Newton's method as the derivative says."""

    def parts(
        self, t: Float[Array, "g p"], x: Float[Array, "n p"] | Wide
    ) -> tuple[Float[Array, "n g"], Float[Array, "1 g"]]:
        """``t' d beta / d w_n`` at given dispersions, and ``t' d beta / d log alpha``."""
        a = linear.solve(self.factor, jnp.where(self.free, t, 0.0))
        return self.score * (x @ a.T), jnp.sum(self.slope * a, axis=1)[None]

    def along(
        self,
        t: Float[Array, "g p"],
        x: Float[Array, "n p"] | Wide,
        log_alpha: Float[Array, "n #g"],
    ) -> Float[Array, "n g"]:
        """``t' d beta / d w_n``, given ``d log alpha / d w_n``."""
        own, through = self.parts(t, x)
        return own + log_alpha * through


def moving(at: Solved, s: Samples) -> Moving:
    """Derivative of coefficients that solve `nb.equation`, or `nb.likelihood`'s at floor 0.

    With ``m = max(mu, floor)``, ``W = m / (1 + alpha m)`` and e the logarithm that the mean is
    raised by, a row's score is ``W e + (y - m) / (1 + alpha m)``; its derivatives are minus
    ``W (1 + alpha y) / (1 + alpha m)`` in the linear predictor (minus W where raised) and
    ``-alpha (W² e + m (y - m) / (1 + alpha m)²)`` in log alpha.
    """
    alpha, floor = at.alpha[None], at.floor[None]
    mu = mean(at.beta, s)
    low = mu < floor
    m = jnp.maximum(mu, floor)
    raised = jnp.where(low, jnp.log(jnp.where(low, floor, 1.0) / mu), 0.0)
    over = 1.0 / (1.0 + alpha * m)
    w = m * over
    left = (s.y - m) * over
    observed = jnp.where(low, w, w * (1.0 + alpha * s.y) * over)
    rows = row_weight(s)
    free = at.free
    whole = linear.ridged(weighted_crossproduct(rows * observed, s.x), RIDGE)
    factor = linear.cholesky(linear.frozen(whole, free))
    both = free[:, :, None] & free[:, None, :]
    inverted = jnp.where(both, linear.inverse(factor), 0.0)
    return Moving(
        score=s.precision * (w * raised + left),
        factor=factor,
        slope=-((rows * alpha * w * (w * raised + left)).T @ s.x),
        free=free,
        leverage=rows * observed * linear.hat(inverted, s.x),
    )


# A predicted variance, or what is left of an information, is at least this share of what it was.
LEAST = 0.01


class Tested(NamedTuple):
    """A contrast's estimate c'b, its standard error and their ratio; natural log."""

    estimate: Float[Array, "..."]
    se: Float[Array, "..."]
    stat: Float[Array, "..."]


class Effect(NamedTuple):
    """Derivatives in each row's weight, genes leading."""

    tested: Tested
    """Of each contrast: genes, contrasts, rows."""
    step: Tested
    """What leaving the row out changes, predicted (`tested`)."""
    leverage: Float[Array, "g n"]
    """Share of a row in the information matrix (`Moving.leverage`)."""
    log_alpha: Float[Array, "g n"]
    """What dispersions move by."""


def tested(
    at: Solved,
    log_alpha: Float[Array, "g n"],
    contrasts: Float[Array, "q p"],
    s: Samples,
) -> Effect:
    """Derivatives of estimates, standard errors and statistics, given those of log alpha.

    The variance is ``v = u'Iu`` with ``u = (I + ridge)⁻¹ c`` and I Fisher's information with
    clipped means, so ``dv = tr(E dI)``, where a row's part is
    ``x'Ex = (x'u)² - 2 (x'u)(x'z)``, ``z = (I + ridge)⁻¹ I u``.

    Of what leaving a row out changes these are the first-order part only. A row with the share h of
    the information (`Moving.leverage`) moves coefficients ``1 / (1 - h)`` times as far in one step
    of Newton's method, and removing it raises the variance as much more. The step so predicts
    ``c'b`` and v with what comes by coefficients and weights multiplied by that, and what comes by
    the dispersion as it is.
    """
    move = moving(at, s)
    alpha = at.alpha[None]
    mu = mean(at.beta, s)
    m = jnp.maximum(mu, MIN_MU)
    over = 1.0 / (1.0 + alpha * m)
    w = m * over
    rows = row_weight(s)
    bend = jnp.where(mu < MIN_MU, 0.0, w * over)  # dW / d eta
    info = weighted_crossproduct(rows * w, s.x)
    factor = linear.cholesky(linear.ridged(info, RIDGE))
    moved = log_alpha.T

    def of(c: Float[Array, "p"]) -> tuple[Tested, Tested]:
        whole = jnp.broadcast_to(c[None], at.beta.shape)
        u = linear.solve(factor, whole)
        product = linear.product(info, u)
        z = linear.solve(factor, product)
        on_u = s.x @ u.T
        part = on_u * on_u - 2.0 * on_u * (s.x @ z.T)
        estimate = jnp.sum(at.beta * whole, axis=1)[None]
        se = jnp.sqrt(jnp.sum(u * product, axis=1))[None]
        own, through = move.parts(whole, s.x)
        own_bend, through_bend = move.parts((rows * part * bend).T @ s.x, s.x)
        own_variance = s.precision * w * part + own_bend
        by_alpha = through_bend - weighted_sum(rows * alpha * w * w, part)[None]
        d_estimate = own + moved * through
        d_se = (own_variance + moved * by_alpha) / (2.0 * se)
        d_stat = (d_estimate - estimate / se * d_se) / se
        # One step of Newton's method without the row.
        less = 1.0 / jnp.maximum(1.0 - move.leverage, LEAST)
        step = -(own * less + moved * through)
        share = 1.0 - (own_variance * less + moved * by_alpha) / se**2
        after = se * jnp.sqrt(jnp.maximum(share, LEAST))
        stat = (estimate + step) / after - estimate / se
        return Tested(d_estimate.T, d_se.T, d_stat.T), Tested(step.T, (after - se).T, stat.T)

    found = [of(contrasts[k]) for k in range(contrasts.shape[0])]

    def together(of_each: list[Tested]) -> Tested:
        return Tested(*(jnp.stack(part, axis=1) for part in zip(*of_each, strict=True)))

    return Effect(
        together([derivative for derivative, _ in found]),
        together([step for _, step in found]),
        move.leverage.T,
        log_alpha,
    )


def frozen(at: Solved, contrasts: Float[Array, "q p"], s: Samples) -> Effect:
    """`tested` at dispersions that stay as they are."""
    return tested(at, jnp.zeros((s.y.shape[1], s.y.shape[0])), contrasts, s)
