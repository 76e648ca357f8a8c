"""The same model by sampling, from the variational optimum on: a check for small sets of genes."""

import numpy as np

from expressway import io
from expressway.models import dirichlet_sampler
from expressway.models.dirichlet import Prior
from expressway.models.dirichlet_sampler import Point, Sampled

from .result import Clusters

# A stick is not all or nothing, however sure the optimum is.
INSIDE = 1e-6


def sample(
    found: Clusters, *, sticks: int = 10, warmup: int = 500, draws: int = 1000, seed: int = 0
) -> Sampled:
    """Draws from the posterior of the same model, by NUTS from the variational optimum.

    Parameters
    ----------
    found
        A clustering with its counts and without covariates.
    sticks
        Components of each coordinate.
    warmup, draws, seed
        Of the sampler.

    Raises
    ------
    InputError
        It has covariates, or was read from a file and has no counts.
    """
    of = found.counts()
    if len(found.data.names) > found.data.shape + 1:
        msg = "the sampler is for curves without covariates; cluster without them"
        raise io.InputError(msg)
    settings = dirichlet_sampler.Settings(warmup, draws, seed=seed)
    return dirichlet_sampler.sample(
        of.y, of.z, of.offset, priors(found), start=point(found, sticks), settings=settings
    )


def priors(found: Clusters) -> list[Prior]:
    """Priors in numbers, one a coordinate."""
    center = found.found.mixtures.center
    return [
        own._replace(
            mean=float(block.base.mean[0] + middle),
            mean_sd=float(block.base.precision[0] ** -0.5),
            rate=float(block.base.rate[0]),
        )
        for own, block, middle in zip(
            found.priors, found.found.mixtures.blocks, center, strict=True
        )
    ]


def point(found: Clusters, sticks: int) -> Point:
    """The variational optimum: posterior means of everything, the largest components first."""
    mixtures = found.found.mixtures
    mu, s, v, c = [], [], [], []
    for block, middle in zip(mixtures.blocks, mixtures.center, strict=True):
        q, base = block.state.components, block.base
        size = block.state.totals.size
        order = np.argsort(-size, kind="stable")[:sticks]
        none = np.zeros(max(sticks - len(order), 0))
        mu.append(np.concatenate([q.mean[order, 0], none + base.mean[0]]) + middle)
        s.append(np.concatenate([q.precision[order, 0], none + base.shape[0] / base.rate[0]]))
        own = np.concatenate([size[order], none])
        left = np.sum(size) - np.cumsum(own)
        concentration = block.state.concentration
        stick = (1.0 + own) / (1.0 + own + concentration + np.maximum(left, 0.0))
        v.append(np.clip(stick[:-1], INSIDE, 1.0 - INSIDE))
        c.append(concentration)
    return Point(mixtures.mean, np.array(mu), np.array(s), np.array(v), np.array(c))
