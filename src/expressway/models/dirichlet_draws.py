"""Draws from mixtures of coefficients, and the clusters of genes that they tell of.

Axes beside the usual: ``s`` draws, ``P`` coordinates (coefficients, log dispersion), ``J``
components of each coordinate's mixture.
"""

from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import average, fcluster
from scipy.spatial.distance import squareform
from scipy.special import logsumexp

from expressway._types import Float, Int

# Clusters whose genes share a component in less than half of the draws, on average, stay apart.
HALF = 0.5


class Draws(NamedTuple):
    """From a posterior; components are in no order, and labels of one draw not those of the next.

    What depends on labels should be asked of `together` and `labels`.
    """

    eta: Float[np.ndarray, "s g P"]
    mean: Float[np.ndarray, "s P J"]
    sd: Float[np.ndarray, "s P J"]
    weight: Float[np.ndarray, "s P J"]

    def responsibility(self, coordinate: int) -> Float[np.ndarray, "s g J"]:
        """Probability of each component, given the draw: ``pi_j N(eta_g; mu_j, sd_j²)``, scaled."""
        mean, sd, weight = (a[:, None, coordinate] for a in (self.mean, self.sd, self.weight))
        off = (self.eta[:, :, coordinate, None] - mean) / sd
        # The last sticks of a long stick may have weight 0: its logarithm stays finite.
        score = np.log(np.maximum(weight, np.finfo(float).tiny)) - np.log(sd) - 0.5 * off**2
        return np.exp(score - logsumexp(score, axis=-1, keepdims=True))

    def label(self) -> Float[np.ndarray, "g P J"]:
        """Probability of each component, averaged over draws.

        Of use where components keep their labels, as they do in a chain that never exchanges them.
        """
        coordinates = range(self.eta.shape[2])
        return np.stack([self.responsibility(k).mean(axis=0) for k in coordinates], axis=1)

    def together(self, coordinate: int) -> Float[np.ndarray, "g g"]:
        """Probability that two genes share a component: ``mean_s Σ_j r_sgj r_shj``; 1 with itself.

        It does not depend on labels.
        """
        r = self.responsibility(coordinate)
        found = np.mean(r @ r.transpose(0, 2, 1), axis=0)
        np.fill_diagonal(found, 1.0)
        return found

    def labels(self, coordinate: int) -> Int[np.ndarray, "g"]:
        """Clusters of genes, from 1 by decreasing size.

        By average linkage of ``1 - together``, cut at 1/2 (Medvedovic & Sivaganesan 2002,
        Bioinformatics 18:1194, who cut elsewhere).
        """
        apart = squareform(np.clip(1.0 - self.together(coordinate), 0.0, 1.0), checks=False)
        _, label, size = np.unique(
            fcluster(average(apart), HALF, "distance"), return_inverse=True, return_counts=True
        )
        rank = np.empty(len(size), int)
        rank[np.argsort(-size, kind="stable")] = np.arange(1, len(size) + 1)
        return rank[label]
