"""What may leave a site: the statistics by name, a request, a reply, and what is refused.

`STATISTICS` is the whole list of what a site evaluates for somebody else, `CHANGES` of what it does
to its own rows when told to. Every statistic adds over the site's samples.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from expressway._errors import InputError
from expressway._types import Int
from expressway.core.cohort import Ask, Pooled, samples
from expressway.core.nested import projected
from expressway.core.order import below
from expressway.models import (
    deseq,
    lrt,
    moments,
    nb,
    normal_prior,
    outliers,
    profile,
    quasi,
    size_factors,
    size_iteration,
    weights,
)

STATISTICS = (
    size_factors.log_counts,
    size_factors.log_sizes,
    size_factors.inverse_sizes,
    size_iteration.log_likelihood,
    size_iteration.change,
    weights.seen,
    moments.moments,
    moments.spread,
    profile.profile_glm,
    profile.profile_linear,
    nb.equation,
    nb.likelihood,
    nb.information,
    nb.sides,
    below(outliers.normalised),
    below(outliers.squared_error),
    outliers.flags,
    deseq.counts,
    normal_prior.prior_equation,
    normal_prior.prior_likelihood,
    lrt.deviance,
    lrt.level,
    quasi.zeros,
    quasi.rest,
    quasi.large,
    quasi.narrow,
)
CHANGES = (
    size_factors.normalise,
    size_factors.shifted,
    size_factors.overall,
    size_iteration.begun,
    size_iteration.one_level,
    size_iteration.anchored,
    size_iteration.sized,
    weights.unweighted,
    outliers.replaced,
    projected,
)
# The tuples with names that come as arguments of these.
ARGUMENTS = (profile.Shape, outliers.Fitted, normal_prior.Ridged)

_STATISTIC = {statistic.__name__: statistic for statistic in STATISTICS}
_CHANGE = {change.__name__: change for change in CHANGES}


class ProtocolError(InputError):
    """A site or the coordinator does not keep to the protocol; one line says which and how."""


class Asked(NamedTuple):
    """One sum of a request: `core.cohort.Ask` with the statistic's name."""

    statistic: str
    args: tuple[Any, ...]
    shared: tuple[Any, ...]
    genes: Int[np.ndarray, "k"] | None


class Request(NamedTuple):
    """What the coordinator wants of every site in one round."""

    round: int
    asked: tuple[Asked, ...]
    stage: str = ""
    """Of the analysis, for records."""


class Reply(NamedTuple):
    """A site's totals, one result for each sum of the request."""

    site: str
    round: int
    sums: tuple[Any, ...]
    """NamedTuples, or dicts of the same fields."""


class Expected(NamedTuple):
    """What a site's result of one sum looks like."""

    kind: type[Any]
    """The statistic's NamedTuple."""
    shapes: tuple[tuple[int, ...], ...]
    """Of its fields."""


@runtime_checkable
class AbstractSite(Protocol):
    """A site as the coordinator knows it: a name, answers, and changes nobody sees."""

    @property
    def name(self) -> str:
        """What others call it."""
        ...

    def answer(self, request: Request) -> Reply:
        """Its own totals."""
        ...

    def changed(self, change: str, args: Any, shared: Any, genes: Any) -> "AbstractSite":
        """The site with the fields that a change on the list computes from its rows."""
        ...


class Site(NamedTuple):
    """A site in this process: rows that nobody else sees."""

    name: str
    rows: Pooled

    def answer(self, request: Request) -> Reply:
        """Its own totals of statistics on the list.

        Raises
        ------
        ProtocolError
            A statistic is not on the list.
        """
        wanted = [
            Ask(self._listed(_STATISTIC, one.statistic), one.args, one.shared, one.genes)
            for one in request.asked
        ]
        return Reply(self.name, request.round, tuple(self.rows.sums(*wanted)))

    def changed(self, change: str, args: Any, shared: Any, genes: Any) -> "Site":
        """The site with the fields that a change on the list computes from its rows.

        Raises
        ------
        ProtocolError
            The change is not on the list.
        """
        fn = self._listed(_CHANGE, change)
        return Site(self.name, self.rows.map(fn, *args, shared=shared, genes=genes))

    def _listed(self, names: dict[str, Any], name: str) -> Any:
        if name not in names:
            message = f"site {self.name} does not evaluate {name}: it is not on its list"
            raise ProtocolError(message)
        return names[name]


