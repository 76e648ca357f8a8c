"""How clusters answer to the prior and to each sample, as tables."""

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd

from expressway import io
from expressway._errors import Saddle, SingularJacobian, Unfinished
from expressway.core.newton import Certificate
from expressway.models import cluster_sensitivity
from expressway.models.cluster_sensitivity import PRIOR

from . import tables

if TYPE_CHECKING:
    from .result import Clusters

Mixture = Literal["coefficients", "modules"]


class Moves(NamedTuple):
    """Derivatives of sizes of clusters, and of how many pairs of genes share one.

    A row is a coefficient (or ``modules``) and a component, or ``pairs``.
    """

    value: pd.Series
    """Expected number of genes, or pairs of genes."""
    prior: pd.DataFrame
    """Derivatives in the natural logarithm of each number of the prior, of all coefficients."""
    weight: pd.DataFrame
    """Derivatives in each sample's weight, a column a sample: less them is what would be without
    it, to first order. Without columns where likelihoods were not refreshed from the counts."""
    certificate: Certificate
    """Of the optimum."""


def sensitivity(found: "Clusters", mixture: Mixture) -> Moves:
    """Derivatives at the optimum of the bound.

    Raises
    ------
    InputError
        There is no optimum near, or no such mixture.
    """
    if mixture not in ("coefficients", "modules"):
        msg = f"mixture {mixture!r}; give 'coefficients' or 'modules'"
        raise io.InputError(msg)
    data = found.data
    of = found.found.mixtures if mixture == "coefficients" else found.together
    counts = data.counts if found.refreshed else None
    try:
        told = cluster_sensitivity.sensitivity(of, found.found.sites, counts=counts)
    except (Saddle, SingularJacobian, Unfinished) as error:
        msg = f"no optimum of the bound was found near these clusters: {error}"
        raise io.InputError(msg) from None
    clustered = [*range(data.shape), len(data.names) - 1]
    rows, names = [], []
    for row, quantity in enumerate(told.quantities):
        block = of.blocks[quantity.block]
        joint = len(block.coordinates) > 1
        if joint != (mixture == "modules") or not (joint or block.coordinates[0] in clustered):
            continue
        name = "modules" if joint else data.names[block.coordinates[0]]
        order = tables.ordered(block).tolist()
        if quantity.kind == "pairs":
            rows.append(row)
            names.append((name, "pairs"))
        elif quantity.which[0] in order:
            rows.append(row)
            names.append((name, str(order.index(quantity.which[0]) + 1)))
    index = pd.MultiIndex.from_tuples(names, names=["coefficient", "component"])
    order = index.argsort()
    prior = {
        name: np.sum(
            told.prior[:, [i for i, (_, one) in enumerate(told.prior_numbers) if one == name]],
            axis=1,
        )[rows]
        for name in PRIOR
    }
    samples = list(data.samples) if told.weight.shape[1] else []
    weight = pd.DataFrame(told.weight[rows], index=index, columns=pd.Index(samples, dtype=object))
    value = pd.Series(told.value[rows], index=index, name="value")
    return Moves(
        value.iloc[order],
        pd.DataFrame(prior, index=index).iloc[order],
        weight.iloc[order],
        told.certificate,
    )
