"""What simulations share: their settings, the random draws of counts, arguments out of range."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from expressway._types import Bool, Float, Int


class Simulation(NamedTuple):
    """What simulated counts look like; the defaults resemble a bulk RNA-seq experiment."""

    base_mean: tuple[float, float] = (100.0, 2.0)
    """Median over genes of the mean of normalised counts, and sd of its natural logarithm."""
    effect_sd: float = 1.0
    """sd over the changed genes of the log2 fold change."""
    batch_sd: float = 0.5
    """sd over all genes of a batch's log2 fold change against the first batch."""
    dispersion: tuple[float, float] = (0.05, 2.0)
    """(a0, a1) of the trend a0 + a1 / base mean."""
    dispersion_sd: float = 0.5
    """sd about the trend of the natural logarithm of a gene's dispersion."""
    size_factor_sd: float = 0.2
    """sd over samples of the natural logarithm of the size factor."""
    outlier_factor: float = 100.0
    """What the count of an outlier is multiplied by."""


def check(*ranges: tuple[str, float | int, float | int, float | int]) -> None:
    """Refuse the first argument (name, value, lowest, highest) that is out of its range."""
    for name, value, low, high in ranges:
        if not low <= value <= high:
            message = f"{name} is {value}; it must lie between {low} and {high}."
            raise ValueError(message)


def names(stem: str, number: int) -> pd.Index:
    """A stem with the numbers from 1."""
    return pd.Index([f"{stem}_{i + 1}" for i in range(number)])


def choose(rng: np.random.Generator, genes: int, number: int) -> Bool[np.ndarray, "g"]:
    """Mask of a number of genes taken at random."""
    mask = np.zeros(genes, dtype=bool)
    mask[rng.choice(genes, number, replace=False)] = True
    return mask


def size_factors(
    rng: np.random.Generator, samples: int, settings: Simulation
) -> Float[np.ndarray, "n"]:
    """Size factors with a geometric mean of 1."""
    log_size = rng.normal(0, settings.size_factor_sd, samples)
    return np.exp(log_size - log_size.mean())


def lognormal(
    rng: np.random.Generator, genes: int, median: float, sd: float
) -> Float[np.ndarray, "g"]:
    """A number a gene; `sd` is that of its natural logarithm."""
    return median * np.exp(rng.normal(0, sd, genes))


def intercept(
    base_mean: Float[np.ndarray, "g"], change: Float[np.ndarray, "n g"]
) -> Float[np.ndarray, "g"]:
    """What, added to changes of the log mean, makes the mean over the samples the base mean."""
    return np.log(base_mean / np.exp(change).mean(axis=0))


def dispersions(
    rng: np.random.Generator, base_mean: Float[np.ndarray, "g"], settings: Simulation
) -> Float[np.ndarray, "g"]:
    """Dispersions about the trend."""
    a0, a1 = settings.dispersion
    return lognormal(rng, len(base_mean), 1.0, settings.dispersion_sd) * (a0 + a1 / base_mean)


def negative_binomial(
    rng: np.random.Generator, mean: Float[np.ndarray, "n g"], dispersion: Float[np.ndarray, "g"]
) -> Int[np.ndarray, "n g"]:
    """Counts of these means: a Poisson rate times a gamma of mean 1 and variance alpha."""
    return rng.poisson(mean * rng.gamma(1 / dispersion, dispersion, mean.shape))
