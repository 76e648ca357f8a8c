"""How sizes of components, and who shares one, move with the prior and with each sample.

The evidence lower bound of the Gaussian likelihoods, with each gene's ``q(x, z)`` at its best for
given components (`mixture_response`), is a function of the components' parameters t alone
(`mixture_globals`). It is solved to a certificate from where coordinate ascent stopped, and
differentiated there by the implicit function theorem: a quantity ``Q(t, genes)`` moves with prior
or data by its own derivative and by ``(dQ/dt) H⁻¹ (d gradient)``, H the Hessian of minus the bound.
A size is the bound's derivative in a component's constant, and any other quantity of
responsibilities answers like a push of constants, gene by gene; so one solve with H for each
quantity gives a push of natural parameters whose answer by a gene's moments is the quantity's
derivative in that gene's data (the chain rule in reverse).

Held fixed: which components have genes (their number), the truncation, where the likelihood of the
counts is expanded (the Gaussian likelihoods move with weights as sums over samples do, around the
posterior that there is: where they were refreshed too, with 300 genes and 200 samples, sizes moved
otherwise by 3 to 26 % of the largest move), size factors, design, prior numbers taken from data.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg

from expressway._errors import InputError
from expressway._types import Float
from expressway.core.newton import Certificate
from expressway.core.threads import one_each

from . import mixture_globals
from .cluster_optimum import Optimum, optimum, portions, rested
from .expected_counts import Counts
from .gene_clusters import FLAT
from .gene_mixtures import Mixtures, Sites
from .mixture_globals import PRIOR
from .mixture_response import Rest, pushed, slopes, tilted
from .sample_scores import derivatives, terms


class Quantity(NamedTuple):
    """What is differentiated."""

    kind: str
    """"genes": expected number of genes of a component; "pairs": of pairs of genes that share one;
    "together": probability that two genes do."""
    block: int
    which: tuple[int, ...]
    """The component's place, nothing, or the two genes."""


class Sensitivity(NamedTuple):
    """Derivatives of quantities of mixtures at an optimum of the bound."""

    quantities: tuple[Quantity, ...]
    value: Float[np.ndarray, "o"]
    """At the optimum."""
    prior_numbers: tuple[tuple[int, str], ...]
    """Block and name (`mixture_globals.PRIOR`); those of a block's coordinates move together."""
    prior: Float[np.ndarray, "o h"]
    """Derivatives in the natural logarithm of each."""
    weight: Float[np.ndarray, "o _"]
    """Derivatives in each sample's weight, at 1; without columns where no counts were given."""
    certificate: Certificate
    gain: float
    """Nats from the end of coordinate ascent to the optimum."""


class Move(NamedTuple):
    """Derivatives of quantities in the data of some genes.

    In the field ``mean``; in the precision ``-(spread + m mean' + mean m') / 2``, m the mean.
    """

    genes: slice
    rest: Rest
    mean: Float[np.ndarray, "o g c"]
    spread: dict[tuple[int, int], Float[np.ndarray, "o g"]]
    """Entries of the upper half within blocks; the others are 0."""


def quantities(of: Optimum, together: tuple[tuple[int, int], ...] = ()) -> tuple[Quantity, ...]:
    """Sizes and pairs of every block, and chosen pairs of genes."""
    found = [
        Quantity("genes", b, (int(j),)) for b, places in enumerate(of.layout.active) for j in places
    ]
    found += [Quantity("pairs", b, ()) for b in range(len(of.blocks))]
    found += [Quantity("together", b, pair) for b in range(len(of.blocks)) for pair in together]
    return tuple(found)


class _Told(NamedTuple):
    """Quantities, and their derivatives in natural parameters with genes at their best."""

    value: Float[np.ndarray, "o"]
    slope: Float[np.ndarray, "o m"]
    share: dict[int, list[np.ndarray]]
    """Responsibilities of the genes of chosen pairs, by block."""


