"""Means of the negative-binomial GLM, and what multiplies a row's terms."""

import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float
from expressway.core.cohort import Samples

# DESeq2 R/core.R, minmu: means below it are raised inside weights, response and errors.
MIN_MU = 0.5
# DESeq2 R/core.R, fitNbinomGLMsOptim: `large` = 30 on the log2 scale.
BOX = 30 * float(np.log(2))
# exp of it, squared and times a count is still a number: at a site no trial point may overflow.
FARTHEST = 300.0


def mean(beta: Float[Array, "g p"], s: Samples) -> Float[Array, "n g"]:
    """Means ``exp(offset + x beta)``, finite and positive at any trial point."""
    return jnp.exp(jnp.clip(s.offset + s.x @ beta.T, -FARTHEST, FARTHEST))


def row_weight(s: Samples) -> Float[Array, "n #g"]:
    """What multiplies a row's terms: how often it counts × observation weight."""
    return s.weight[:, None] * s.precision


# DESeq2 R/core.R, weightThreshold: rows of less weight are not in the Cox-Reid term's information.
HEAVY = 1e-2


def heavy(s: Samples) -> Float[Array, "n #g"]:
    """How often a row counts where its observation weight is above `HEAVY`; 0 elsewhere.

    DESeq2 R/core.R (weightThreshold) and src/DESeq2.cpp (log_posterior): the Cox-Reid term's
    information is of these rows, not weighted.
    """
    return s.weight[:, None] * (s.precision > HEAVY)
