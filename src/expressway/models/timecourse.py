"""Time courses: curves of every gene, clusters of the curves, and what leaving samples out does.

Two stages. The first gives each gene's centred curve and its precision at given weights of the
samples (`curves`, `count_curves`); the second clusters them (`mixture`). With G the gradient of the
second stage's objective, ``G(theta, stage(w)) = 0`` defines theta(w), and

    theta(w) ≈ theta - H⁻¹ J (w - 1),   H = dG/dtheta,  J = dG/dw through the first stage

(the infinitesimal jackknife; Giordano et al. 2019, AISTATS). The Hessian of both stages together,
which has a row for every coefficient of every gene, is never needed: J is a column a sample.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import scipy.linalg

from expressway._errors import Saddle, Unfinished
from expressway._types import Float, Int
from expressway.core import newton
from expressway.core.functions import Closed
from expressway.core.newton import Point
from expressway.core.threads import side_by_side

from . import clusters
from .clusters import Clusters
from .curves import Frame, Posterior
from .mixture import (
    RIDGE,
    Change,
    Observed,
    Terms,
    closed,
    hessian,
    members,
    moved,
    of_vector,
    terms,
)

# A prediction is trusted where the design keeps this much information in every direction, the
# objective curves upwards there, and its correction changes the error by less than this share;
LEFT = 0.01
AGREE = 0.1
# where it is not corrected, Newton's next step must be no longer than the way to the prediction.
RATIO = 1.0
# Newton's steps of the correction.
CORRECTIONS = 3
STEPS = 300
# Numbers in one part of arrays with an entry for each gene, sample and pair of coordinates.
PART = 2**23


@runtime_checkable
class Stage(Protocol):
    """The first stage: curves of genes as a function of the weights of samples."""

    @property
    def frame(self) -> Frame:
        """Coordinates of the curves."""
        ...

    def some(self, genes: slice | np.ndarray) -> "Stage":
        """Some of the genes."""
        ...

    def observed(self, weight: Float[np.ndarray, "n"]) -> Observed:
        """Estimates and precisions at given weights."""
        ...

    def posterior(self) -> Posterior:
        """What is known of level and coordinates, given all samples."""
        ...

    def changes(self) -> Iterator[Change]:
        """Their derivative in the weight of each sample, at weights of 1."""
        ...

    def conditioning(self, weight: Float[np.ndarray, "n"]) -> float:
        """Share of the information that is left in the direction that loses most."""
        ...

    def errors(
        self,
        rows: Int[np.ndarray, "_"],
        weight: Float[np.ndarray, "n"],
        curve: Float[np.ndarray, "g n"],
        centre: str,
    ) -> Float[np.ndarray, "g _"]:
        """Errors at some samples, given centred curves and the weights that levels are from."""
        ...


class TimeCourse(NamedTuple):
    """Clusters of curves, and how they move with the weight of each sample."""

    clusters: Clusters
    sensitivity: Float[np.ndarray, "m n"]
    """Derivative of the free parameters (`Mixture.vector`) in the samples' weights."""

    def at(self, weight: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m"]:
        """Free parameters that the derivative predicts at other weights."""
        return self.clusters.mixture.vector() + self.sensitivity @ (weight - 1.0)


def fit(stage: Stage, k: int, starts: int = 20, seed: int = 0, ridge: float = RIDGE) -> TimeCourse:
    """Clusters of all genes, and their derivative in the samples' weights.

    Parameters
    ----------
    stage
        Curves of the genes.
    k
        Number of clusters.
    starts, seed, ridge
        As for `clusters.fit`.

    Raises
    ------
    ValueError
        As for `clusters.fit`.
    """
    t = terms(stage.observed(np.ones(len(stage.frame.u))))
    return differentiated(stage, clusters.fit(t, k, starts, seed, ridge), t, ridge)


def differentiated(
    stage: Stage, found: Clusters, t: Terms | None = None, ridge: float = RIDGE
) -> TimeCourse:
    """Clusters with their derivative ``-H⁻¹ J`` in the samples' weights."""
    if t is None:
        t = terms(stage.observed(np.ones(len(stage.frame.u))))
    theta = found.mixture.vector()
    factor = scipy.linalg.cho_factor(hessian(theta, t, ridge))
    n, d = stage.frame.u.shape
    g = len(t.pull)
    size = max(1, PART // (n * d * d))

    def share(first: int) -> np.ndarray:
        genes = slice(first, min(first + size, g))
        part = stage.some(genes)
        return moved(theta, t.some(genes), part.changes()) * (len(t.pull[genes]) / g)

    column = sum(side_by_side(share, range(0, g, size)))
    return TimeCourse(found, -scipy.linalg.cho_solve(factor, column))


class Fold(NamedTuple):
    """Samples that are left out together."""

    name: str
    rows: Int[np.ndarray, "_"]

    def weight(self, n: int) -> Float[np.ndarray, "n"]:
        """Weights of the samples: 0 where they are left out."""
        found = np.ones(n)
        found[self.rows] = 0.0
        return found


class Settings(NamedTuple):
    """Choices of cross-validation."""

    error: str = "squared"
    """Of a value: ``"squared"`` or ``"absolute"``."""
    corrected: bool = True
    """Also correct the prediction by Newton's steps."""
    exact: bool = True
    """Also refit."""
    leak: bool = False
    """Classify genes by curves of all samples, and centre them on the mean of all values, those
    left out too: as published."""
    ridge: float = RIDGE


DEFAULTS = Settings()


class Left(NamedTuple):
    """What leaving one fold out does."""

    fold: Fold
    conditioning: float
    """`Stage.conditioning` without it."""
    ratio: float
    """Newton's step at the prediction, as a share of the distance predicted."""
    curvature: float
    """Smallest eigenvalue of the Hessian there, without the fold."""
    trusted: bool
    theta: dict[str, Float[np.ndarray, "m"]]
    """Free parameters: of all samples (train), predicted (ij), corrected, exact."""
    error: dict[str, Float[np.ndarray, "g"]]
    """Of the same: mean error of each gene at the samples left out."""
    test: Float[np.ndarray, "_"] | None
    """Error of held-out genes, with the clusters of all samples."""
    note: str
    """Why there is no exact refit, where there is none."""


class Solved(NamedTuple):
    """Free parameters, and whether an optimum was reached."""

    theta: Float[np.ndarray, "m"]
    note: str


def cross_validate(
    stage: Stage,
    found: TimeCourse,
    folds: Sequence[Fold],
    settings: Settings = DEFAULTS,
    test: Stage | None = None,
) -> list[Left]:
    """Errors at samples that are left out, predicted and exact, a fold each.

    Parameters
    ----------
    stage, found
        Curves, and clusters of all samples.
    folds
        Samples to leave out together.
    settings
        What is computed, and which error.
    test
        Curves of held-out genes, which were not clustered.
    """
    whole = terms(stage.observed(np.ones(len(stage.frame.u))))
    return side_by_side(lambda fold: _leave(stage, found, fold, settings, whole, test), folds)


def _leave(
    stage: Stage,
    found: TimeCourse,
    fold: Fold,
    settings: Settings,
    whole: Terms,
    test: Stage | None,
) -> Left:
    """One fold; ``whole`` are the genes with all samples."""
    n = len(stage.frame.u)
    weight = fold.weight(n)
    start = found.clusters.mixture.vector()
    k, d = found.clusters.mixture.centroids.shape
    t = terms(stage.observed(weight))
    problem = closed(t, k, settings.ridge)
    theta = {"train": start, "ij": found.at(weight)}
    near = _nearby(problem, start, theta["ij"])
    note = ""
    if settings.corrected:
        begin = min(("ij", "train"), key=lambda name: problem.both(theta[name])[0])
        theta["corrected"] = _solved(problem, theta[begin], CORRECTIONS).theta
    if settings.exact:
        theta["exact"], note = _solved(problem, start, STEPS)

    def error(name: str, of: Stage, by: Terms, used: Float[np.ndarray, "n"]) -> np.ndarray:
        mixture = of_vector(theta[name], d)
        curve = members(mixture, by).responsibility @ mixture.centroids @ stage.frame.u.T
        centre = "mean" if settings.leak else "fit"
        return _mean(of.errors(fold.rows, used, curve, centre), settings.error)

    judged = whole if settings.leak else t
    errors = {name: error(name, stage, judged, weight) for name in theta if name != "train"}
    errors["train"] = error("train", stage, whole, np.ones(n))
    held = None
    if test is not None:
        seen = np.ones(n) if settings.leak else weight
        held = error("train", test, terms(test.observed(seen)), seen)
    conditioning = stage.conditioning(weight)
    agree = near.ratio <= RATIO
    if settings.corrected:
        gap = np.abs(_overall(errors["ij"]) - _overall(errors["corrected"]))
        agree = gap <= AGREE * _overall(errors["corrected"])
    trusted = bool(conditioning >= LEFT and near.curvature > 0 and agree)
    return Left(fold, conditioning, near.ratio, near.curvature, trusted, theta, errors, held, note)


class _Near(NamedTuple):
    """How the objective without a fold is at a prediction."""

    ratio: float
    curvature: float


def _nearby(
    problem: Closed, start: Float[np.ndarray, "m"], predicted: Float[np.ndarray, "m"]
) -> _Near:
    """Newton's step there as a share of the way that led there, and the smallest eigenvalue."""
    values, vectors = np.linalg.eigh(problem.matrix(predicted))
    slope = vectors.T @ problem.gradient(predicted)
    step = float(np.linalg.norm(slope / np.where(values == 0, 1.0, values)))
    far = float(np.linalg.norm(predicted - start))
    return _Near(step / far if far > 0 else 0.0, float(values[0]))


def _overall(errors: Float[np.ndarray, "g"]) -> float:
    """Mean over the genes that have a value."""
    seen = np.isfinite(errors)
    return float(np.mean(errors[seen])) if np.any(seen) else np.nan


def _mean(errors: Float[np.ndarray, "g _"], kind: str) -> Float[np.ndarray, "g"]:
    """Mean over samples of squared or absolute errors; NaN where all are missing."""
    size = np.abs(errors) if kind == "absolute" else errors**2
    seen = np.isfinite(size)
    number = np.sum(seen, axis=1)
    total = np.sum(np.where(seen, size, 0.0), axis=1)
    return np.divide(total, number, out=np.full(len(size), np.nan), where=number > 0)


def _solved(problem: Closed, start: Float[np.ndarray, "m"], steps: int) -> Solved:
    """Where Newton's method leads in some steps; why it is no optimum, if it is none."""
    try:
        found = newton.minimise(problem, Point(start, 0.0, 0, 0), steps, lambda _: None)
    except Unfinished as error:
        return Solved(np.asarray(cast("Point", error.point).t), str(error))
    except Saddle as error:
        return Solved(start, str(error))
    return Solved(np.asarray(found.t), "")


class Influence(NamedTuple):
    """What leaving a fold out would do to each cluster, by the jackknife."""

    fold: Fold
    shift: Float[np.ndarray, "k"]
    """Root mean square over the samples of the change of the centroid's curve."""
    weight: Float[np.ndarray, "k"]
    """Change of the cluster's share of the genes."""
    moved: Int[np.ndarray, "k"]
    """Genes that would leave the cluster."""


def influence(stage: Stage, found: TimeCourse, folds: Sequence[Fold]) -> list[Influence]:
    """How far each fold moves each cluster: predicted, nothing is refitted but the curves."""
    n = len(stage.frame.u)
    mixture = found.clusters.mixture
    k, d = mixture.centroids.shape
    before = np.argmax(members(mixture, terms(stage.observed(np.ones(n)))).responsibility, axis=1)
    told = []
    for fold in folds:
        weight = fold.weight(n)
        after = of_vector(found.at(weight), d)
        shift = np.linalg.norm(after.centroids - mixture.centroids, axis=1) / np.sqrt(n)
        t = terms(stage.observed(weight))
        now = np.argmax(members(after, t).responsibility, axis=1)
        left = np.bincount(before[now != before], minlength=k)
        told.append(Influence(fold, shift, after.weight - mixture.weight, left))
    return told
