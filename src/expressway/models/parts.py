"""What tests of nested designs evaluate: rows as they were fitted, and rows of a smaller design."""

from typing import NamedTuple, cast

import numpy as np
from scipy import sparse

from expressway._errors import InputError
from expressway._types import Float, Int
from expressway.core.arrow import Wide, wide
from expressway.core.cohort import Cohort, Pooled, Spread
from expressway.core.nested import projected
from expressway.core.order import Groups

from .cells import groups
from .deseq import DESeqFit, replaced


class Part(NamedTuple):
    """Genes that are fitted from the same kind of rows."""

    cohort: Cohort
    """Its genes are those of ``place``, or all."""
    at: Int[np.ndarray, "k"]
    """Genes of that cohort."""
    place: Int[np.ndarray, "k"]
    """The same genes in the fit."""


def parts(fit: DESeqFit, cohort: Cohort, cells: Groups | None = None) -> list[Part]:
    """Genes as they were fitted: those with their own counts, those with replaced ones.

    Parameters
    ----------
    fit, cohort
        What `deseq.fit` returned.
    cells
        Design cells, as `deseq.fit` had them; not needed where rows are in memory.

    Raises
    ------
    InputError
        The rows are not those of the fit, or counts were replaced and the design cells are not
        known.
    """
    g, n = cohort.genes, fit.samples
    x = cast("Pooled", cohort).rows.x if isinstance(cohort, Pooled | Spread) else None
    rows = n if x is None else x.shape[0]
    if rows != n or g != len(fit.gene.base_mean) or cohort.coefficients != fit.gene.beta.shape[1]:
        msg = (
            f"these are {rows} samples x {g} genes in {cohort.coefficients} columns, but the fit "
            f"is of {n} x {len(fit.gene.base_mean)} in {fit.gene.beta.shape[1]}: pass the cohort "
            "it was made from"
        )
        raise InputError(msg)
    fitted = np.all(np.isfinite(fit.gene.beta), axis=1) & (fit.gene.base_mean > 0)
    own = np.flatnonzero(fitted & ~fit.replaced)
    found = [Part(cohort, own, own)]
    if np.any(fit.replaced):
        if cells is None and x is not None:
            cells = groups(x if isinstance(x, Wide) else np.asarray(x))
        if cells is None:
            msg = "counts were replaced at sites: give the design cells that the fit was made with"
            raise InputError(msg)
        if not cohort.at_hand:
            # One part, so that its genes share their messages.
            some = np.flatnonzero(fitted)
            return [Part(replaced(fit, cohort, cells, beside=True).cohort, some, some)]
        new = replaced(fit, cohort, cells)
        some = np.flatnonzero(fitted[new.genes])
        found.append(Part(new.cohort, some, new.genes[some]))
    return found


def smaller(cohort: Cohort, matrix: Float[np.ndarray, "p q"]) -> Cohort:
    """Rows of the design ``x C``.

    Raises
    ------
    InputError
        C is no matrix of a nested design.
    """
    p, q = matrix.shape
    if p != cohort.coefficients or not 0 < q < p or np.linalg.matrix_rank(matrix) < q:
        msg = (
            f"a hypothesis about {cohort.coefficients} coefficients needs a matrix of "
            f"{cohort.coefficients} rows and fewer, independent columns, not {p} x {q}: take it "
            "from core.nested.coordinates or core.nested.without"
        )
        raise InputError(msg)
    if not isinstance(cohort, Pooled):
        return cohort.map(projected, shared=(matrix,))
    # Its counts need no look.
    x = cohort.rows.x
    if isinstance(x, Wide):
        less = wide(sparse.csc_matrix(x.sparse() @ sparse.csc_matrix(matrix)))
    else:
        less = np.asarray(x) @ matrix
    return Pooled(cohort.rows._replace(x=less), cohort.tell)
