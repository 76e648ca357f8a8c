"""Design cells: which samples have equal design rows (DESeq2's rules on replicates)."""

import numpy as np

from expressway._types import Float
from expressway.core.order import Groups


def groups(design: Float[np.ndarray, "n p"]) -> Groups:
    """Design cells of rows that are all here, numbered as `core.cohort.samples` does."""
    size = np.unique(design, axis=0, return_counts=True)[1]
    return Groups(np.arange(len(size)), size)
