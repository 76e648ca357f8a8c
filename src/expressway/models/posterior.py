"""What shrinkage by any prior has in common: choices, where genes are, what is found of them."""

from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from expressway._types import Bool, Float, Int
from expressway.core.cohort import Cohort

Kind = Literal["apeglm", "normal"]


class Choices(NamedTuple):
    """What is wanted of a shrinkage."""

    kind: Kind = "apeglm"
    interval: float = 0.95
    """Probability of the posterior interval."""
    threshold: float | int = 0.0
    """Size of a log2 fold change below which it is small."""
    exact: bool = False
    """Intervals and rates of ``"apeglm"`` by integration, not by Laplace's approximation."""
    free: tuple[int, ...] = ()
    """Coefficients without a prior of their own when the kind is ``"normal"``: the intercept."""


class Part(NamedTuple):
    """Genes that are fitted from the same kind of rows."""

    cohort: Cohort
    """Its genes are those of ``place``, or all."""
    at: Int[np.ndarray, "k"]
    """Genes of that cohort."""
    place: Int[np.ndarray, "k"]
    """The same genes in the fit."""


class Mode(NamedTuple):
    """The highest mode of each gene's posterior of a contrast; natural log."""

    mode: Float[np.ndarray, "k"]
    sd: Float[np.ndarray, "k"]
    """Laplace's: from the inverse curvature at the mode."""
    se: Float[np.ndarray, "k"]
    """What DESeq2 calls its standard error."""
    status: Int[np.ndarray, "k"]
    """`core.solve.Status`."""
    two_modes: Bool[np.ndarray, "k"]
    ends: "Ends"


class Ends(NamedTuple):
    """Interval and rate of each gene's posterior of a contrast; natural log."""

    lower: Float[np.ndarray, "k"]
    upper: Float[np.ndarray, "k"]
    lfsr: Float[np.ndarray, "k"]
    """Probability of the sign that is not the mode's, or of a size below the threshold."""


def laplace(mode: Float[np.ndarray, "k"], sd: Float[np.ndarray, "k"], choices: Choices) -> Ends:
    """Ends by Laplace's approximation N(m, v²): ``m ± z v`` and ``Phi((T - |m|) / v)``.

    Parameters
    ----------
    mode, sd
        Natural log.
    """
    reach = special.ndtri((1 + choices.interval) / 2) * sd
    small = np.log(2) * choices.threshold
    return Ends(mode - reach, mode + reach, special.ndtr((small - np.abs(mode)) / sd))


class Found(NamedTuple):
    """What a prior makes of all genes."""

    modes: tuple[Mode, ...]
    """Of each part."""
    scale: float
    """Of the contrast's prior, natural log."""