def _told(of: Optimum, asked: tuple[Quantity, ...]) -> _Told:
    """By one pass over the genes."""
    value, slope = np.zeros(len(asked)), np.zeros((len(asked), len(of.curved.gradient)))
    share = _shares(of, asked)
    for o, quantity in enumerate(asked):
        if quantity.kind == "genes":
            at = _place(of, quantity)
            value[o], slope[o] = of.curved.gradient[at], of.curved.hessian[at]
        elif quantity.kind == "together":
            one, other = (share[gene][quantity.block] for gene in quantity.which)
            value[o] = one @ other
    rest_of = [o for o, quantity in enumerate(asked) if quantity.kind != "genes"]
    for some in portions(len(of.mean), slope.shape[1]):
        rest = rested(of.sites, of.blocks, of.naturals, of.mean, some)
        for o in rest_of:
            push = _own(of, asked[o], rest, some, share)
            if asked[o].kind == "pairs":
                r = rest.blocks[asked[o].block].share
                value[o] += 0.5 * np.sum(r * push)
            slope[o] += pushed(rest, of.blocks, asked[o].block, push)
    return _Told(value, slope, share)


def _place(of: Optimum, quantity: Quantity) -> int:
    """Of a component's constant among natural parameters."""
    j = of.layout.active[quantity.block].tolist().index(quantity.which[0])
    return int(of.layout.constants()[quantity.block][j])


def _shares(of: Optimum, asked: tuple[Quantity, ...]) -> dict[int, list[np.ndarray]]:
    """Responsibilities of the genes of chosen pairs, by block."""
    genes = sorted({gene for each in asked if each.kind == "together" for gene in each.which})
    found = {}
    for gene in genes:
        rest = rested(of.sites, of.blocks, of.naturals, of.mean, slice(gene, gene + 1))
        found[gene] = [part.share[0] for part in rest.blocks]
    return found


def _own(
    of: Optimum,
    quantity: Quantity,
    rest: Rest,
    some: slice,
    share: dict[int, list[np.ndarray]],
) -> Float[np.ndarray, "_ a"]:
    """Derivatives of pairs in responsibilities: what their push of constants is."""
    block = quantity.block
    r = rest.blocks[block].share
    if quantity.kind == "pairs":
        return of.curved.gradient[of.layout.constants()[block]] - r
    push = np.zeros_like(r)
    for gene, other in (quantity.which, quantity.which[::-1]):
        if some.start <= gene < some.stop:
            push[gene - some.start] += share[other][block]
    return push


def moves(of: Optimum, asked: tuple[Quantity, ...]) -> Iterator[Move]:
    """Derivatives of quantities in the field and precision of genes, by portions of them."""
    return _moves(of, asked, _told(of, asked))


def _moves(of: Optimum, asked: tuple[Quantity, ...], told: _Told) -> Iterator[Move]:
    through = of.jacobian @ scipy.linalg.solve(
        of.hessian, of.jacobian.T @ told.slope.T, assume_a="pos"
    )
    # What is the same for all genes; a size is its component's constant.
    common = through.T.copy()
    rest_of = []
    for o, quantity in enumerate(asked):
        if quantity.kind == "genes":
            common[o, _place(of, quantity)] += 1.0
        else:
            rest_of.append(o)
    width = [n.constant.size + 2 * n.linear.size for n in of.naturals]
    parts = np.split(common, np.cumsum(width)[:-1], axis=1)
    for some in portions(len(of.mean), common.shape[1]):
        rest = rested(of.sites, of.blocks, of.naturals, of.mean, some)
        pushes = {o: _own(of, asked[o], rest, some, told.share) for o in rest_of}
        first = np.empty((len(asked), *rest.mean.shape))
        each, own = [], {}
        for number, (part, block) in enumerate(zip(rest.blocks, of.blocks, strict=True)):
            each.append(slopes(part))
            first[:, :, list(block)] = np.moveaxis(each[-1].mean @ parts[number].T, 2, 0)
            for o in (o for o in rest_of if asked[o].block == number):
                own[o] = tilted(part, pushes[o])
                first[o][:, list(block)] += own[o].mean
        field = np.einsum("gab,ogb->oga", rest.answer, first, optimize=True)
        spread, mean = {}, first
        for number, (part, block) in enumerate(zip(rest.blocks, of.blocks, strict=True)):
            places = list(block)
            mean[:, :, places] += np.einsum("gij,ogj->ogi", part.spread, field[:, :, places])
            moved = np.moveaxis(each[number].spread @ parts[number].T, 2, 0)
            moved = moved + np.einsum(
                "ghi,ogi->ogh", each[number].spread_field, field[:, :, places]
            )
            for o in (o for o in rest_of if asked[o].block == number):
                moved[o] += own[o].spread
            for h, (i, j) in enumerate(zip(*np.triu_indices(len(block)), strict=True)):
                a, b = sorted((block[i], block[j]))
                spread[a, b] = moved[:, :, h]
        yield Move(some, rest, mean, spread)


