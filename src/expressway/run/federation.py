"""A cohort whose rows live at named sites, seen from the coordinator: one message a round."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from expressway._types import Int
from expressway.core.cohort import Ask
from expressway.core.nested import projected
from expressway.models.size_iteration import one_level

from .masked import check_masked, unmasked
from .masks import Hidden
from .protocol import (
    AbstractSite,
    Asked,
    Reply,
    Request,
    check,
    check_round,
    expect,
    fields,
    named,
    size,
)

T = TypeVar("T")
R = TypeVar("R")


class Left(NamedTuple):
    """One total that left a site."""

    stage: str
    round: int
    site: str
    statistic: str
    total: str
    """Which of the statistic's totals."""
    shape: str
    """Genes first."""
    bytes: int
    samples: int
    """Samples of the site that were added up."""
    smallest_cell: int
    """The fewest samples that the site has in any design cell it has at all."""
    smallest_cell_of_all: int
    """The fewest samples that all sites together have in any design cell."""
    digest: str
    """BLAKE2b of the array's bytes."""


class Ledger:
    """What was said: rounds, bytes and every total that left a site.

    Parameters
    ----------
    samples, smallest
        Samples of each site, and the fewest that it has in any design cell.
    smallest_of_all
        The fewest samples that all sites together have in any design cell.
    """

    def __init__(
        self, samples: Mapping[str, int], smallest: Mapping[str, int], smallest_of_all: int
    ) -> None:
        self._behind = {site: (samples[site], smallest[site], smallest_of_all) for site in samples}
        self.stage = "agreement"
        self.rounds: dict[str, int] = {}
        self.up = dict.fromkeys(samples, 0)
        self.down = dict.fromkeys(samples, 0)
        self.left: list[Left] = []

    @property
    def round(self) -> int:
        """Rounds so far."""
        return sum(self.rounds.values())

    def begin(self) -> int:
        """The number of a new round."""
        self.rounds[self.stage] = self.rounds.get(self.stage, 0) + 1
        return self.round

    def send(self, site: str, message: Any) -> None:
        """Note a message to a site."""
        self.down[site] += size(message)

    def receive(self, site: str, statistic: str, sums: Any) -> None:
        """Note what a site sent."""
        for name, array in fields(sums):
            value = np.ascontiguousarray(array.limbs if isinstance(array, Hidden) else array)
            digest = hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()
            shape = "x".join(map(str, value.shape))
            what = (statistic, name, shape, value.nbytes, *self._behind[site], digest)
            self.left.append(Left(self.stage, self.round, site, *what))
            self.up[site] += value.nbytes

    def said(self) -> dict[str, Any]:
        """All of it, to go on from later (`restore`)."""
        return {
            "rounds": dict(self.rounds),
            "up": dict(self.up),
            "down": dict(self.down),
            "left": list(self.left),
        }

    def restore(self, said: Mapping[str, Any]) -> None:
        """Go on from what an earlier run had said."""
        self.rounds, self.left = dict(said["rounds"]), list(said["left"])
        self.up, self.down = dict(said["up"]), dict(said["down"])


def at_once(fn: Callable[[T], R], sites: Sequence[T]) -> list[R]:
    """``[fn(site) for site in sites]``; sites in other processes are asked at the same time.

    The first failure ends it: what is still asked of others is waited for by nobody.
    """
    if not any(getattr(site, "elsewhere", False) for site in sites):
        return [fn(site) for site in sites]
    threads = ThreadPoolExecutor(len(sites), "site")
    try:
        futures = [threads.submit(fn, site) for site in sites]
        wait(futures, return_when=FIRST_EXCEPTION)
        # In the order of the sites, but one that failed before those that have not answered yet.
        for future in futures:
            if future.done():
                future.result()
        return [future.result() for future in futures]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


class Federation:
    """Cohort of several sites: nothing but totals of listed statistics comes from one.

    Parameters
    ----------
    sites
        The sites, of the same genes and design columns.
    genes, coefficients
        How many there are.
    ledger
        Where what was said is written down.
    masked
        The sites' totals come under masks (`MaskedSite`): only their sum is seen.
    """

    def __init__(
        self,
        sites: Sequence[AbstractSite],
        genes: int,
        coefficients: int,
        ledger: Ledger,
        *,
        masked: bool = False,
    ) -> None:
        self._sites = tuple(sites)
        self._genes, self._coefficients = genes, coefficients
        self._ledger, self._masked = ledger, masked

    @property
    def sites(self) -> tuple[AbstractSite, ...]:
        """The sites."""
        return self._sites

    @property
    def genes(self) -> int:
        """Number of genes."""
        return self._genes

    @property
    def coefficients(self) -> int:
        """Number of columns of the design."""
        return self._coefficients

    @property
    def at_hand(self) -> bool:
        """Rows stay at their sites."""
        return False

    def sum(
        self,
        statistic: Callable[..., Any],
        *args: Any,
        shared: tuple[Any, ...] = (),
        genes: Int[np.ndarray, "k"] | None = None,
    ) -> Any:
        """One round: the request to every site, its totals back, added."""
        return self.sums(Ask(statistic, args, shared, genes))[0]

    def sums(self, *asks: Ask) -> list[Any]:
        """Several sums in one round."""
        ledger = self._ledger
        asked = tuple(Asked(a.statistic.__name__, a.args, a.shared, a.genes) for a in asks)
        request = Request(ledger.begin(), asked, ledger.stage)
        expected = tuple(expect(a, self._genes, self._coefficients) for a in asks)

        def answer(site: AbstractSite) -> Reply:
            reply = site.answer(request)
            check_round(reply, request, site.name)
            reply = named(reply, expected, request)
            (check_masked if self._masked else check)(reply, request, expected, site.name)
            return reply

        for site in self._sites:
            ledger.send(site.name, [(a.args, a.shared, a.genes) for a in asks])
        replies = []
        for reply in at_once(answer, self._sites):
            for one, sums in zip(asked, reply.sums, strict=True):
                ledger.receive(reply.site, one.statistic, sums)
            replies.append(reply.sums)
        if self._masked:
            parts = zip(asked, *replies, strict=True)
            return [unmasked(one, request.round, of_sites) for one, *of_sites in parts]
        return list(jax.tree.map(lambda *a: np.sum(a, axis=0), *replies))

    def map(
        self,
        fn: Callable[..., Any],
        *args: Any,
        shared: tuple[Any, ...] = (),
        genes: Int[np.ndarray, "k"] | None = None,
    ) -> "Federation":
        """A change at every site; it rides with the next request and nothing comes back."""
        for site in self._sites:
            self._ledger.send(site.name, (args, shared, genes))
        changed = [site.changed(fn.__name__, args, shared, genes) for site in self._sites]
        count = self._genes if genes is None else len(genes)
        p = shared[0].shape[1] if fn is projected else 1 if fn is one_level else self._coefficients
        return Federation(changed, count, p, self._ledger, masked=self._masked)

    def collect(
        self,
        fn: Callable[..., Any],
        *args: Any,  # noqa: ARG002
        shared: tuple[Any, ...] = (),  # noqa: ARG002
        genes: Int[np.ndarray, "k"] | None = None,  # noqa: ARG002
    ) -> Any:
        """Not here.

        Raises
        ------
        TypeError
            Always: rows stay at their sites.
        """
        msg = f"{fn.__name__} needs rows, which stay at their sites: use sum"
        raise TypeError(msg)
