"""Simulations with known clusters of coefficients, and our analysis of them with what it costs."""

import contextlib
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anndata
import clustering_truth as truth
import numpy as np
import pandas as pd
from timecourse_truth import adjusted_rand

import expressway as ew
from expressway.clustering import Clusters, tables
from expressway.models.gene_mixtures import covariance

# Of normal intervals of 90 %, and the least share of the genes of a cluster that counts as found.
NINETY = 1.6448536269514722
SHARE = 0.005
CELLS = ew.datasets.Pseudotime()


class Found(NamedTuple):
    """What a method says of a data set; genes x coordinates, in the order of `truth.names`."""

    label: np.ndarray
    mean: np.ndarray
    """Posterior means."""
    lower: np.ndarray
    """Of 90 % intervals."""
    upper: np.ndarray


class Case(NamedTuple):
    """A simulation."""

    genes: int = 500
    cells: int = 200
    numbers: str = "33322"
    """Of clusters of each coordinate, a digit each."""
    separation: float = 6.0
    sizes: Literal["equal", "uneven"] = "equal"
    level_step: float | None = None
    seed: int = 0


class Analysed(NamedTuple):
    """Our clustering and what it cost."""

    clusters: Clusters
    cost: dict[str, float]
    """Wall seconds, CPU seconds, both of each stage; MB: the process's peak, and how much that is
    above what it had before."""


def grid(seeds: int) -> list[Case]:
    """The cases that figures are of: so many seeds of 500 x 200, one of the larger ones."""
    middle = Case(genes=2000)
    found = [
        Case(separation=separation, seed=seed)
        for separation in (3.0, 4.0, 5.0, 6.0, 8.0)
        for seed in range(seeds)
    ]
    found += [middle._replace(separation=separation) for separation in (3.0, 4.0, 5.0, 6.0, 8.0)]
    found += [
        middle._replace(numbers=numbers, separation=separation)
        for numbers in ("22222", "65432", "46354")
        for separation in (3.0, 5.0)
    ]
    # Six clusters this far apart exist with more cells only.
    found += [
        middle._replace(numbers=numbers, separation=8.0, cells=1000)
        for numbers in ("65432", "46354")
    ]
    found += [
        middle._replace(separation=separation, **other)
        for other in ({"sizes": "uneven"}, {"level_step": 0.7})
        for separation in (3.0, 5.0, 8.0)
    ]
    found += [Case(genes, 200, separation=5.0) for genes in (5000, 20_000)]
    found += [Case(genes, 1000, separation=5.0) for genes in (500, 2000, 5000, 20_000)]
    return found


def simulated(case: Case) -> anndata.AnnData:
    """The data of a case."""
    return ew.datasets.simulate_pseudotime(
        case.genes,
        case.cells,
        clusters=[int(digit) for digit in case.numbers],
        separation=case.separation,
        sizes=case.sizes,
        seed=case.seed,
        settings=ew.datasets.Pseudotime(level_step=case.level_step),
    )


def cluster(adata: anndata.AnnData, **choices: Any) -> Clusters:
    """Our analysis in the simulation's basis, with the true size factors."""
    return ew.tl.cluster(
        adata,
        "pseudotime",
        basis=f"rbf:{len(CELLS.centers)}",
        centers=CELLS.centers,
        length=CELLS.length,
        size_factors="size_factor",
        **choices,
    )


def analysed(adata: anndata.AnnData) -> Analysed:
    """Our analysis and what it costs."""
    forget_peak()
    before = (ew.io.resident_memory() or np.nan) / 1e6
    wall, cpu = time.perf_counter(), time.process_time()
    found = cluster(adata)
    cost = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    peak = ew.io.peak_memory() or np.nan
    cost |= {"peak_mb": peak, "rise_mb": peak - before}
    return Analysed(found, cost | stages(found))


def stages(found: Clusters) -> dict[str, float]:
    """Wall and CPU seconds of each stage, by name."""
    return {
        f"{stage.replace(' ', '_')}_{kind}_s": spent
        for stage, each in found.seconds.items()
        for kind, spent in each.items()
    }


def forget_peak() -> None:
    """From here on peak memory is counted anew (Linux; elsewhere from the start of the process)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)


def ours(found: Clusters) -> Found:
    """What our tables say of the genes that are clustered."""
    names = list(found.data.names)
    told = found.coefficients()
    told = told[told["status"] == "ok"]
    label = found.clusters().pivot(index="gene", columns="coefficient", values="label")
    sd = told[[f"{name}_sd" for name in names]].to_numpy()
    return _found(label.loc[told.index, names].to_numpy(), told[names].to_numpy(), sd)


def two_step(found: Clusters) -> Found:
    """What it would be if gene-wise fits were never refreshed."""
    first = found.found.two_step
    label = np.column_stack([tables.best(block)[0] for block in first.blocks])
    spread = covariance(found.data.sites, first)
    return _found(label, first.mean, np.sqrt(np.einsum("gcc->gc", spread)))


def _found(label: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> Found:
    return Found(label, mean, mean - NINETY * sd, mean + NINETY * sd)


def rand(a: np.ndarray, b: np.ndarray) -> float:
    """Adjusted Rand index; where a is one cluster, 1 if b is too and otherwise 0."""
    if len(np.unique(a)) == 1:
        return float(len(np.unique(b)) == 1)
    return adjusted_rand(a, b)


def of_method(
    mine: Found, label: np.ndarray, value: np.ndarray, known: np.ndarray, name: str
) -> dict[str, float]:
    """Columns of a method that gives labels and intervals, for one coordinate."""
    return {
        f"ari_{name}": rand(label, mine.label),
        f"found_{name}": truth.sizeable(mine.label, SHARE),
        f"found_all_{name}": len(np.unique(mine.label)),
        f"coverage_{name}": truth.coverage(value, mine.lower, mine.upper),
        f"rmse_{name}": truth.rmse(value[known], mine.mean[known]),
    }


def shown(table: pd.DataFrame, title: str) -> None:
    """A table to standard output."""
    print(f"\n{title}")
    print(table.to_string(float_format=lambda x: f"{x:.3f}" if abs(x) < 100 else f"{x:.0f}"))
