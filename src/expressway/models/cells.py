"""Design cells: which samples have equal design rows (DESeq2's rules on replicates)."""

import numpy as np

from expressway._types import Float
from expressway.core.arrow import Wide
from expressway.core.linear import distinct
from expressway.core.order import Groups


def groups(design: Float[np.ndarray, "n p"] | Wide) -> Groups:
    """Design cells of rows that are all here, numbered as `core.cohort.samples` does."""
    size = distinct(design)[1]
    return Groups(np.arange(len(size)), size)
