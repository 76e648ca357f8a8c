"""The folder of results of a clustering along pseudotime."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway import io
from expressway.clustering import Clusters

from . import folder

logger = logging.getLogger(__name__)

# Genes in the figure of curves, and points in each of its panels: means over neighbouring samples.
MOST = 12
POINTS = 40
# Modules of a smaller share of the genes have no panel: the curve of two genes that are hardly seen
# would leave no room on the scale for the others.
SMALL = 0.002
# Values of a column by which modules are compared: more are numbers, not types.
TYPES = 100
# The interval of the posterior-predictive figure, which says so.
CHECKED = 0.9


class Wanted(NamedTuple):
    """What is asked for beside tables that are always written."""

    genes: list[str]
    """Of the figure of curves."""
    types: str | None
    """Column by which modules are compared."""
    association: bool
    source: Mapping[str, Any]
    """Where data came from and how they are coded."""


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Warnings that the package logs meanwhile."""
    kept: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    keeper, package = Keeper(logging.WARNING), logging.getLogger("expressway")
    package.addHandler(keeper)
    try:
        yield kept
    finally:
        package.removeHandler(keeper)


def expect(adata: anndata.AnnData, wanted: Wanted) -> None:
    """Import what draws figures meanwhile, and refuse what cannot be drawn before anything is fit.

    Raises
    ------
    InputError
        A gene to draw is not in the data; modules cannot be compared by the column.
    """
    folder.expect_figures()
    refuse_unknown(wanted.genes, adata.var_names)
    if wanted.types is None:
        return
    if wanted.types not in adata.obs.columns:
        msg = (
            f"--cell-types: there is no column '{wanted.types}'; the sample table has "
            f"{', '.join(map(str, adata.obs.columns[:10]))}"
        )
        raise io.InputError(msg)
    number = _types(adata, wanted.types).nunique()
    if not 2 <= number <= TYPES:
        msg = (
            f"--cell-types: column '{wanted.types}' has {number:,} values; needed is one with 2 to "
            f"{TYPES}"
        )
        raise io.InputError(msg)


def refuse_unknown(genes: Sequence[str], have: Sequence[str] | pd.Index) -> None:
    """Refuse genes that there are not."""
    known = set(map(str, have))
    if unknown := [name for name in genes if name not in known]:
        msg = f"--genes: there is no gene {', '.join(unknown)}"
        raise io.InputError(msg)


def _types(adata: anndata.AnnData, column: str) -> pd.Series:
    """Values of a column as text; missing ones stay missing."""
    values = pd.Series(adata.obs[column]).astype(object)
    found = values.where(values.isna(), values.astype(str))
    return found.where(found != "")


def write(
    found: Clusters,
    adata: anndata.AnnData | None,
    wanted: Wanted,
    scratch: Path,
    clock: io.Clock,
    warned: list[str],
    watch: Callable[[str], None],
) -> None:
    """Write everything into a folder; without counts what can be known of a fit alone."""
    tested: dict[str, pd.DataFrame] = {}
    if wanted.association:
        watch("association")
        with clock.stage("association"):
            tested["association"] = found.association()
    watch("tables")
    with clock.stage("tables"):
        curves = found.curves()
        tables = {
            "coefficients": found.coefficients(),
            "modules": found.modules(),
            **{
                name: table.set_index(table.columns[0])
                for name, table in (
                    ("clusters", found.clusters()),
                    ("components", found.components()),
                    ("curves", curves),
                    ("elbo", found.elbo()),
                    ("starts", starts(found)),
                )
            },
            **tested,
        }
        if adata is not None and wanted.types is not None:
            along = wanted.source["along"]
            table = composition(found, adata, wanted.types, along[0] if len(along) == 1 else None)
            tables["composition"] = table.set_index("module")
        for name, table in tables.items():
            if len(table):
                io.write_table(table, scratch / f"{name}.csv")
        found.save(scratch / "fit.npz")
        checked = None if adata is None else _checked(found)
    watch("figures")
    with clock.stage("figures"):
        (scratch / "figures").mkdir()
        shown = _Shown(curves, tables["modules"], tables["components"], tables.get("composition"))
        _draw(found, adata, wanted, shown, checked, scratch / "figures")
    names = [
        str(path.relative_to(scratch).as_posix()) for path in scratch.rglob("*.*") if path.is_file()
    ]
    record = _record(found, wanted, clock, warned, checked)
    io.write_json(record | {"files": sorted([*names, "run.json"])}, scratch / "run.json")


