"""Dirichlet-process mixtures of normals for estimates whose errors are known.

Truncated stick-breaking: component j of J has weight ``pi_j = v_j prod_{i<j} (1 - v_i)``,
``v_j ~ Beta(1, c)``, ``c ~ Gamma(shape, rate)``; its mean ``mu_j ~ N(m0, sd²)``, its precision
``s_j ~ Gamma(a0, rate b0)`` (Blei & Jordan 2006, Bayesian Analysis 1:121).
"""

from typing import NamedTuple


class Prior(NamedTuple):
    """Prior of a mixture; units are those of coefficients, natural logarithms."""

    truncation: int = 30
    """Components at most."""
    concentration_shape: float = 1.0
    """Of the gamma prior of the concentration, and its rate."""
    concentration_rate: float = 1.0
    mean: float | None = None
    """Of components' means; the average of the gene-wise estimates if None."""
    mean_sd: float | None = None
    """Their standard deviation; twice that of the gene-wise estimates if None."""
    shape: float = 2.0
    """Of the gamma prior of components' precisions (1 / variance), and its rate."""
    rate: float = 0.05


# The prior of the request: precision Gamma(1, rate 2), which forbids tight components.
REQUEST = Prior(30, 1.0, 1.0, 0.0, 2.0**0.5, 1.0, 2.0)