def check_round(reply: Reply, request: Request, name: str) -> None:
    """Refuse a reply to something else.

    Raises
    ------
    ProtocolError
        It is of another site or round, or has not as many results as were asked.
    """
    who = f"site {name}, round {request.round}"
    if reply.site != name or reply.round != request.round:
        message = (
            f"{who}: the reply is of site {reply.site}, round {reply.round}; "
            "restart that site and go on with --resume"
        )
        raise ProtocolError(message)
    if len(reply.sums) != len(request.asked):
        message = f"{who}: {len(reply.sums)} results for {len(request.asked)} sums asked"
        raise ProtocolError(message)


def named(reply: Reply, expected: Sequence[Expected], request: Request) -> Reply:
    """The reply with each result as the statistic's NamedTuple.

    Raises
    ------
    ProtocolError
        A result has other fields.
    """
    sums = []
    for asked, one, (kind, _) in zip(request.asked, reply.sums, expected, strict=True):
        found = dict(fields(one))
        wanted: tuple[str, ...] = kind._fields
        if set(found) != set(wanted):
            message = (
                f"site {reply.site}, round {request.round}: {asked.statistic} has the totals "
                f"{', '.join(map(str, found)) or 'none'} where "
                f"{', '.join(wanted)} were asked; all sites must run the same version"
            )
            raise ProtocolError(message)
        sums.append(kind(**found))
    return reply._replace(sums=tuple(sums))


def check(reply: Reply, request: Request, expected: Sequence[Expected], name: str) -> None:
    """Refuse totals that cannot be right.

    Parameters
    ----------
    reply, request
        What came, and what it should answer.
    expected
        What each result looks like (`expect`).
    name
        The site that was asked.

    Raises
    ------
    ProtocolError
        They are no numbers, of another shape, or hold what is not a finite number.
    """
    who = f"site {name}, round {request.round}"
    for asked, sums, (_, shapes) in zip(request.asked, reply.sums, expected, strict=True):
        for (field, array), shape in zip(fields(sums), shapes, strict=True):
            found = np.asarray(array)
            if found.shape != shape or found.dtype.kind not in "biuf":
                like = "" if found.dtype.kind in "biuf" else f" of {found.dtype}"
                message = (
                    f"{who}: {asked.statistic}.{field} has shape {found.shape}{like} where "
                    f"{shape} was asked; all sites must run the same version"
                )
                raise ProtocolError(message)
            bad = np.argwhere(~np.isfinite(found))
            if len(bad):
                message = (
                    f"{who}: {asked.statistic}.{field} is not a finite number ({len(bad)} such, "
                    f"first for gene {bad[0][0] + 1} of the {len(found)} asked); check its data"
                )
                raise ProtocolError(message)


def expect(ask: Ask, genes: int, coefficients: int) -> Expected:
    """What a statistic's totals look like, from the shapes of its arguments."""
    count = genes if ask.genes is None else len(ask.genes)
    args, shared = (jax.tree.flatten(part) for part in (ask.args, ask.shared))
    beside = tuple(np.shape(leaf)[1:] for leaf in args[0])
    alike = tuple((np.shape(leaf), np.asarray(leaf).dtype) for leaf in shared[0])
    trees = (args[1], shared[1])
    kind, shapes = _of_one_gene(ask.statistic, coefficients, trees, beside, alike)
    return Expected(kind, tuple((count, *shape) for shape in shapes))


@functools.lru_cache
def _of_one_gene(
    statistic: Callable[..., Any],
    coefficients: int,
    trees: tuple[Any, Any],
    beside: tuple[tuple[int, ...], ...],
    alike: tuple[tuple[tuple[int, ...], Any], ...],
) -> Expected:
    """Shapes without the genes' axis: a statistic is traced once for each kind of arguments."""
    args = trees[0].unflatten([jax.ShapeDtypeStruct((1, *shape), float) for shape in beside])
    shared = trees[1].unflatten([jax.ShapeDtypeStruct(*like) for like in alike])
    rows = samples(np.zeros((1, 1)), np.zeros((1, coefficients)))
    found = jax.eval_shape(statistic, *args, *shared, rows)
    return Expected(type(found), tuple(total.shape[1:] for total in found))


def fields(sums: Any) -> list[tuple[str, Any]]:
    """Names and arrays of a statistic's result, a NamedTuple or a dict."""
    return list((sums if isinstance(sums, dict) else sums._asdict()).items())


def size(message: Any) -> int:
    """Bytes of all arrays and numbers in a message."""
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(message))
