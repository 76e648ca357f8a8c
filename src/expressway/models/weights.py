"""Observation weights: what they must leave of the design, and DESeq2's rules on them.

A weight is `Samples.precision`: of an entry of the table of counts, 1 at most. DESeq2 1.38
``R/core.R`` (getAndCheckWeights) divides by each gene's largest; here that is done before, as a
largest weight is no sum. Its base means are of the weights as they were given, ours of those
divided; they agree where every gene's largest weight is 1.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway._errors import InputError
from expressway._types import Array, Bool, Float, Int
from expressway.core.cohort import Cohort, Samples
from expressway.core.linear import weighted_crossproduct

from .means import heavy

# Of X'X with a unit diagonal: an eigenvalue below this is rounding. R's qr has 1e-7 of a column.
SINGULAR = 1e-12


class Seen(NamedTuple):
    """What rows of some weight leave of each gene, summed over rows."""

    above: Float[Array, "g"]
    """Weights above 1."""
    ones: Float[Array, "g"]
    """Weights of 1."""
    some: Float[Array, "g"]
    """Weights above 0."""
    counts: Float[Array, "g"]
    """Counts of a weight above 0."""
    normal: Float[Array, "g p p"]
    """``X'X`` over the rows with a weight above 0."""
    total: Float[Array, "g p"]
    """Sum of x over them."""
    heavy: Float[Array, "g p p"]
    """``X'X`` over those with a weight above .01."""


def seen(s: Samples) -> Seen:
    """Numbers of weights, counts and crossproducts of rows of some weight, over rows."""
    there = (s.weight > 0)[:, None] & jnp.ones(s.y.shape, bool)
    inside = (there & (s.precision > 0)) * 1.0
    return Seen(
        above=jnp.sum((there & (s.precision > 1)) * 1.0, axis=0),
        ones=jnp.sum((there & (s.precision == 1)) * 1.0, axis=0),
        some=jnp.sum(inside, axis=0),
        counts=jnp.sum(inside * s.y, axis=0),
        normal=weighted_crossproduct(inside, s.x),
        total=inside.T @ s.x,
        heavy=weighted_crossproduct(heavy(s) * inside, s.x),
    )


def unweighted(s: Samples) -> dict[str, Array]:
    """The rows without their observation weights."""
    return {"precision": np.ones((s.y.shape[0], 1))}


def usable(cohort: Cohort, genes: Int[np.ndarray, "k"]) -> Bool[np.ndarray, "k"]:
    """Which of some genes can be fitted.

    Rows with a weight above 0 must have a count and a design of full rank, and so must those with
    a weight above .01, once columns that are 0 in all of them are left out.

    Raises
    ------
    InputError
        A gene's largest weight is neither 1 nor 0.
    """
    sums = cohort.sum(seen, genes=genes)
    bad = np.flatnonzero((sums.above > 0) | ((sums.ones == 0) & (sums.some > 0)))
    if len(bad):
        msg = (
            f"the largest observation weight of gene {genes[bad[0]] + 1} of the {cohort.genes} is "
            f"not 1 ({len(bad)} such genes): divide each gene's weights by their largest over all "
            "samples"
        )
        raise InputError(msg)
    return (sums.counts > 0) & _full(sums)


def full(cohort: Cohort, genes: Int[np.ndarray, "k"]) -> Bool[np.ndarray, "k"]:
    """Which of some genes have rows of some weight with a design of full rank, as in `usable`."""
    return _full(cohort.sum(seen, genes=genes))


def _full(sums: Seen) -> Bool[np.ndarray, "g"]:
    empty = np.diagonal(np.asarray(sums.heavy), axis1=1, axis2=2) == 0
    held = sums.heavy + np.eye(empty.shape[1]) * empty[:, None, :]
    return _definite(np.asarray(sums.normal)) & _definite(np.asarray(held))


def _definite(a: Float[np.ndarray, "g p p"]) -> Bool[np.ndarray, "g"]:
    """Matrices of full rank."""
    size = np.sqrt(np.diagonal(a, axis1=1, axis2=2))
    unit = np.where(size > 0, size, 1.0)
    scaled = a / unit[:, :, None] / unit[:, None, :]
    return np.linalg.eigvalsh(scaled)[:, 0] > SINGULAR
