"""Sites in one process: rows split over pretended hospitals, of which only sums are seen."""

from collections.abc import Sequence

import jax
import numpy as np

from expressway.core.cohort import Ask, Pooled, Samples


class Sites:
    """Cohort of several sites. Nothing but the result of `sum` crosses from one.

    Parameters
    ----------
    sites
        Rows of each site: the same genes and design columns.
    """

    def __init__(self, sites: Sequence[Samples]) -> None:
        self._sites = [Pooled(rows) for rows in sites]
        self.rounds = 0

    @property
    def sites(self) -> list[Pooled]:
        """What each site holds."""
        return self._sites

    @property
    def genes(self) -> int:
        """Number of genes."""
        return self._sites[0].genes

    @property
    def coefficients(self) -> int:
        """Number of columns of the design."""
        return self._sites[0].coefficients

    @property
    def at_hand(self) -> bool:
        """Rows stay at their sites."""
        return False

    def sum(self, statistic, *args, shared=(), genes=None):  # noqa: D102
        return self.sums(Ask(statistic, args, shared, genes))[0]

    def sums(self, *asks: Ask):  # noqa: D102
        self.rounds += 1
        parts = [site.sums(*asks) for site in self._sites]
        return jax.tree.map(lambda *a: np.sum(a, axis=0), *parts)

    def map(self, fn, *args, shared=(), genes=None) -> "Sites":  # noqa: D102
        mapped = Sites([])
        mapped._sites = [site.map(fn, *args, shared=shared, genes=genes) for site in self._sites]
        return mapped

    def collect(self, fn, *args, shared=(), genes=None):  # noqa: D102, ARG002
        msg = "the rows of a federated cohort stay at their sites: use sum"
        raise TypeError(msg)
