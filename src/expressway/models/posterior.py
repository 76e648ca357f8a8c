"""What shrinkage by any prior has in common: which genes live where, and what is found of them."""

from typing import NamedTuple

import numpy as np

from expressway._types import Bool, Float, Int
from expressway.core.cohort import Cohort


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


class Found(NamedTuple):
    """What a prior makes of all genes."""

    modes: tuple[Mode, ...]
    """Of each part."""
    scale: float
    """Of the contrast's prior, natural log."""
