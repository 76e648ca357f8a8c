"""What may leave a site: the statistics by name, one request, one reply.

`STATISTICS` is the whole list of what a site evaluates for somebody else, and `CHANGES` of what it
does to its own rows when told to. Everything is an addition over the site's samples.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from expressway._types import Int
from expressway.core.cohort import Pooled
from expressway.models import cells, deseq, dispersion, nb, outliers, size_factors, wald

STATISTICS = (
    cells.cell_counts,
    size_factors.log_counts,
    dispersion.moments,
    dispersion.spread,
    dispersion.profile_glm,
    dispersion.profile_linear,
    nb.equation,
    nb.likelihood,
    nb.information,
    nb.sides,
    outliers.below_normalised,
    outliers.below_squared_error,
    outliers.flags,
    deseq.counts,
    wald.counts_in,
)
CHANGES = (cells.assign, size_factors.normalise, outliers.replaced)

_BY_NAME = {statistic.__name__: statistic for statistic in STATISTICS}
_CHANGE_BY_NAME = {change.__name__: change for change in CHANGES}


class Request(NamedTuple):
    """What the coordinator asks of every site in one round."""

    round: int
    statistic: str
    args: tuple[Any, ...]
    shared: tuple[Any, ...]
    genes: Int[np.ndarray, "k"] | None

    @property
    def bytes(self) -> int:
        """Size of its arrays."""
        return size((self.args, self.shared, self.genes))


class Reply(NamedTuple):
    """A site's totals."""

    site: str
    round: int
    sums: Any


class ProtocolError(RuntimeError):
    """A site or a coordinator does not keep to the protocol: one line names which and how."""


def answer(site: str, cohort: Pooled, request: Request) -> Reply:
    """A site's reply: its own sums of a statistic on the list.

    Raises
    ------
    ProtocolError
        The statistic is not on the list.
    """
    statistic = _BY_NAME.get(request.statistic)
    if statistic is None:
        message = f"site {site} does not evaluate {request.statistic}: it is not on its list"
        raise ProtocolError(message)
    sums = cohort.sum(statistic, *request.args, shared=request.shared, genes=request.genes)
    return Reply(site, request.round, sums)


def change(
    site: str, cohort: Pooled, name: str, args: Any, shared: Any, genes: Any
) -> Pooled:
    """A site's rows with the fields that a change on the list computes from them.

    Raises
    ------
    ProtocolError
        The change is not on the list.
    """
    fn = _CHANGE_BY_NAME.get(name)
    if fn is None:
        message = f"site {site} does not run {name}: it is not on its list"
        raise ProtocolError(message)
    return cohort.map(fn, *args, shared=shared, genes=genes)


def check(reply: Reply, request: Request, like: Reply) -> None:
    """Refuse a reply that cannot be right.

    Raises
    ------
    ProtocolError
        Of another round, with arrays of another shape than another site's, or not finite.
    """
    who = f"site {reply.site}, {request.statistic} in round {request.round}"
    if reply.round != request.round:
        message = f"{who}: the reply is of round {reply.round}; restart that site and resume"
        raise ProtocolError(message)
    mine, other = (
        jax.tree.map(lambda a: (np.shape(a), np.asarray(a).dtype.kind), r.sums) for r in (reply, like)
    )
    if mine != other:
        message = f"{who}: arrays differ in shape from those of site {like.site}"
        raise ProtocolError(message)
    for name, array in fields(reply.sums):
        if not np.all(np.isfinite(array)):
            gene = int(np.argwhere(~np.isfinite(array))[0][0])
            message = f"{who}: {name} is not a finite number for gene {gene + 1} of the request"
            raise ProtocolError(message)


def fields(sums: Any) -> list[tuple[str, np.ndarray]]:
    """Names and arrays of a statistic's result."""
    return [(name, np.asarray(array)) for name, array in sums._asdict().items()]


def size(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))
