"""Totals for everybody: clipped, with noise, on a budget that each site keeps.

What a coordinator has of an analysis is a function of totals, and says something of every sample in
them. For a table that anybody may see there is this other question, answered once: how many samples
of all sites are in each combination of levels c, and what is the mean of their

    v_ig = log2(1 + 10^6 y_ig / sum_g y_ig)

for some genes g? Samples are divided by their own sum over all genes of their site, so that v_i
depends on no other sample. With the middle m of a range [low, high], its half h, and G genes, sites
add up in steps of 2^-10

    n_c = sum_{i in c} 1        T_cg = sum_{i in c} clip(v_ig - m, -h, h)

One sample more or less changes one n_c by 1, and one T_c by at most h sqrt(G) in Euclidean norm.
A share s of rho goes to n and the rest to T, each with noise by `run.privacy`: all that comes from
the sites together is rho-zCDP of adding or removing a sample, for the coordinator too. A person
with k samples has k^2 rho. Names of genes, columns and levels are not hidden.

The mean m + T / n has noise of variance ``h^2 (G / (1 - s) + e^2 / s) / (2 rho n^2)``, with e from
0 in the middle of the range to 1 at its ends. For e = 1 it is least with ``s = 1 / (1 + sqrt(G))``,
and then ``h^2 (1 + sqrt(G))^2 / (2 rho n^2)``.
"""

import itertools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway import _rows
from expressway._types import Float, Int
from expressway.core.sparse import Sparse, library_size
from expressway.io.agreement import Column, word
from expressway.run import ProtocolError
from expressway.run.privacy import LEAST, noise

# Steps of which everything is a whole number, to a unit.
_STEPS = 2**10
# Noise is made number by number: half a minute at each site.
_NUMBERS = 1_000_000


class Publication(NamedTuple):
    """What is asked for."""

    by: tuple[str, ...]
    """Columns of the sample tables; their combinations of levels are the groups."""
    genes: tuple[str, ...]
    rho: float
    """Of the budget of every site."""
    low: float = 0.0
    high: float = 16.0
    """Values of log2(1 + counts per million) beyond these count as these. A narrower range has
    less noise."""

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> "Publication":
        """One that came in a message, of the fields' names."""
        found = cls(**{**asked, "by": tuple(asked["by"]), "genes": tuple(asked["genes"])})
        found.check()
        return found

    def check(self) -> None:
        """Refuse what cannot be asked.

        Raises
        ------
        ProtocolError
            Says what.
        """
        twice = sorted({gene for gene in self.genes if self.genes.count(gene) > 1})
        if not self.by or len(set(self.by)) < len(self.by):
            message = f"--by names {', '.join(self.by) or 'no column'}; name different columns"
        elif not self.genes or twice:
            message = f"the list of genes has {f'{twice[0]} twice' if twice else 'none'}"
        elif not 0 < self.rho <= 100:
            message = f"rho is {self.rho:g}; needed is more than 0, and useful at most 100"
        elif not (math.isfinite(self.high - self.low) and self.high - self.low >= 2 / _STEPS):
            message = f"the range from {self.low:g} to {self.high:g} is none; give LOW HIGH"
        else:
            return
        raise ProtocolError(message)

    @property
    def middle(self) -> float:
        """Of the range."""
        return (self.low + self.high) / 2

    @property
    def share(self) -> Fraction:
        """Of rho, for numbers of samples."""
        return 1 / (1 + Fraction(math.sqrt(len(self.genes))))

    @property
    def half(self) -> int:
        """Of the range, in steps."""
        return math.ceil((self.high - self.low) / 2 * _STEPS)


class Variances(NamedTuple):
    """Of noise, in squared steps."""

    samples: int
    totals: int

    @property
    def units(self) -> tuple[float, float]:
        """Standard deviations, of a number of samples and of a total."""
        return math.sqrt(self.samples) / _STEPS, math.sqrt(self.totals) / _STEPS


def variances(of: Publication, sites: int = 2) -> Variances:
    """Noise of each of so many sites; of two each adds what must remain when one knows its own."""
    rho = Fraction(of.rho)
    totals = Fraction(of.half**2 * len(of.genes)) / (2 * rho * (1 - of.share))
    samples = Fraction(_STEPS**2) / (2 * rho * of.share)
    each = [max(LEAST, math.ceil(whole / (sites - 1))) for whole in (samples, totals)]
    return Variances(*each)


def groups(columns: Mapping[str, Column]) -> list[tuple[str, ...]]:
    """Every combination of levels, whether or not there is a sample in it."""
    return list(itertools.product(*(column.levels for column in columns.values())))


class Totals(NamedTuple):
    """Of a site, or of all."""

    samples: Any
    totals: Any


def at_site(
    adata: anndata.AnnData, owner: str, columns: Mapping[str, Column], of: Publication
) -> Totals:
    """Numbers of a site's samples, and totals in whole steps, without noise.

    Parameters
    ----------
    owner
        What messages call the table.
    columns
        As all sites have them.
    """
    places = pd.Index(adata.var_names).get_indexer(pd.Index(of.genes))
    if (places < 0).any():
        message = f"it lacks gene {of.genes[int(np.flatnonzero(places < 0)[0])]}"
        raise ProtocolError(message)
    every = groups(columns)
    if len(every) * len(of.genes) > _NUMBERS:
        message = (
            f"{len(every)} groups of {len(of.genes)} genes are more than {_NUMBERS:,} numbers; "
            "name fewer"
        )
        raise ProtocolError(message)
    words = [[word(value) for value in adata.obs[name]] for name in columns]
    number = {levels: k for k, levels in enumerate(every)}
    group = np.array([number[levels] for levels in zip(*words, strict=True)], int)
    v = _values(_rows.counts(adata, None, owner), places)
    steps = np.clip(np.rint((v - of.middle) * _STEPS), -of.half, of.half)
    totals = np.zeros((len(every), len(of.genes)), np.int64)
    np.add.at(totals, group, steps.astype(np.int64))
    return Totals(np.bincount(group, minlength=len(every)), totals)


def _values(y: Any, places: Int[np.ndarray, "g"]) -> Float[np.ndarray, "n g"]:
    """log2(1 + counts per million) of some genes."""
    library = library_size(y)
    own = y.columns(places) if isinstance(y, Sparse) else np.asarray(y, float)[:, places]
    return np.log2(1.0 + 1e6 * own / np.maximum(library, 1.0)[:, None])


def hidden(own: Totals, of: Publication, sites: int) -> dict[str, Float[np.ndarray, "..."]]:
    """A site's totals with its noise, in units."""
    each = variances(of, sites)
    return {
        "samples": own.samples + noise(np.shape(own.samples), each.samples) / _STEPS,
        "totals": (own.totals + noise(np.shape(own.totals), each.totals)) / _STEPS,
    }