def in_prior(of: Optimum, slope: Float[np.ndarray, "o m"]) -> Float[np.ndarray, "o h"]:
    """Derivatives in the logarithms of prior numbers.

    Parameters
    ----------
    of
        The optimum.
    slope
        The quantities' derivatives in natural parameters.
    """
    cross = mixture_globals.cross(np.asarray(of.found.t), of.layout.fixed)
    moved = -scipy.linalg.solve(of.hessian, cross.reshape(len(cross), -1), assume_a="pos")
    both = (slope @ of.jacobian @ moved).reshape(len(slope), len(PRIOR), len(of.blocks))
    return both.transpose(0, 2, 1).reshape(len(slope), -1)


@one_each()
def sensitivity(
    mixtures: Mixtures,
    sites: Sites,
    *,
    counts: Counts | None = None,
    together: tuple[tuple[int, int], ...] = (),
) -> Sensitivity:
    """Derivatives of component sizes and co-clustering in the prior and in samples' weights.

    Parameters
    ----------
    mixtures
        As `gene_mixtures.fit` found them.
    sites
        Likelihoods that they were found from; for derivatives in weights those of the last refresh.
    counts
        Of the samples; without them there are no derivatives in weights.
    together
        Pairs of genes of which it is asked whether they share a component.

    Raises
    ------
    InputError
        Blocks leave coordinates out, or counts are of other genes or coordinates.
    Saddle, SingularJacobian, Unfinished
        There is no optimum near: there are no derivatives.

    Notes
    -----
    A quantity less its derivative in a sample's weight is the prediction without the sample. That
    is good where few genes are between components; a size that would change by many genes says
    that the sample decides, not by how much.
    """
    g, c = sites.field.shape
    if counts is not None and (len(counts.y), counts.z.shape[1] + 1) != (g, c):
        msg = (
            f"counts of {len(counts.y)} genes with {counts.z.shape[1]} coefficients, likelihoods "
            f"of {g} genes with {c} coordinates; needed are the same genes, and the coefficients "
            "and log dispersion of each"
        )
        raise InputError(msg)
    of = optimum(mixtures, sites)
    asked = quantities(of, together)
    told = _told(of, asked)
    weight = np.zeros((len(asked), 0))
    if counts is not None:
        weight = np.zeros((len(asked), len(counts.z)))
        free = sites.precision[:, -1, -1] > FLAT
        for move in _moves(of, asked, told):
            mean = move.rest.mean + mixtures.center
            at = terms(counts, move.genes, mean, _variance(of, move.rest))
            weight += derivatives(at, counts.z, free[move.genes], move.mean, move.spread)
    return Sensitivity(
        quantities=asked,
        value=told.value,
        prior_numbers=tuple((b, name) for b in range(len(of.blocks)) for name in PRIOR),
        prior=in_prior(of, told.slope),
        weight=weight,
        certificate=of.found.certificate,
        gain=of.gain,
    )


def _variance(of: Optimum, rest: Rest) -> Float[np.ndarray, "g c"]:
    found = np.empty_like(rest.mean)
    for part, block in zip(rest.blocks, of.blocks, strict=True):
        found[:, list(block)] = np.einsum("gii->gi", part.spread)
    return found
