"""The optimum of the evidence lower bound of mixtures, to a certificate.

With each gene's ``q(x, z)`` at its best for given components (`mixture_response`) the bound is a
function of the components' parameters alone (`mixture_globals`); Newton's method takes it from
where coordinate ascent stopped to rounding.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from expressway._errors import InputError, SingularJacobian
from expressway._types import Float
from expressway.core import newton
from expressway.core.functions import Closed
from expressway.core.newton import Point

from . import mixture_globals
from .gene_mixtures import Mixtures, Sites
from .mixture_globals import Layout, layout
from .mixture_response import Curved, Natural, Rest, at_rest, curved, likelihoods

# Numbers of an array of a portion of the genes.
PART = 200_000
# Newton's steps from the end of coordinate ascent.
STEPS = 100


class Optimum(NamedTuple):
    """Mixtures at an optimum of the bound, to a certificate."""

    sites: Sites
    """Less the center."""
    blocks: tuple[tuple[int, ...], ...]
    layout: Layout
    found: newton.Found
    gain: float
    mean: Float[np.ndarray, "g c"]
    """Of genes' values, less the center."""
    naturals: tuple[Natural, ...]
    curved: Curved
    hessian: Float[np.ndarray, "t t"]
    """Of minus the bound."""
    jacobian: Float[np.ndarray, "m t"]
    """Of natural parameters."""


def optimum(mixtures: Mixtures, sites: Sites) -> Optimum:
    """The optimum of the bound nearest to where coordinate ascent stopped.

    Parameters
    ----------
    mixtures
        As `gene_mixtures.fit` found them.
    sites
        Likelihoods that they were found from.

    Raises
    ------
    InputError
        The blocks leave coordinates out.
    Saddle, SingularJacobian, Unfinished
        There is no optimum near: there are no derivatives.
    """
    blocks = tuple(block.coordinates for block in mixtures.blocks)
    width = sites.field.shape[1]
    if sorted(c for block in blocks for c in block) != list(range(width)):
        msg = f"blocks {blocks} of {width} coordinates; put each coordinate into one block"
        raise InputError(msg)
    moved = sites.shifted(mixtures.center)
    at = layout(mixtures.blocks)
    mean = mixtures.mean - mixtures.center  # goes along with the steps
    last: dict[bytes, Curved] = {}

    def genes(t: np.ndarray, natural: np.ndarray) -> Curved:
        key = t.tobytes()
        if key not in last:
            last.clear()
            last[key] = _genes(moved, blocks, at, natural, mean)
        return last[key]

    def value_gradient(t: np.ndarray) -> tuple[float, np.ndarray]:
        here = mixture_globals.first(t, at.fixed)
        seen = genes(t, here.natural)
        return here.divergence - seen.value, here.slope - seen.gradient @ here.jacobian

    def hessian(t: np.ndarray) -> np.ndarray:
        here = mixture_globals.first(t, at.fixed)
        seen = genes(t, here.natural)
        found = mixture_globals.second(t, seen.gradient, at.fixed)
        found = found - here.jacobian.T @ seen.hessian @ here.jacobian
        return 0.5 * (found + found.T)

    problem = Closed(value_gradient, hessian, at.theta)
    before = value_gradient(at.start)[0]
    found = newton.minimise(problem, Point(at.start, 0.0, 0, 0), STEPS, lambda _: None)
    if found.inverse is None:
        msg = (
            f"the bound does not determine {at.theta.labels(found.weakest)}: sizes of components "
            "have no derivatives; take a tighter prior"
        )
        raise SingularJacobian(msg)
    t = np.asarray(found.t)
    here = mixture_globals.first(t, at.fixed)
    return Optimum(
        sites=moved,
        blocks=blocks,
        layout=at,
        found=found,
        gain=before - value_gradient(t)[0],
        mean=mean,
        naturals=at.naturals(here.natural),
        curved=genes(t, here.natural),
        hessian=hessian(t),
        jacobian=here.jacobian,
    )


def portions(genes: int, width: int) -> Iterator[slice]:
    """Genes in portions of which arrays with so many columns stay small."""
    step = max(PART // width, 64)
    return (slice(first, min(first + step, genes)) for first in range(0, genes, step))


def rested(
    sites: Sites,
    blocks: tuple[tuple[int, ...], ...],
    naturals: tuple[Natural, ...],
    mean: Float[np.ndarray, "g c"],
    some: slice,
) -> Rest:
    """Some genes at their best."""
    seen = likelihoods(sites.field[some], sites.precision[some], blocks)
    return at_rest(naturals, blocks, seen, mean[some])


def _genes(
    sites: Sites,
    blocks: tuple[tuple[int, ...], ...],
    at: Layout,
    natural: Float[np.ndarray, "m"],
    mean: Float[np.ndarray, "g c"],
) -> Curved:
    """All genes' bound and its derivatives in natural parameters; their means are changed."""
    naturals, m = at.naturals(natural), len(natural)
    value, gradient, hessian = 0.0, np.zeros(m), np.zeros((m, m))
    for some in portions(len(mean), m):
        rest = rested(sites, blocks, naturals, mean, some)
        mean[some] = rest.mean
        part = curved(rest, blocks)
        value += part.value
        gradient += part.gradient
        hessian += part.hessian
    return Curved(value, gradient, hessian)
