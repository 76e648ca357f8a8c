"""What a clustering can be asked for."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from expressway import io
from expressway._types import Float, Int
from expressway.core.threads import one_each
from expressway.models.dirichlet import Prior
from expressway.models.expected_counts import Counts
from expressway.models.gene_clusters import Clustered
from expressway.models.gene_mixtures import Mixtures, Starts, covariance, fit, model

from . import steps, tables
from .sensitivity import Mixture, Moves, sensitivity
from .steps import Data, Settings

if TYPE_CHECKING:
    from expressway.models.dirichlet_sampler import Sampled


def blocks(data: Data) -> tuple[tuple[int, ...], ...]:
    """Every coordinate alone."""
    return tuple((i,) for i in range(len(data.names)))


def joined(
    data: Data,
    each: Clustered,
    priors: tuple[Prior, ...],
    settings: Settings,
    warm: Mixtures | None = None,
) -> Mixtures:
    """One mixture over the coefficients of curves, started from the labels of each of them too."""
    own = tuple(range(settings.modules == "shape", data.shape))
    alone = [i for i in range(len(data.names)) if i not in own]
    label = np.zeros(len(data.used), int)
    for i in own:
        best = np.argmax(each.mixtures.blocks[i].values.responsibility, axis=0)
        _, label = np.unique(label * (best.max() + 1) + best, return_inverse=True)
    return fit(
        each.sites,
        model(data.sites, (own, *((i,) for i in alone)), priors),
        Starts(max(settings.starts // 2, 1), settings.seed),
        warm=warm,
        labels=label.reshape(-1),
    )


@dataclass(frozen=True, eq=False)
class Clusters:
    """Genes clustered by the coefficients of their curves; immutable.

    Attributes
    ----------
    data, settings, priors
        What was clustered and how.
    found
        Mixtures of each coordinate.
    joint, stale
        Mixture over all coefficients (modules), and whether it is that of another prior, from which
        the one of this prior is found when it is first asked for (`together`).
    seconds
        Of each stage.
    doubts
        Warnings, a line each.
    """

    data: Data
    settings: Settings
    priors: tuple[Prior, ...]
    found: Clustered
    joint: Mixtures
    seconds: Mapping[str, Any]
    doubts: tuple[str, ...] = ()
    stale: bool = False

    @functools.cached_property
    def together(self) -> Mixtures:
        """Mixture over all coefficients: modules."""
        if not self.stale:
            return self.joint
        # With another truncation there are other optima; else those of nearby priors are near.
        same = self.joint.blocks[0].base.truncation == self.priors[0].truncation
        warm = self.joint if same else None
        return joined(self.data, self.found, self.priors, self.settings, warm=warm)

    def coefficients(self) -> pd.DataFrame:
        """One row a gene: status, posterior mean and standard deviation of each coordinate.

        In natural logarithms, of the orthonormal basis: a coefficient is the root mean square
        change that it makes. Standard deviations are those of the linear response, which see how
        coordinates depend on each other.
        """
        return tables.coefficients(self.data, self.found.mixtures.mean, self._covariance())

    def raw_coefficients(self) -> pd.DataFrame:
        """Coefficients of the basis as given: gene, mean and standard deviation of each."""
        k = self.data.shape
        raw = self.data.frame.raw
        mean = self.found.mixtures.mean[:, :k] @ raw.T
        spread = raw @ self._covariance()[:, :k, :k] @ raw.T
        return tables.coefficients(self.data, mean, spread, names=self.data.raw_names)

    def clusters(self) -> pd.DataFrame:
        """One row a gene and coordinate: label, its probability, and that of a zero coefficient.

        ``probability_zero`` is the posterior probability that a coefficient's size is at most
        ``settings.zero``; it is not given for the level and the dispersion, which have no zero.
        """
        return tables.labels(self.data, self.found, self.settings.zero)

    def modules(self) -> pd.DataFrame:
        """One row a gene: its module and the probability of that."""
        return tables.modules(self.data, self.together)

    def components(self) -> pd.DataFrame:
        """Weights, means and spreads of all components, with intervals."""
        return tables.components(
            self.data,
            self.found.sites,
            (self.found.mixtures, self.together),
            self.settings.level,
        )

    def curves(self, genes: Sequence[str] | None = None) -> pd.DataFrame:
        """Mean curves with intervals, in normalised counts, of modules and of genes.

        At size factor 1 and average covariates. The interval of a gene's curve has the probability
        ``settings.level``; within that of a module are as many of its genes' curves, levels apart.
        """
        places = np.arange(len(self.data.used)) if genes is None else self._places(genes)
        names = [self.data.genes[self.data.used[i]] for i in places]
        k, reach = self.data.shape, float(ndtri(0.5 + self.settings.level / 2))
        mean, spread = self.found.mixtures.mean[places, :k], self._covariance()[places, :k, :k]
        middle, width, labels = self._middles()
        parts = []
        for rows in self.data.curves:
            for kind, who, at, about in (
                ("module", labels, middle, width[:, :, None] * np.eye(k)),
                ("gene", names, mean, spread),
            ):
                eta = at @ rows.z.T
                sd = np.sqrt(np.einsum("mk,gkl,ml->gm", rows.z, about, rows.z, optimize=True))
                parts.append(tables.curves(kind, who, rows, eta, reach * sd))
        return pd.concat(parts, ignore_index=True)

    def _middles(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Mean and variance of coefficients within each module, and modules' names."""
        block = self.together.blocks[0]
        order = tables.ordered(block)
        r = block.values.responsibility[order]
        share = r / np.maximum(np.sum(r, axis=1, keepdims=True), 1e-12)
        k, own = self.data.shape, list(block.coordinates)
        middle = share @ self.together.mean[:, :k]
        about = (self.together.mean[None, :, :k] - middle[:, None]) ** 2
        width = np.einsum("jg,jgk->jk", share, about + self.together.variance[None, :, :k])
        q = block.state.components
        middle[:, own] = q.mean[order] + self.together.center[own]
        width[:, own] = q.variance[order] + 1.0 / q.precision[order]
        width[:, 0] = 0.0
        return middle, width, [str(j + 1) for j in range(len(order))]

    def elbo(self) -> pd.DataFrame:
        """Lower bounds along the way."""
        event, value, counted = zip(*self.found.bounds, strict=True)
        return pd.DataFrame(
            {"step": range(len(event)), "event": event, "elbo": value, "nb_elbo": counted}
        )

    def co_clustering(self, genes: Sequence[str] | None = None) -> pd.DataFrame:
        """Probability of each module, gene × module: products of rows are co-clustering."""
        places = np.arange(len(self.data.used)) if genes is None else self._places(genes)
        return tables.memberships(self.data, self.together, places)

    def predictive(self, draws: int = 50, most: int = 200, seed: int = 0) -> pd.DataFrame:
        """Posterior-predictive check of up to so many genes: zeros, and spread of log counts.

        Raises
        ------
        InputError
            The clustering was read from a file, which has no counts.
        """
        return tables.predictive(
            self.data,
            self.counts(),
            self.found.mixtures.mean,
            self._covariance(),
            self.settings,
            np.random.default_rng(seed),
            (draws, most),
        )

    def association(self) -> pd.DataFrame:
        """Likelihood-ratio test of whether each gene's mean changes along pseudotime.

        ``2 (l - l0)`` against a chi-squared distribution with as many degrees of freedom as curves
        have columns beside the level; l0 is the maximum with level and covariates only.

        Raises
        ------
        InputError
            As for `predictive`.
        """
        return tables.association(self.data, self.counts())

    @one_each()
    def again(
        self,
        prior: Prior | Mapping[str, Prior] | None = None,
        **changes: Any,
    ) -> "Clusters":
        """The clustering with another prior, from the same gene-wise fits and likelihoods.

        Parameters
        ----------
        prior
            One for all coordinates, or by coordinate's name (``default`` for the others).
        changes
            Fields of `Prior` to change in all priors as they are: ``truncation``,
            ``concentration_shape``, ``concentration_rate``, ``rate``, …

        Raises
        ------
        InputError
            A prior makes no sense.
        """
        given = self.priors
        if prior is not None:
            given = steps.priors(prior, self.data.names, self.data.shape)
        named = {
            name: own._replace(**changes) for name, own in zip(self.data.names, given, strict=True)
        }
        given = steps.priors(named, self.data.names, self.data.shape)
        old = self.found
        of = model(self.data.sites, blocks(self.data), given)
        mixtures = fit(old.sites, of, Starts(seed=self.settings.seed), warm=old.mixtures)
        told = tuple((kind, value, np.nan) for kind, value in mixtures.trace)
        each = old._replace(mixtures=mixtures, bounds=told)
        return replace(self, priors=given, found=each, stale=True)

    def numbers(self) -> dict[str, int]:
        """Clusters of each coordinate, and modules, with at least half a gene."""
        found = {
            name: len(tables.ordered(block))
            for name, block in zip(self.data.names, self.found.mixtures.blocks, strict=True)
        }
        return found | {"modules": len(tables.ordered(self.together.blocks[0]))}

    def full(self) -> list[str]:
        """Mixtures that use all the components they may have."""
        named = [
            *zip(self.data.names[: self.data.shape], self.found.mixtures.blocks, strict=False),
            (self.data.names[-1], self.found.mixtures.blocks[-1]),
            ("modules", self.together.blocks[0]),
        ]
        return [
            f"all {block.base.truncation} components of {name} are used; raise the truncation"
            for name, block in named
            if block.base.truncation > 1 and len(tables.ordered(block)) == block.base.truncation
        ]

    @property
    def refreshed(self) -> bool:
        """Whether likelihoods are those of the counts around this posterior."""
        return self.data.counts is not None and self.found.sites is not self.data.sites

    def sensitivity(self, mixture: Mixture = "coefficients") -> Moves:
        """Derivatives of sizes of clusters in the prior's numbers and in each sample's weight.

        By the implicit function theorem at the optimum of the bound; the components that have
        genes, and the Gaussian likelihoods, are held fixed.

        Raises
        ------
        InputError
            There is no optimum near, or no such mixture.
        """
        return sensitivity(self, mixture)

    def sample(
        self, *, sticks: int = 10, warmup: int = 500, draws: int = 1000, seed: int = 0
    ) -> "Sampled":
        """Draws from the posterior of the same model by NUTS, from this optimum on.

        For tens of genes: 40 genes × 200 samples take a minute. ``divergences``, ``r_hat``, ``ess``
        and ``seconds`` say how it went; ``draws.together(k)`` is the probability that two genes
        share a cluster of coordinate k.
        """
        from .draws import sample  # NumPyro takes seconds to import

        return sample(self, sticks=sticks, warmup=warmup, draws=draws, seed=seed)

    def save(self, path: str | Path) -> None:
        """Write everything but the counts into one file (npz), for `clustering.load`."""
        from .file import save  # it makes these of files

        save(self, path)

    def _covariance(self) -> Float[np.ndarray, "u c c"]:
        return covariance(self.found.sites, self.found.mixtures)

    def counts(self) -> Counts:
        """Counts of the genes that are clustered, with their design.

        Raises
        ------
        InputError
            The clustering was read from a file, which has no counts.
        """
        if self.data.counts is None:
            msg = "this clustering was read from a file, which has no counts; cluster again"
            raise io.InputError(msg)
        return self.data.counts

    def _places(self, genes: Sequence[str]) -> Int[np.ndarray, "_"]:
        have = {self.data.genes[i]: place for place, i in enumerate(self.data.used)}
        if missing := [name for name in genes if name not in have]:
            msg = f"no clustered gene is called {', '.join(missing[:5])}"
            raise io.InputError(msg)
        return np.array([have[name] for name in genes], int)
