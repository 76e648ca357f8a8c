"""K-means and Gaussian mixtures of one coordinate at a time, by scikit-learn.

They are given fitted coefficients and not how uncertain they are. scikit-learn is no dependency of
the package; where another Python has it (and JAX, AnnData and pandas), that one runs all::

    PYTHONPATH=src ../rival/bin/python benchmarks/clustering.py
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

MOST = 10


class Given(NamedTuple):
    """What a method may use of a coordinate."""

    values: np.ndarray
    """One a gene."""
    clusters: int
    """The true number."""
    starts: int
    seed: int


Method = Callable[[Given], np.ndarray]


def kmeans(given: Given) -> np.ndarray:
    """K-means with the true number."""
    return _kmeans(given, given.clusters)


def kmeans_bic(given: Given) -> np.ndarray:
    """K-means with the number, 1 to 10, of least BIC."""
    every = [_kmeans(given, k) for k in range(1, MOST + 1)]
    return min(every, key=lambda label: bic(given.values, label))


def bic(x: np.ndarray, label: np.ndarray) -> float:
    """BIC of normals with one variance, every gene in its own cluster.

    Pelleg & Moore 2000 (ICML, X-means), with k means, k - 1 shares and a variance.
    """
    size = np.bincount(label)
    size = size[size > 0]
    means = np.bincount(label, x)[label] / np.bincount(label)[label]
    variance = np.sum((x - means) ** 2) / (len(x) - len(size))
    fit = np.sum(size * np.log(size / len(x)))
    fit -= (len(x) * np.log(2 * np.pi * variance) + len(x) - len(size)) / 2
    return float(2 * len(size) * np.log(len(x)) - 2 * fit)


def gaussian(given: Given) -> np.ndarray:
    """Mixture of normals, each with its variance, with the true number."""
    return _gaussian(given, given.clusters)[1]


def gaussian_bic(given: Given) -> np.ndarray:
    """Mixture of normals with the number, 1 to 10, of least BIC."""
    every = [_gaussian(given, k) for k in range(1, MOST + 1)]
    return min(every, key=lambda found: found[0])[1]


def _kmeans(given: Given, k: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    model: Any = KMeans(k, n_init=given.starts, random_state=given.seed)
    return model.fit_predict(given.values[:, None])


def _gaussian(given: Given, k: int) -> tuple[float, np.ndarray]:
    """BIC and labels."""
    from sklearn.mixture import GaussianMixture

    x = given.values[:, None]
    model: Any = GaussianMixture(k, n_init=given.starts, random_state=given.seed, max_iter=500)
    with warnings.catch_warnings():
        # That the best start had not settled is no news here.
        warnings.simplefilter("ignore")
        label = model.fit_predict(x)
    return model.bic(x), label


METHODS: Mapping[str, Method] = {
    "kmeans": kmeans,
    "kmeans_bic": kmeans_bic,
    "gmm": gaussian,
    "gmm_bic": gaussian_bic,
}
