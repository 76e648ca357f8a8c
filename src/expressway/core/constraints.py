"""Bijectors for constrained parameters: positive, bounded, on the simplex, positive definite.

They are NumPyro's (`numpyro.distributions.biject_to`), well kept and tested there.
"""

from typing import Any, NamedTuple

from numpyro.distributions import biject_to, constraints

from expressway._types import Array


class Bijector(NamedTuple):
    """A one-to-one map between unconstrained coordinates and parameters."""

    transform: Any

    def forward(self, t: Array) -> Array:
        """Parameters at unconstrained coordinates."""
        return self.transform(t)

    def inverse(self, theta: Array) -> Array:
        """Unconstrained coordinates of parameters."""
        return self.transform.inv(theta)


def of(constraint: Any) -> Bijector:
    """The bijector of any of NumPyro's constraints."""
    return Bijector(biject_to(constraint))


def interval(lower: float, upper: float) -> Bijector:
    """Between two bounds (logistic)."""
    return of(constraints.interval(lower, upper))


def greater_than(lower: float) -> Bijector:
    """Above a bound (exponential)."""
    return of(constraints.greater_than(lower))


def less_than(upper: float) -> Bijector:
    """Below a bound (exponential)."""
    return of(constraints.less_than(upper))


# Elementwise, by the exponential.
positive = of(constraints.positive)
# Last axis: positive and of sum 1, by stick-breaking; K parameters from K - 1 coordinates.
simplex = of(constraints.simplex)
# Last two axes: symmetric positive definite, by its Cholesky factor with a positive diagonal.
positive_definite = of(constraints.positive_definite)
# Last axis: increasing.
ordered = of(constraints.ordered_vector)
# Last two axes: the Cholesky factor of a correlation matrix.
correlation_cholesky = of(constraints.corr_cholesky)
