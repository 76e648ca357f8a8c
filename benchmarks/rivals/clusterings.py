"""Other ways to cluster the curves of genes, all by scikit-learn, which must be installed.

Each is given the true number of clusters, and where it uses fitted curves the true df. None knows
how uncertain a gene's curve is. moanin and DP_GP_cluster themselves are not run: "k-means of scaled
fits" follows moanin's description (fitted values of each gene scaled to [0, 1], then k-means++),
"Dirichlet process" is a process mixture of Gaussians, not of Gaussian processes.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Given(NamedTuple):
    """What a method may use of each gene."""

    means: np.ndarray
    """Genes x times: means of the replicates."""
    coordinates: np.ndarray
    """Genes x d: of the centred fitted curve, in an orthonormal basis at the samples."""
    fitted: np.ndarray
    """Genes x times: the centred fitted curve itself."""


Method = Callable[[Given, int, int, int], np.ndarray]


def kmeans_fits(given: Given, k: int, starts: int, seed: int) -> np.ndarray:
    """K-means of fitted values; of coordinates, whose distances are those of fitted samples."""
    return _kmeans(given.coordinates, k, starts, seed)


def kmeans_scaled_fits(given: Given, k: int, starts: int, seed: int) -> np.ndarray:
    """K-means of fitted values, each gene's scaled to [0, 1]."""
    low = np.min(given.fitted, axis=1, keepdims=True)
    return _kmeans((given.fitted - low) / np.ptp(given.fitted, axis=1)[:, None], k, starts, seed)


def kmeans_standardised(given: Given, k: int, starts: int, seed: int) -> np.ndarray:
    """K-means of means at the times, each gene's standardised."""
    return _kmeans(standardised(given.means), k, starts, seed)


def kmeans_means(given: Given, k: int, starts: int, seed: int) -> np.ndarray:
    """K-means of centred means at the times: no curve is fitted."""
    return _kmeans(given.means - np.mean(given.means, axis=1, keepdims=True), k, starts, seed)


def gaussian(kind: str) -> Method:
    """Mixture of Gaussians of the coordinates, with covariances of a kind that it estimates."""

    def method(given: Given, k: int, starts: int, seed: int) -> np.ndarray:
        model = _mixture().GaussianMixture(
            k, covariance_type=kind, n_init=starts, random_state=seed, max_iter=500
        )
        return _quiet(model, given.coordinates)

    return method


def dirichlet(given: Given, k: int, starts: int, seed: int) -> np.ndarray:
    """Dirichlet-process mixture of Gaussians of standardised means, up to twice the clusters."""
    model = _mixture().BayesianGaussianMixture(
        n_components=2 * k,
        covariance_type="diag",
        n_init=max(1, starts // 4),  # twice the components, slow to settle
        random_state=seed,
        max_iter=500,
    )
    return _quiet(model, standardised(given.means))


def standardised(x: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and sd 1."""
    away = x - np.mean(x, axis=1, keepdims=True)
    return away / np.std(x, axis=1, keepdims=True)


METHODS: Mapping[str, Method] = {
    "kmeans_fits": kmeans_fits,
    "kmeans_scaled": kmeans_scaled_fits,
    "kmeans_standardised": kmeans_standardised,
    "kmeans_means": kmeans_means,
    "gmm_full": gaussian("full"),
    "gmm_tied": gaussian("tied"),
    "gmm_diag": gaussian("diag"),
    "gmm_spherical": gaussian("spherical"),
    "dirichlet": dirichlet,
}


def _kmeans(x: np.ndarray, k: int, starts: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=starts, random_state=seed).fit_predict(x)


def _mixture() -> Any:
    from sklearn import mixture

    return mixture


def _quiet(model: Any, x: np.ndarray) -> np.ndarray:
    """Labels; that the best start had not settled is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit_predict(x)


def installed() -> str | None:
    """Version of scikit-learn; None where it is not installed."""
    try:
        import sklearn
    except ImportError:
        return None
    return sklearn.__version__
