"""Clusters of coefficients along pseudotime: how near the truth they come, beside other methods.

``simulations``: adjusted Rand index of each coordinate's clusters, ours beside the oracle's (true
components known) and those of k-means and Gaussian mixtures by scikit-learn (`rivals.mixtures` says
how to run them); how many clusters are found; coverage of 90 % intervals; root-mean-square error of
ours and of gene-wise fits.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anndata
import clustering_truth as truth
import numpy as np
import pandas as pd
from rivals import clusterings, mixtures
from timecourse_truth import adjusted_rand

import expressway as ew

# Of normal intervals of 90 %, and the least share of the genes of a cluster that counts as found.
NINETY = 1.6448536269514722
SHARE = 0.005


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


Method = Callable[[anndata.AnnData], Found]


def cluster(adata: anndata.AnnData) -> Found:
    """Our analysis, with the true size factors.

    What is asked of it: tables `coefficients` (c and c_sd of each coordinate c) and `clusters`
    (gene, coefficient, label), in the simulation's basis, ordered as `rbf:3` orders it.
    """
    run: Any = vars(ew.tl)["cluster"]
    found = run(adata, along="pseudotime", basis="rbf:3", size_factors=adata.obs["size_factor"])
    names = truth.names(adata)
    label = found.clusters.pivot(index="gene", columns="coefficient", values="label")
    told = found.coefficients.loc[adata.var_names]
    mean = told[names].to_numpy()
    half = NINETY * told[[f"{name}_sd" for name in names]].to_numpy()
    return Found(label.loc[adata.var_names, names].to_numpy(), mean, mean - half, mean + half)


def simulations(cases: Sequence[Case], ours: Method | None, starts: int) -> pd.DataFrame:
    """A row for each case and coordinate; without `ours` what the others make of it.

    Columns: those of the case, coordinate, clusters (true number); adjusted Rand indices
    ``ari_...`` and numbers of clusters ``found_...``, ``found`` and ``found_all`` of ours (with at
    least 0.5 % of the genes, with any); coverage; rmse, rmse_genewise; unknown (genes whose
    counts know nothing of it: both errors are of the others); seconds of ours, all coordinates.
    """
    rows = []
    for case in cases:
        adata = simulated(case)
        fits = truth.genewise(adata)
        label, value, best = truth.labels(adata), truth.values(adata), truth.oracle(adata, fits)
        begin = time.perf_counter()
        found = ours(adata) if ours else None
        seconds = time.perf_counter() - begin
        for i, name in enumerate(truth.names(adata)):
            known = np.isfinite(fits.error[:, i])
            k = int(np.max(label[:, i]))
            row = case._asdict() | {"coordinate": name, "clusters": k}
            if found:
                mine = Found(*(part[:, i] for part in found))
                row |= of_ours(mine, label[:, i], value[:, i], known) | {"seconds": seconds}
            row["ari_oracle"] = rand(label[:, i], best[:, i])
            row["rmse_genewise"] = truth.rmse(value[known, i], fits.estimate[known, i])
            row["unknown"] = int(np.sum(~known))
            given = mixtures.Given(fits.given[:, i], k, starts, case.seed)
            rows.append(row | others(given, label[:, i]))
    return pd.DataFrame(rows)


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


def of_ours(
    mine: Found, label: np.ndarray, value: np.ndarray, known: np.ndarray
) -> dict[str, float]:
    """Columns of our method for one coordinate."""
    return {
        "ari_ours": rand(label, mine.label),
        "found": truth.sizeable(mine.label, SHARE),
        "found_all": len(np.unique(mine.label)),
        "coverage": truth.coverage(value, mine.lower, mine.upper),
        "rmse": truth.rmse(value[known], mine.mean[known]),
    }


def others(given: mixtures.Given, label: np.ndarray) -> dict[str, float]:
    """Columns of scikit-learn's methods for one coordinate; none where it is not installed."""
    row = {}
    for name, method in mixtures.METHODS.items() if clusterings.installed() else ():
        told = method(given)
        row |= {f"ari_{name}": rand(label, told), f"found_{name}": len(np.unique(told))}
    return row


def rand(a: np.ndarray, b: np.ndarray) -> float:
    """Adjusted Rand index; of one true cluster 1 if it is found whole and otherwise 0."""
    if len(np.unique(a)) == 1:
        return float(len(np.unique(b)) == 1)
    return adjusted_rand(a, b)


def main() -> None:
    """Print the table of one subcommand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("simulations")
    one.add_argument("--genes", type=int, nargs="+", default=[500])
    one.add_argument("--cells", type=int, nargs="+", default=[200])
    one.add_argument("--numbers", nargs="+", default=["33322"], help="of clusters, a digit each")
    one.add_argument("--separation", type=float, nargs="+", default=[3.0, 5.0, 8.0])
    one.add_argument("--sizes", nargs="+", default=["equal"], choices=["equal", "uneven"])
    one.add_argument("--level-step", type=float, help="of levels, natural log: errors differ")
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--starts", type=int, default=5, help="of the others")
    one.add_argument("--others-only", action="store_true", help="all but our own clustering")
    one.add_argument("--out", type=Path, help="file for the values of every data set (csv)")
    wanted = parser.parse_args()
    version = clusterings.installed()
    print(f"scikit-learn {version}" if version else "scikit-learn is not installed: ours alone")
    sizes = itertools.product(
        wanted.genes,
        wanted.cells,
        wanted.numbers,
        wanted.separation,
        wanted.sizes,
        [wanted.level_step],
        range(wanted.seeds),
    )
    ours = None if wanted.others_only else cluster
    table = simulations([Case(*each) for each in sizes], ours, wanted.starts)
    if wanted.out:
        table.to_csv(wanted.out, index=False)
    by = ["genes", "cells", "numbers", "sizes", "separation", "coordinate"]
    mean = table.drop(columns=["seed", "level_step"]).groupby(by, sort=False).mean()
    print("means over seeds")
    print(mean.map("{:.3f}".format).to_string())


if __name__ == "__main__":
    pd.set_option("display.width", 250)
    main()
