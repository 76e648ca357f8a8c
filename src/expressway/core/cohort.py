"""Where rows live: `Samples`, the `Cohort` protocol, and `Pooled`, rows in this process's memory.

Samples add and genes are independent. Everything that needs more than one sample is a statistic:
a pure module-level function ``statistic(*args, *shared, samples)`` that returns a NamedTuple of
per-gene sums. A cohort evaluates it where the rows are.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from expressway._types import Array, Float, Int

from .arrow import Wide
from .kernel import Kernel
from .linear import distinct
from .sparse import CHUNK, Sparse, beside, rows_of_table, sparse

T = TypeVar("T")
R = TypeVar("R")
Tell = Callable[[int, int], None]
# Elements of one block of genes: 2^16 doubles are half a megabyte, so that the arrays between
# operations stay in a core's cache (four times as many: 2.6 times the time). Eight genes fill a
# processor's vector lanes.
BLOCK_ELEMENTS = 2**17
SMALLEST, LARGEST = 8, 4096
# Elements of the widest argument of a block: 2^17 doubles are a megabyte.
WIDEST = 2**17


class Samples(NamedTuple):
    """Rows of one site."""

    y: Float[Array, "n g"] | Int[Array, "n g"]
    """Counts. A statistic sees an array; where rows are kept it may be `Sparse` instead."""
    x: Float[Array, "n p"] | Wide
    """Design."""
    offset: Float[Array, "n #g"]
    """Log size factors (natural log)."""
    precision: Float[Array, "n #g"]
    """Observation weights the user gives (DESeq2's rules); 1 otherwise."""
    weight: Float[Array, "n"]
    """How often the row counts: 1. The jackknife differentiates this; padding rows have 0."""
    cell: Int[Array, "n"]
    """Number of the row's design cell (rows with equal x); -1 on padding rows."""


def samples(counts: Any, design: Array | Wide) -> Samples:
    """Rows with no size factors yet (offset 0), unit precision and unit weight."""
    n = counts.shape[0]
    column = np.zeros((n, 1))
    x = design if isinstance(design, Wide) else np.asarray(design, float)
    return Samples(counts, x, column, column + 1.0, np.ones(n), distinct(x)[0])


class Ask(NamedTuple):
    """A sum that is wanted: the arguments of `Cohort.sum`."""

    statistic: Callable[..., Any]
    args: tuple[Any, ...] = ()
    shared: tuple[Any, ...] = ()
    genes: Int[np.ndarray, "k"] | None = None


def in_silence(finished: int, of: int) -> None:
    """Say nothing of how far a sweep over genes is."""


class Tally:
    """Genes finished so far, by several threads, and who is told of it."""

    def __init__(self, tell: Tell, of: int) -> None:
        self._tell, self._of, self._finished = tell, of, 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many more are finished."""
        with self._lock:
            self._finished += count
            self._tell(self._finished, self._of)


@runtime_checkable
class Cohort(Protocol):
    """Rows somewhere: in memory, on disk, at hospitals."""

    @property
    def genes(self) -> int:
        """Number of genes."""
        ...

    @property
    def coefficients(self) -> int:
        """Number of columns of the design."""
        ...

    @property
    def at_hand(self) -> bool:
        """Whether `collect` may look at rows: false where they may not leave a site."""
        ...

    def sum(
        self,
        statistic: Callable[..., Any],
        *args: Any,
        shared: tuple[Any, ...] = (),
        genes: Int[np.ndarray, "k"] | None = None,
    ) -> Any:
        """Sum of a statistic over all rows, a NamedTuple of numpy arrays with genes leading.

        Parameters
        ----------
        statistic
            Module-level function ``statistic(*args, *shared, samples)``, additive over rows.
        *args
            Pytrees whose leaves have the evaluated genes as first axis.
        shared
            Arguments that are the same for every gene.
        genes
            Indices of the genes to evaluate; all when not given.
        """
        ...

    def sums(self, *asks: Ask) -> list[Any]:
        """Several sums, in one message where rows are elsewhere."""
        ...

    def map(
        self,
        fn: Callable[..., Mapping[str, Array]],
        *args: Any,
        shared: tuple[Any, ...] = (),
        genes: Int[np.ndarray, "k"] | None = None,
    ) -> "Cohort":
        """Cohort of the given genes in which ``fn(*args, *shared, samples)`` replaced fields.

        What the function returns stays beside the rows it was computed from.
        """
        ...

    def collect(
        self,
        fn: Callable[..., Any],
        *args: Any,
        shared: tuple[Any, ...] = (),
        genes: Int[np.ndarray, "k"] | None = None,
    ) -> Any:
        """As `sum`, for functions of all rows that do not add. Only where rows are `at_hand`.

        The function is called as it is, not compiled, on rows padded with weight 0.
        """
        ...


@runtime_checkable
class Spread(Protocol):
    """A cohort whose genes are in several `Pooled`, elsewhere."""

    @property
    def block(self) -> int:
        """Genes in a block."""
        ...

    def over_genes(
        self,
        fn: Callable[..., Any],
        *args: Any,
        shared: tuple[Any, ...] = (),
        genes: Int[np.ndarray, "k"] | None = None,
    ) -> Any:
        """``fn(pooled, genes, *args, *shared)`` where the genes are; they lead what it returns."""
        ...


class Pooled:
    """All rows in this process's memory.

    Genes go through compiled functions in blocks of one shape, so that a function compiles once
    for all blocks, passes and data sets of similar size.

    Parameters
    ----------
    rows
        The samples; ``y`` of any integer or float type, samples × genes, or `Sparse`: it is made
        dense in blocks of genes.
    tell
        Called with how many genes are finished of how many, whenever a block is.
    """

    def __init__(self, rows: Samples, tell: Tell = in_silence) -> None:
        self._rows = rows
        self._padded = _padded_size(rows.y.shape[0])
        self._sparse = isinstance(rows.y, Sparse)
        self.tell = tell

    @property
    def rows(self) -> Samples:
        """The samples."""
        return self._rows

    @property
    def genes(self) -> int:
        """Number of genes."""
        return self._rows.y.shape[1]

    @property
    def coefficients(self) -> int:
        """Number of columns of the design."""
        return self._rows.x.shape[1]

    @property
    def at_hand(self) -> bool:
        """Rows may be looked at."""
        return True

    @property
    def block(self) -> int:
        """Genes in a block, a power of two: one shape to compile for each function."""
        return int(np.clip(2 ** int(np.log2(BLOCK_ELEMENTS // self._padded)), SMALLEST, LARGEST))

    def take(self, genes: Int[np.ndarray, "k"]) -> Samples:
        """Rows of some genes, padded with empty rows to one of few sizes."""
        rows, columns = self._rows, _columns(genes, self.genes)
        own = {
            name: self._pad(value[:, columns])
            for name, value in (("offset", rows.offset), ("precision", rows.precision))
            if value.shape[1] != 1
        }
        counts: Any = rows.y
        y = counts.columns(genes, self._padded) if self._sparse else self._pad(counts[:, columns])
        return self._shared._replace(y=y, **own)

    @functools.cached_property
    def _shared(self) -> Samples:
        """What all genes share, padded once and kept where compiled functions find it."""
        rows = self._rows
        x = jax.tree.map(lambda a: self._pad(a, a.dtype), rows.x)
        parts = {"x": x, "weight": self._pad(rows.weight)}
        for name, value in (("offset", rows.offset), ("precision", rows.precision)):
            if value.shape[1] == 1:
                parts[name] = self._pad(value)
        parts["cell"] = np.full(self._padded, -1)
        parts["cell"][: len(rows.cell)] = rows.cell
        return rows._replace(**jax.device_put(parts))

    def _pad(self, a: Array, kind: np.typing.DTypeLike = float) -> np.ndarray:
        padded = np.zeros((self._padded, *a.shape[1:]), kind)
        padded[: len(a)] = a
        return padded

    def sum(self, statistic, *args, shared=(), genes=None):  # noqa: D102
        return self.collect(compiled(statistic), *args, shared=shared, genes=genes)

    def sums(self, *asks: Ask) -> list[Any]:  # noqa: D102
        return [self.sum(a.statistic, *a.args, shared=a.shared, genes=a.genes) for a in asks]

    def collect(self, fn, *args, shared=(), genes=None):  # noqa: D102
        index = np.arange(self.genes) if genes is None else np.asarray(genes)
        finished = Tally(self.tell, len(index))

        def one(block: tuple[Int[np.ndarray, "b"], int]) -> Any:
            at, count = block
            found = fn(*rows_of(args, at), *shared, self.take(index[at]))
            found = jax.tree.map(lambda a: np.asarray(a)[:count], found)
            finished.add(count)
            return found

        parts = each(one, blocks(len(index), self._fitting(args)))
        return jax.tree.map(lambda *a: np.concatenate(a), *parts)

    def map(self, fn, *args, shared=(), genes=None) -> "Pooled":  # noqa: D102
        rows = self._rows
        if genes is None:
            return Pooled(rows._replace(**self._by_rows(fn, *args, *shared)), self.tell)

        def one(block: tuple[Int[np.ndarray, "b"], int]) -> dict[str, Any]:
            at, count = block
            new = fn(*rows_of(args, at), *shared, self.take(genes[at]))
            n = rows.x.shape[0]
            found: dict[str, Any] = {name: np.asarray(a)[:n, :count] for name, a in new.items()}
            if "y" in found and self._sparse:
                found["y"] = sparse(found["y"])
            return found

        parts = each(one, blocks(len(genes), self._fitting(args)))
        new = {name: _beside([part[name] for part in parts]) for name in parts[0]}
        for name in ("y", "offset", "precision"):
            if name not in new:
                new[name] = self._cut(getattr(rows, name), genes)
        return Pooled(rows._replace(**new), self.tell)

    def _by_rows(self, fn, *args: Any) -> dict[str, np.ndarray]:
        """What a function makes of all genes, of a few rows at a time."""
        rows, n = self._rows, self._rows.x.shape[0]
        size = max(1, CHUNK // max(self.genes, 1))

        def one(first: int) -> dict[str, np.ndarray]:
            last = min(first + size, n)
            y = rows_of_table(rows.y, first, last)
            some = jax.tree.map(lambda a: a[first:last], rows._replace(y=None))
            return fn(*args, some._replace(y=y))

        parts = each(one, range(0, n, size))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _fitting(self, args: tuple[Any, ...]) -> int:
        """Genes in a block, fewer where much comes with each gene."""
        widest = max((a[:1].size for a in jax.tree.leaves(args)), default=1)
        return min(self.block, 2 ** int(np.log2(max(WIDEST // max(widest, 1), 1))))

    def _cut(self, a: Any, columns: Int[np.ndarray, "k"]) -> Any:
        if isinstance(a, Sparse):
            return sparse(a.columns(columns))
        return a[:, columns] if a.shape[1] == self.genes else a


def _beside(parts: list[Any]) -> Any:
    """Genes of several blocks, one after the other."""
    if isinstance(parts[0], Sparse):
        return beside(parts)
    return np.concatenate(parts, axis=1)


def each(fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``[fn(item) for item in items]``, on all cores: compiled functions run side by side."""
    items = list(items)
    return list(_threads().map(fn, items)) if len(items) > 1 else [fn(item) for item in items]


def meanwhile(fn: Callable[[], Any]) -> None:
    """Run something beside what comes next: compilation takes one core."""
    _threads().submit(fn)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), "expressway")


