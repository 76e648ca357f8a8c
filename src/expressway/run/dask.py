"""Genes spread over the workers of a Dask cluster.

Genes are independent: each worker holds the counts of some and does with them what one process
does with all. What needs more than one gene (size factors, trend, prior, adjustment) stays with
the process that asked.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from distributed import Client

from expressway._types import Int
from expressway.core.cohort import Ask, Pooled, Samples, rows_of
from expressway.core.sparse import Sparse, sparse

# Parts of the genes a thread of a worker: what one worker leaves when it ends, others share.
PARTS = 4


def over(client: Client) -> Callable[[Pooled], "Spread"]:
    """What spreads rows over a cluster's workers: ``tl.de(..., where=over(client))``.

    Workers may come and go: what a lost one held is sent, and what it did is done, once more. They
    need the same versions of expressway and JAX.
    """

    def spread(rows: Pooled) -> Spread:
        workers: Any = client.nthreads()
        threads = sum(workers.values())
        return Spread(client, rows, max(1, PARTS * threads))

    return spread


class Spread:
    """Cohort whose genes are held by workers.

    Parameters
    ----------
    client
        Of the cluster.
    rows
        All samples, as this process holds them.
    parts
        Into how many parts genes are cut.
    """

    def __init__(self, client: Client, rows: Pooled, parts: int) -> None:
        self._client, self._here, self._parts = client, rows, parts
        self._edges = np.linspace(0, rows.genes, min(parts, rows.genes) + 1).astype(int)
        self._held = [
            self._submit(Pooled, _columns(rows.rows, first, last))
            for first, last in pairwise(self._edges.tolist())
        ]

    @property
    def genes(self) -> int:
        """Number of genes."""
        return self._here.genes

    @property
    def coefficients(self) -> int:
        """Number of columns of the design."""
        return self._here.coefficients

    @property
    def at_hand(self) -> bool:
        """Rows may be looked at, by the workers."""
        return True

    @property
    def rows(self) -> Samples:
        """The samples, as this process holds them."""
        return self._here.rows

    @property
    def block(self) -> int:
        """Genes in a block."""
        return self._here.block

    def over_genes(self, fn, *args, shared=(), genes=None):
        """``fn(pooled, genes, *args, *shared)`` of each part's genes; genes lead what it returns.

        Parameters
        ----------
        fn
            Module-level function.
        *args
            Pytrees whose leaves have the genes as first axis.
        shared
            Arguments that are the same for every gene.
        genes
            Indices of the genes; all when not given.
        """
        index = np.arange(self.genes) if genes is None else np.asarray(genes)
        part = np.searchsorted(self._edges, index, side="right") - 1
        # A statistic of no gene still has a form.
        wanted = np.unique(part) if len(index) else np.array([0])
        at = [np.flatnonzero(part == k) for k in wanted]
        futures = [
            self._submit(
                fn, self._held[k], index[own] - self._edges[k], *rows_of(args, own), *shared
            )
            for k, own in zip(wanted, at, strict=True)
        ]
        finished, found = 0, []
        for future, own in zip(futures, at, strict=True):
            found.append(future.result())
            finished += len(own)
            self._here.tell(finished, len(index))
        back = np.argsort(np.concatenate(at), kind="stable")
        return jax.tree.map(lambda *a: np.concatenate(a)[back], *found)

    def sum(self, statistic, *args, shared=(), genes=None):  # noqa: D102
        return self.over_genes(_sum, *args, shared=(statistic, shared), genes=genes)

    def sums(self, *asks: Ask) -> list[Any]:  # noqa: D102
        return [self.sum(a.statistic, *a.args, shared=a.shared, genes=a.genes) for a in asks]

    def collect(self, fn, *args, shared=(), genes=None):  # noqa: D102
        return self.over_genes(_collect, *args, shared=(fn, shared), genes=genes)

    def map(self, fn, *args, shared=(), genes=None) -> "Spread":  # noqa: D102
        # Size factors need all genes, and a refit has few: both are made here.
        here = self._here.map(fn, *args, shared=shared, genes=genes)
        return Spread(self._client, here, self._parts)

    def _submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._client.submit(fn, *args, pure=False)


def _sum(rows: Pooled, genes: Int[np.ndarray, "k"], *args_and_shared: Any) -> Any:
    *args, statistic, shared = args_and_shared
    return rows.sum(statistic, *args, shared=shared, genes=genes)


def _collect(rows: Pooled, genes: Int[np.ndarray, "k"], *args_and_shared: Any) -> Any:
    *args, fn, shared = args_and_shared
    return rows.collect(fn, *args, shared=shared, genes=genes)


def _columns(rows: Samples, first: int, last: int) -> Samples:
    """All samples of neighbouring genes."""
    y: Any = rows.y
    genes = np.arange(first, last)
    counts = (
        sparse(y.columns(genes)) if isinstance(y, Sparse) else np.ascontiguousarray(y[:, genes])
    )
    own = {
        name: a[:, first:last]
        for name, a in (("offset", rows.offset), ("precision", rows.precision))
        if a.shape[1] != 1
    }
    return rows._replace(y=counts, **own)