def starts(found: Clusters) -> pd.DataFrame:
    """Searches of each mixture: coefficient, mixture, components at the start, bound, found.

    Those of `Clusters.again` go on from an earlier optimum: there are none.
    """
    names = found.data.names
    clustered = {*range(found.data.shape), len(names) - 1}
    parts = [
        (names[i], "coefficients", begun, bound, ended)
        for i, begun, bound, ended in (found.found.two_step.starts if found.together.starts else ())
        if i in clustered
    ]
    parts += [
        ("all", "modules", begun, bound, ended)
        for i, begun, bound, ended in found.together.starts
        if i == 0
    ]
    columns = ["coefficient", "mixture", "components_at_start", "elbo", "components"]
    return pd.DataFrame(parts, columns=pd.Index(columns)).sort_values(
        "mixture", kind="stable", ignore_index=True
    )


def composition(
    found: Clusters, adata: anndata.AnnData, column: str, along: str | None
) -> pd.DataFrame:
    """Mean of each module's genes by value of a column, one row a module and value.

    Parameters
    ----------
    found
        With its counts.
    adata
        What was clustered.
    column
        Of the sample table; samples without a value are left out.
    along
        Column by whose mean values are ordered; by name if None.

    Returns
    -------
    DataFrame
        module, value, samples, mean (of log1p of normalised counts, over the module's genes and
        the value's samples), z (that less its mean over values, over its standard deviation).
    """
    types = _types(adata, column).to_numpy()
    names = sorted({str(t) for t in types if not pd.isna(t)})
    inside = np.array([types == name for name in names])
    if along is not None:
        time = io.numeric(pd.DataFrame(adata.obs), along)
        order = np.argsort([np.mean(time[own]) for own in inside], kind="stable")
        names, inside = [names[i] for i in order], inside[order]
    size = np.sum(inside, axis=1)
    share = inside / size[:, None]
    counts = found.data.counts
    assert counts is not None
    factor = np.exp(counts.offset)
    module = found.modules()["module"].to_numpy(dtype=float, na_value=np.nan)[found.data.used]
    parts = []
    for number in range(1, int(np.nanmax(module)) + 1):
        own = counts.y[module == number]
        if not len(own):
            continue
        mean = share @ np.mean(np.log1p(own / factor), axis=0)
        sd = np.std(mean)
        z = (mean - np.mean(mean)) / sd if sd > 0 else np.full(len(mean), np.nan)
        parts.append(
            pd.DataFrame(
                {"module": number, "value": names, "samples": size, "mean": mean, "z": z},
            )
        )
    return pd.concat(parts, ignore_index=True)


def _checked(found: Clusters) -> pd.DataFrame:
    """The posterior-predictive check with the intervals that its figure names."""
    return replace(found, settings=found.settings._replace(level=CHECKED)).predictive()


class _Shown(NamedTuple):
    """Tables of which there are figures."""

    curves: pd.DataFrame
    modules: pd.DataFrame
    components: pd.DataFrame
    composition: pd.DataFrame | None


def _draw(
    found: Clusters,
    adata: anndata.AnnData | None,
    wanted: Wanted,
    tables: _Shown,
    checked: pd.DataFrame | None,
    to: Path,
) -> None:
    """Write the figures."""
    from expressway import pl  # after the analysis: a refusal need not wait for matplotlib

    along = found.data.along
    xlabel = along[0] if len(along) == 1 else "pseudotime"
    components = tables.components.reset_index()
    drawn: dict[str, Any] = {
        "modules": pl.modules(
            _of_size(tables.curves, tables.modules), tables.modules, xlabel=xlabel
        ),
        "components": pl.component_weights(components),
        "module_components": pl.component_weights(components, mixture="modules"),
        "co_clustering": pl.co_clustering(found.co_clustering()),
        "elbo": pl.elbo(found.elbo()),
    }
    if checked is not None:
        drawn["predictive"] = pl.predictive(checked)
    if tables.composition is not None:
        wide = tables.composition.reset_index()
        wide = wide.pivot_table(values="z", index="module", columns="value", sort=False)
        label = "mean log1p count, z-score"
        drawn["composition"] = pl.module_composition(wide, label=label, xlabel=str(wanted.types))
    if genes := _clustered(found, wanted.genes):
        own = tables.curves.query("kind == 'gene'")
        own = pd.concat([own[own["name"] == name] for name in genes])
        drawn["curves"] = pl.curves(
            own.assign(group=own["lineage"]),
            points(found, adata, wanted, genes),
            ylabel="normalised count",
            xlabel=xlabel,
            shorten_gaps=False,
        )
    for name, axes in drawn.items():
        first = np.ravel(np.asarray(axes, dtype=object))[0]
        first.get_figure(root=True).savefig(to / f"{name}.png")


