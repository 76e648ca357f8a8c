"""The result of a time-course analysis: tables, curves, influence, and what would be without."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from expressway import io
from expressway._types import Float, Int
from expressway.io import course_tables as tables
from expressway.models import course, spline, timecourse
from expressway.models.count_curves import CountCurves
from expressway.models.curves import Posterior
from expressway.models.mixture import Mixture, Observed, hessian, members, of_vector, terms
from expressway.models.timecourse import Fold, Stage

from .steps import Data, OneFit, Settings

TABLES = ("cv", "folds", "selection", "starts", "differential")


class Without(NamedTuple):
    """Clusters without some samples."""

    clusters: pd.DataFrame
    """As `Courses.clusters`, of the genes' curves without the samples; and ``before``, the cluster
    with them."""
    mixture: Mixture
    trusted: bool
    """Of a prediction: that it may be used instead of a refit."""
    note: str
    """Of a refit: why it did not reach an optimum, if it did not."""


@dataclass(frozen=True)
class Courses:
    """A time-course analysis. Curves of expression have its units; of counts log2, normalised."""

    data: Data
    settings: Settings
    fits: Mapping[int, OneFit]
    """By df."""
    chosen: int
    """The df with the smallest cross-validation error."""
    cv: pd.DataFrame
    """See `io.course_tables.cv_table`."""
    folds: pd.DataFrame
    """See `io.course_tables.folds_table`."""
    selection: pd.DataFrame
    """Of the number of clusters, where it was chosen; else empty."""
    starts: pd.DataFrame
    """Where each start ended."""
    differential: pd.DataFrame
    """Which genes change over time, and between groups, with the curves of the chosen df."""
    seconds: Mapping[str, Mapping[str, float]]

    @property
    def unit(self) -> float:
        """What a natural unit of curves is in tables: log2 for counts."""
        return 1 / np.log(2) if self.data.counts else 1.0

    def fit(self, df: int | None = None) -> OneFit:
        """Curves and clusters with a df; the chosen one when not given."""
        wanted = self.chosen if df is None else df
        if wanted not in self.fits:
            msg = f"there are no curves with df {wanted}; there are {sorted(self.fits)}"
            raise io.InputError(msg)
        return self.fits[wanted]

    def clusters(self, df: int | None = None) -> pd.DataFrame:
        """One row a gene: cluster, probability of each, distance from the centroid, status."""
        one = self.fit(df)
        found = one.found.clusters
        seen = _observed(one, np.ones(len(self.data.plan.time)))
        trained = int(np.sum(~self.data.held[one.genes]))
        return tables.membership_table(found, seen, one.genes, trained, self.data.genes, one.status)

    def sizes(self, df: int | None = None) -> dict[str, int]:
        """How many of the genes that were clustered belong to each cluster: name to number."""
        one = self.fit(df)
        best = _best(one)
        k = len(one.found.clusters.mixture.weight)
        return {str(i + 1): int(n) for i, n in enumerate(np.bincount(best, minlength=k))}

    def curves(self, df: int | None = None, genes: Sequence[str] | None = None) -> pd.DataFrame:
        """Mean and interval over a time grid: of clusters (centred), of genes, of differences.

        Intervals have the probability ``settings.level`` at each time. Those of genes are of
        Student's t for expression, normal for counts; those of clusters are normal, from the
        curvature of the clusters' objective.
        """
        one = self.fit(df)
        grid = course.grid(one.basis, self.data.plan.time, self.settings.points)
        groups = self.data.plan.groups
        known, names = _posterior(one, self.data, genes)
        rows = [
            course.rows_at(one.basis, one.stage.frame, grid.time, k, len(groups))
            for k in range(len(groups))
        ]
        middle = _centroids(one, self.settings)
        number = [str(k + 1) for k in range(len(middle.mean))]
        parts = []
        for kind, what, labels in (("cluster", middle, number), ("gene", known, names)):
            shown = [(group, each) for group, each in zip(groups, rows, strict=True)] + [
                (f"{group} - {groups[0]}", each - rows[0])
                for group, each in zip(groups[1:], rows[1:], strict=True)
            ]
            for group, each in shown:
                found = course.band(what, each, self.settings.level)
                found = course.Band(*(part * self.unit for part in found))
                parts.append(tables.curves_table(kind, labels, group, grid, found))
        return pd.concat(parts, ignore_index=True)

    def draws(self, genes: Sequence[str], number: int = 30, seed: int = 0) -> pd.DataFrame:
        """Curves drawn from what is known of genes: name, group, draw, time, value."""
        one = self.fit()
        grid = course.grid(one.basis, self.data.plan.time, 4 * self.settings.points)
        grid_time = grid.time[~grid.indicator] if one.basis.kind != "factor" else grid.time
        known, names = _posterior(one, self.data, genes)
        groups, rng = self.data.plan.groups, np.random.default_rng(seed)
        rows = [
            course.rows_at(one.basis, one.stage.frame, grid_time, k, len(groups))
            for k in range(len(groups))
        ]
        drawn = course.draws(known, np.vstack(rows), number, rng) * self.unit
        m = len(grid_time)
        index = pd.MultiIndex.from_product(
            [range(number), names, groups, grid_time], names=["draw", "name", "group", "time"]
        )
        return pd.DataFrame({"value": drawn.reshape(number * len(names) * len(groups) * m)}, index)[
            ["value"]
        ].reset_index()

    def basis(self, df: int | None = None) -> pd.DataFrame:
        """The functions that curves of one group are made of: a column each, over a time grid."""
        of = self.fit(df).basis
        grid = course.grid(of, self.data.plan.time, 8 * self.settings.points)
        values = spline.evaluate(of, grid.time)
        return pd.DataFrame(
            values, index=pd.Index(grid.time, name="time"), columns=pd.Index(spline.names(of))
        )

    def values(self, genes: Sequence[str]) -> pd.DataFrame:
        """Measured values of genes: name, group, time, value (of counts log2(normalised + ½))."""
        of = self.data.plan
        at = _places(self.data, genes)
        y = self.data.y[at]
        if self.data.counts:
            stage: Any = self.fit().stage
            y = np.log2(y / np.exp(stage.offset) + 0.5)
        group = [of.groups[k] for k in of.group]
        return tables.values_table(y, list(genes), group, of.time, np.isfinite(y))

    def members(self, most: int = 200) -> pd.DataFrame:
        """Centred fitted curves by cluster: name (the cluster), gene, group, time, value.

        At most so many genes of a cluster, at equal distances in their order.
        """
        one = self.fit()
        grid = course.grid(one.basis, self.data.plan.time, self.settings.points)
        seen = one.stage.observed(np.ones(len(self.data.plan.time)))
        best = _best(one)
        groups = self.data.plan.groups
        parts = []
        for k in range(len(one.found.clusters.mixture.weight)):
            own = np.flatnonzero(best == k)
            own = own[np.unique(np.linspace(0, len(own) - 1, min(most, len(own))).astype(int))]
            for number, group in enumerate(groups):
                rows = course.rows_at(one.basis, one.stage.frame, grid.time, number, len(groups))[
                    :, 1:
                ]
                value = seen.estimate[own] @ rows.T * self.unit
                names = [self.data.genes[i] for i in one.genes[own]]
                there = np.ones(value.shape, bool)
                table = tables.values_table(
                    value, names, [group] * len(grid.time), grid.time, there
                )
                table = table.rename(columns={"name": "gene"})
                table.insert(0, "name", str(k + 1))
                parts.append(table)
        return pd.concat(parts, ignore_index=True)

    def influence(self, df: int | None = None) -> pd.DataFrame:
        """How far leaving out each time point, and each sample, would move each cluster."""
        one, of = self.fit(df), self.data.plan
        told = {}
        kinds: tuple[tuple[str, course.Of], ...] = (("time", "times"), ("sample", "samples"))
        for kind, units in kinds:
            among = np.unique(of.time).tolist()
            given = course.folds(of, 1, units, among, max(len(among), len(of.time)))
            fine = course.comparable([one.stage.frame], given).folds
            told[kind] = timecourse.influence(one.stage, one.found, fine)
        found = tables.shifts_table(told)
        if self.data.counts and len(found):
            found["shift"] *= self.unit
        return found

    def leave_out(
        self,
        times: Sequence[float | int] = (),
        samples: Sequence[str] = (),
        *,
        df: int | None = None,
        exact: bool = False,
    ) -> Without:
        """Clusters without some time points or samples: the jackknife's prediction, or a refit.

        Raises
        ------
        InputError
            There is no such time or sample, or no curve can be estimated without them.
        """
        one, of = self.fit(df), self.data.plan
        rows = np.flatnonzero(np.isin(of.time, times) | np.isin(of.sample, list(samples)))
        unknown = [f"{t:g}" for t in times if t not in of.time]
        unknown += [name for name in samples if name not in of.sample]
        if unknown or not len(rows):
            msg = (
                f"nothing to leave out: there is no time or sample {', '.join(unknown) or 'given'}"
            )
            raise io.InputError(msg)
        fold = Fold("+".join([*(f"{t:g}" for t in times), *samples]), rows)
        if not course.comparable([one.stage.frame], [fold]).folds:
            msg = f"without {fold.name} the design is singular: no curve can be estimated"
            raise io.InputError(msg)
        ask = timecourse.Settings(corrected=False, exact=exact, ridge=self.settings.ridge)
        left = timecourse.cross_validate(one.stage, one.found, [fold], ask)[0]
        d = one.stage.frame.u.shape[1]
        mixture = of_vector(left.theta["exact" if exact else "ij"], d)
        known = one.found.clusters._replace(mixture=mixture)
        trained = int(np.sum(~self.data.held[one.genes]))
        table = tables.membership_table(
            known,
            _observed(one, fold.weight(len(of.time))),
            one.genes,
            trained,
            self.data.genes,
            one.status,
        )
        table.insert(3, "before", pd.Series(self.clusters(df)["cluster"]))
        return Without(table, mixture, left.trusted, left.note)

    def save(self, path: str | Path) -> None:
        """Write everything into one file, from which `load` makes it again; numbers only (npz)."""
        given = self.data
        of = given.plan
        arrays: dict[str, Any] = {
            "y": given.y,
            "held": given.held,
            "time": of.time,
            "group": of.group,
            "genes": np.array(given.genes),
            "groups": np.array(of.groups),
            "sample": np.array(of.sample),
        }
        if of.replicate is not None:
            arrays["replicate"] = of.replicate
        for df, one in self.fits.items():
            mixture = one.found.clusters.mixture
            arrays[f"df{df}_centroids"], arrays[f"df{df}_log_weight"] = mixture
            arrays[f"df{df}_sensitivity"] = one.found.sensitivity
            arrays[f"df{df}_status"] = np.array(one.status)
            if isinstance(one.stage, CountCurves):
                stages = [one.stage] + ([one.test] if isinstance(one.test, CountCurves) else [])
                arrays[f"df{df}_offset"] = one.stage.offset
                arrays[f"df{df}_alpha"] = np.concatenate([each.alpha for each in stages])
                arrays[f"df{df}_beta"] = np.concatenate([each.beta for each in stages])
        about = {
            "format": 1,
            "counts": given.counts,
            "chosen": self.chosen,
            "settings": self.settings._asdict(),
            "certificates": {
                str(df): [one.found.clusters.objective, *one.found.clusters.certificate]
                for df, one in self.fits.items()
            },
            "seconds": self.seconds,
            "tables": {name: tables.packed(getattr(self, name)) for name in TABLES},
        }
        np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)


def _observed(one: OneFit, weight: Float[np.ndarray, "n"]) -> Observed:
    """Of the clustered genes, then of those held out."""
    parts = [one.stage.observed(weight)]
    if one.test is not None:
        parts.append(one.test.observed(weight))
    return Observed(
        np.concatenate([part.estimate for part in parts]),
        np.concatenate([part.precision for part in parts]),
    )


def _best(one: OneFit) -> Int[np.ndarray, "g"]:
    """The most probable cluster of each gene that was clustered."""
    t = terms(one.stage.observed(np.ones(len(one.stage.frame.u))))
    return np.argmax(members(one.found.clusters.mixture, t).responsibility, axis=1)


def _places(given: Data, genes: Sequence[str]) -> list[int]:
    where = {name: i for i, name in enumerate(given.genes)}
    if unknown := [name for name in genes if name not in where]:
        msg = f"there is no gene {', '.join(unknown[:5])}"
        raise io.InputError(msg)
    return [where[name] for name in genes]


def _posterior(
    one: OneFit, given: Data, genes: Sequence[str] | None
) -> tuple[Posterior, list[str]]:
    """What is known of the curves of genes that have one, all when not named."""
    stages: list[Stage] = [one.stage] + ([] if one.test is None else [one.test])
    known = [stage.posterior() for stage in stages]
    every = Posterior(*(np.concatenate(parts) for parts in _alike(known)))
    names = [given.genes[i] for i in one.genes]
    if genes is None:
        order = np.argsort(one.genes)
        return Posterior(*(part[order] for part in every)), [names[i] for i in order]
    _places(given, genes)
    where = {name: i for i, name in enumerate(names)}
    if unknown := [name for name in genes if name not in where]:
        msg = f"gene {unknown[0]} has no curve: its status is {_status(one, given, unknown[0])}"
        raise io.InputError(msg)
    at = [where[name] for name in genes]
    return Posterior(*(part[at] for part in every)), list(genes)


def _status(one: OneFit, given: Data, gene: str) -> str:
    return one.status[given.genes.index(gene)]


def _alike(known: Sequence[Posterior]) -> list[tuple[np.ndarray, ...]]:
    """Parts of posteriors, each with one covariance a gene."""
    return list(zip(*known, strict=True))


def _centroids(one: OneFit, settings: Settings) -> Posterior:
    """Centroids as curves of level 0, normal about the optimum with the objective's curvature."""
    found = one.found.clusters.mixture
    k, d = found.centroids.shape
    t = terms(one.stage.observed(np.ones(len(one.stage.frame.u))))
    inverse = np.linalg.inv(hessian(found.vector(), t, settings.ridge)) / len(t.pull)
    covariance = np.zeros((k, d + 1, d + 1))
    for i in range(k):
        own = slice(i * d, (i + 1) * d)
        covariance[i, 1:, 1:] = inverse[own, own]
    mean = np.column_stack([np.zeros(k), found.centroids])
    return Posterior(mean, covariance, np.full(k, np.inf))
