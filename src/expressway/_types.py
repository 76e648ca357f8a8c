"""Array aliases and the letters that name axes in every signature.

Axes: ``n`` samples, ``g`` genes, ``p`` coefficients, ``q`` contrasts or quantiles, ``u`` distinct
design rows, ``k`` clusters. ``#g`` is ``g`` or 1 (one value for all genes).
"""

import jax
import numpy as np
from jaxtyping import Bool as Bool
from jaxtyping import Float as Float
from jaxtyping import Int as Int
from jaxtyping import Shaped as Shaped
from jaxtyping import UInt as UInt

Array = jax.Array | np.ndarray

# Estimates are compared at 1e-10 relative: double precision is part of the contract.
jax.config.update("jax_enable_x64", True)
