"""What draws and predictions need of a fit, whatever it was fitted with."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .operator import Operator


class Source(NamedTuple):
    """A fit as draws see it: vectors of d parameters, rows of them."""

    operator: Callable[[str, float], Operator]
    """``operator(kind, damping)``: the summed information at the fit, plus damping times the
    identity. Kinds are "hessian", "gauss-newton", "fisher"; `InputError` for one it has not."""
    scores: Callable[[Any], Any] | None
    """``scores(weights)``: rows ``sum_n w_n g_n`` (b by d) for rows of weights (b by n), g_n the
    gradient of observation n's loss; None where the fit is no sum over observations."""
    observations: int
    """Number of observations; 0 where it is no sum over them."""
    shaped: Callable[[Any], Any]
    """Parameters as the user knows them, with a leading axis b, from deviations (b by d)."""
    dtype: Any
    """float32 or float64."""


class Predictor(NamedTuple):
    """Outputs of a function of parameters at m inputs, c numbers each, and their derivatives."""

    outputs: Any
    """At the fit, m by c."""
    gradients: Callable[[int, int], Any]
    """``gradients(first, last)``: rows of ``d output / d theta`` of inputs first to last, each
    input's c outputs after one another: ((last - first) c) by d."""
    along: Callable[[Any], Any]
    """Linearised: changes of all outputs (b by m by c) for deviations (b by d)."""
    at: Callable[[Any], Any]
    """Pushed through: outputs (b by m by c) at the fit plus deviations (b by d)."""
    loss: Any = None
    """One of `expressway.losses`, if these are the outputs it was fitted with."""