def _of_size(curves: pd.DataFrame, modules: pd.DataFrame) -> pd.DataFrame:
    """Curves without those of `SMALL` modules."""
    share = modules["module"].dropna().value_counts(normalize=True)
    shown = {str(module) for module, part in share.items() if part >= SMALL}
    named = np.array([str(name) in shown for name in curves["name"]])
    return pd.DataFrame(curves[(curves["kind"] != "module").to_numpy() | named])


def _clustered(found: Clusters, genes: Sequence[str]) -> list[str]:
    """Genes that have a curve, of some; a warning names the others."""
    status = dict(zip(found.data.genes, found.data.status, strict=True))
    if without := [f"{name} ({status[name]})" for name in genes if status[name] != "ok"]:
        logger.warning("no curve is drawn of %s", ", ".join(without))
    return [name for name in genes if status[name] == "ok"]


def points(
    found: Clusters, adata: anndata.AnnData | None, wanted: Wanted, genes: Sequence[str]
) -> pd.DataFrame:
    """Normalised counts of genes: name, group (lineage), time, value.

    Of many samples means over neighbours in time, `POINTS` a lineage, each sample in the lineage
    where it has most weight. None without counts.
    """
    columns: dict[str, list] = {"name": [], "group": [], "time": [], "value": []}
    if adata is None or found.data.counts is None:
        return pd.DataFrame(columns)
    obs = pd.DataFrame(adata.obs)
    along, weights = wanted.source["along"], wanted.source["weights"]
    weight = [np.ones(len(obs))] if weights is None else [io.numeric(obs, w) for w in weights]
    most = np.argmax(weight, axis=0)
    place = {found.data.genes[i]: j for j, i in enumerate(found.data.used)}
    factor = np.exp(found.data.counts.offset)
    for name in genes:
        value = found.data.counts.y[place[name]] / factor
        for j, (column, rows) in enumerate(zip(along, found.data.curves, strict=True)):
            own = np.flatnonzero(most == j)
            time = io.numeric(pd.DataFrame(obs.iloc[own]), column)
            order = np.argsort(time, kind="stable")
            for part in np.array_split(order, min(POINTS, len(own))):
                columns["name"].append(name)
                columns["group"].append(rows.lineage)
                columns["time"].append(float(np.mean(time[part])))
                columns["value"].append(float(np.mean(value[own[part]])))
    return pd.DataFrame(columns)


def _record(
    found: Clusters,
    wanted: Wanted,
    clock: io.Clock,
    warned: list[str],
    checked: pd.DataFrame | None,
) -> dict[str, Any]:
    """Settings, priors, versions, what was found, and what it cost."""
    memory, data = io.peak_memory(), found.data
    outside: dict[str, float] = {}
    if checked is not None:
        out = (checked["observed"] < checked["lower"]) | (checked["observed"] > checked["upper"])
        outside = out.groupby(checked["statistic"]).mean().to_dict()
    factor = None if data.counts is None else np.exp(data.counts.offset)
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": io.versions(),
        "input": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in wanted.source.items()
        },
        "samples": len(data.samples),
        "genes": len(data.genes),
        "status": statuses(found),
        "coordinates": list(data.names),
        "basis": {
            "columns": data.shape,
            "orthonormal": data.frame.orthonormal,
            "condition_number": data.frame.condition,
        },
        "size_factors": None if factor is None else [float(factor.min()), float(factor.max())],
        "settings": found.settings._asdict(),
        "prior": {
            name: prior._asdict() for name, prior in zip(data.names, found.priors, strict=True)
        },
        "clusters": numbers(found),
        "elbo": {"coefficients": found.found.mixtures.elbo, "modules": found.together.elbo},
        "predictive_outside_interval": outside,
        "seconds": folder.seconds(clock.seconds, dict(found.seconds)),
        "peak_memory_mb": None if memory is None else round(memory, 1),
        "warnings": warned,
    }


def statuses(found: Clusters) -> dict[str, int]:
    """Genes of each status."""
    counted = pd.Series(found.data.status).value_counts()
    return {str(name): int(number) for name, number in counted.items()}


def numbers(found: Clusters) -> dict[str, int]:
    """Clusters of each coordinate that is clustered, and modules."""
    names = found.data.names
    clustered = {*names[: found.data.shape], names[-1], "modules"}
    return {name: number for name, number in found.numbers().items() if name in clustered}