def blocks(count: int, size: int) -> Iterator[tuple[Int[np.ndarray, "b"], int]]:
    """Positions 0 … count−1 in blocks of one size; the last is filled up with its last position."""
    if not count:
        yield np.arange(0), 0
    for start in range(0, count, size):
        at = np.arange(start, start + size)
        yield np.minimum(at, count - 1), min(size, count - start)


def rows_of(tree: Any, at: slice | Int[np.ndarray, "b"]) -> Any:
    """Leading-axis rows of every leaf."""
    return jax.tree.map(lambda a: np.asarray(a)[at], tree)


@functools.cache
def compiled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """One compiled function per module-level function."""
    return Kernel(fn, own_name(fn))


def own_name(*parts: Any) -> str | None:
    """Name of functions and settings (tuples) together; None where one is not this package's."""
    names = []
    for part in parts:
        fn = type(part) if isinstance(part, tuple) else part
        if fn is not None and not fn.__module__.startswith("expressway."):
            return None
        names.append(repr(part) if fn is not part or fn is None else fn.__qualname__)
    return " ".join(names)


def _padded_size(n: int) -> int:
    """The next of few sizes: steps of 4, 8, 16 … so that at most a quarter is padding."""
    step = max(4, 2 ** (int(np.log2(max(n, 1))) - 3))
    return -(-n // step) * step


def _columns(genes: Int[np.ndarray, "k"], total: int) -> slice | Int[np.ndarray, "k"]:
    """A slice where the genes are neighbours (no copy is gathered), else the indices."""
    if not len(genes):
        return slice(0, 0)
    first, last = int(genes[0]), int(genes[-1])
    if last - first == len(genes) - 1 and last < total and np.all(np.diff(genes) == 1):
        return slice(first, last + 1)
    return genes
