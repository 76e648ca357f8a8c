"""Counts that are not a NumPy array: sparse, by gene, in memory or in a file.

What the fit asks of counts is blocks of genes, dense; of those only a few are there at a time.
"""

from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from expressway._types import Array, Float, Int

# Elements of what is made dense at once of all genes, eight bytes each.
CHUNK = 2**22
# Genes whose stored counts are looked through at once for those of some samples.
_TOGETHER = 256


class Stored(Protocol):
    """A sequence of numbers of which a slice is an array: an array, or a file of numbers."""

    def __getitem__(self, at: slice, /) -> np.ndarray: ...


class Sparse(NamedTuple):
    """Counts by gene (compressed sparse columns): zeros are not stored."""

    data: Stored
    """Counts of the first gene, then of the second, …"""
    indices: Stored
    """Their samples."""
    starts: Int[np.ndarray, "g+1"]
    """Where each gene's begin; and their number."""
    samples: int

    @property
    def shape(self) -> tuple[int, int]:
        """Samples, genes."""
        return self.samples, len(self.starts) - 1

    def columns(
        self, genes: Int[np.ndarray, "k"], height: int | None = None
    ) -> Float[np.ndarray, "n k"]:
        """Counts of some genes; rows of zeros below them up to a height."""
        found = np.zeros((height or self.samples, len(genes)))
        begin, end = self.starts[genes], self.starts[genes + 1]
        # Neighbours are read together.
        cuts = np.flatnonzero(begin[1:] != end[:-1]) + 1
        edges = [0, *cuts.tolist(), len(genes)] if len(genes) else [0]
        for first, last in pairwise(edges):
            at = slice(int(begin[first]), int(end[last - 1]))
            column = np.repeat(np.arange(first, last), (end - begin)[first:last])
            found[self.indices[at], column] = self.data[at]
        return found

    def rows(self, first: int, last: int) -> Float[np.ndarray, "m g"]:
        """Counts of samples first … last - 1."""
        found = np.zeros((last - first, self.shape[1]))
        for gene in range(0, self.shape[1], _TOGETHER):
            starts = self.starts[gene : gene + _TOGETHER + 1]
            at = slice(int(starts[0]), int(starts[-1]))
            sample = self.indices[at]
            inside = (sample >= first) & (sample < last)
            column = np.repeat(gene + np.arange(len(starts) - 1), np.diff(starts))[inside]
            found[sample[inside] - first, column] = self.data[at][inside]
        return found


def sparse(dense: Array) -> Sparse:
    """The counts of an array that are not 0."""
    by_gene = np.asarray(dense).T
    gene, sample = np.nonzero(by_gene)
    starts = np.concatenate([[0], np.cumsum(np.bincount(gene, minlength=len(by_gene)))])
    return Sparse(by_gene[gene, sample], sample.astype(np.int32), starts, by_gene.shape[1])


def beside(parts: list[Sparse]) -> Sparse:
    """Genes of several, one after the other."""
    ends = np.cumsum([0, *(part.starts[-1] for part in parts)])
    starts = [part.starts[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
    return Sparse(
        np.concatenate([part.data[:] for part in parts]),
        np.concatenate([part.indices[:] for part in parts]),
        np.concatenate([*starts, ends[-1:]]),
        parts[0].samples,
    )


def library_size(y: Any) -> Float[np.ndarray, "n"]:
    """Counts of each sample, summed over genes."""
    if not isinstance(y, Sparse):
        return np.asarray(y).sum(axis=1, dtype=float)
    found = np.zeros(y.samples)
    for gene in range(0, y.shape[1], _TOGETHER):
        starts = y.starts[gene : gene + _TOGETHER + 1]
        at = slice(int(starts[0]), int(starts[-1]))
        found += np.bincount(y.indices[at], y.data[at], y.samples)
    return found


def rows_of_table(y: Any, first: int, last: int) -> Array:
    """Counts of some neighbouring samples."""
    return y.rows(first, last) if isinstance(y, Sparse) else y[first:last]
