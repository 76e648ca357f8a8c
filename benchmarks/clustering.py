"""Clusters of coefficients along pseudotime: how near the truth, at what cost, how stable.

``simulations``: of data with known clusters, adjusted Rand index of each coordinate's clusters,
ours beside the two steps alone (gene-wise fits are clustered and never refreshed), the oracle's
(true components known) and those of k-means and Gaussian mixtures by scikit-learn
(`rivals.mixtures` says how to run them); how many clusters are found; coverage of 90 % intervals;
root-mean-square error beside gene-wise fits; seconds by stage and memory. Without sizes it is the
grid of `clustering_cases`. ``scaling``: seconds and memory as genes and cells grow, each size in a
process of its own. ``stability``: adjusted Rand index over seeds, halves of the cells and priors,
simulated and real. ``real``: all of paul15 along one pseudotime, 240 genes of it along two.
"""

import argparse
import itertools
from pathlib import Path

import clustering_cases as cases
import clustering_cost
import clustering_real
import clustering_stability
import clustering_truth as truth
import numpy as np
import pandas as pd
from clustering_cases import Case, rand
from rivals import clusterings, mixtures
from threadpoolctl import threadpool_limits

KEYS = ["genes", "cells", "numbers", "separation", "sizes", "level_step"]


def simulations(wanted: argparse.Namespace) -> None:
    """Tables by coordinate, of the worst coordinates, and of costs."""
    version = clusterings.installed()
    print(f"scikit-learn {version}" if version else "scikit-learn is not installed: ours alone")
    parts = []
    for case in chosen(wanted):
        starts = wanted.starts if version and case.genes <= wanted.rivals_up_to else 0
        parts.append(of_case(case, starts, alone=wanted.others_only))
        print(" ".join(map(str, case)), "done", flush=True)
        if wanted.out:
            pd.concat(parts).to_csv(wanted.out, index=False)
    table = pd.concat(parts, ignore_index=True)
    table["level_step"] = table["level_step"].astype(float).fillna(0.0)
    costs = [name for name in table if str(name).endswith(("_s", "_mb"))]
    by = table.drop(columns=["seed", *costs]).groupby([*KEYS, "coordinate"], sort=False)
    cases.shown(by.mean(), "means over seeds")
    if not wanted.others_only:
        cases.shown(worst(table), "worst of coordinates and seeds")
        each = table.drop_duplicates([*KEYS, "seed"]).groupby(KEYS, sort=False)
        cases.shown(each[costs].mean(), "cost, mean over seeds")


def chosen(wanted: argparse.Namespace) -> list[Case]:
    """Cases with the sizes that were asked for, else the grid."""
    given = (wanted.genes, wanted.cells, wanted.numbers, wanted.separation, wanted.sizes)
    if wanted.level_step is None and not any(given):
        return cases.grid(wanted.seeds)
    usual = Case()
    filled = [each or [value] for each, value in zip(given, usual, strict=False)]
    return [
        Case(*each) for each in itertools.product(*filled, [wanted.level_step], range(wanted.seeds))
    ]


def of_case(case: Case, starts: int, *, alone: bool) -> pd.DataFrame:
    """A row for each coordinate of a case; what others make of it where they get some starts.

    Columns: those of the case, coordinate, clusters (true number); adjusted Rand indices
    ``ari_...``; numbers of clusters with at least 0.5 % of the genes ``found_...``, with any
    ``found_all_...``; coverage; rmse; of ``ours``, the ``two_step`` and others. unknown: genes
    whose counts know nothing of it: errors are of the others. left_out: genes that we do not
    cluster, which count for no method. Costs, of all coordinates.
    """
    adata = cases.simulated(case)
    mine: dict[str, cases.Found] = {}
    cost: dict[str, float] = {}
    kept = np.arange(case.genes)
    if not alone:
        done = cases.analysed(adata)
        kept, cost = done.clusters.data.used, done.cost
        mine = {"ours": cases.ours(done.clusters), "two_step": cases.two_step(done.clusters)}
    every = truth.genewise(adata)
    best = truth.oracle(adata, every)[kept]
    fits = truth.Fits(every.estimate[kept], every.error[kept])
    label, value = truth.labels(adata)[kept], truth.values(adata)[kept]
    reach = cases.NINETY * fits.error
    rows = []
    for i, name in enumerate(truth.names(adata)):
        known = np.isfinite(fits.error[:, i])
        k = int(case.numbers[i])
        row = case._asdict() | {"coordinate": name, "clusters": k}
        for method, said in mine.items():
            own = cases.Found(*(part[:, i] for part in said))
            row |= cases.of_method(own, label[:, i], value[:, i], known, method)
        x = fits.estimate[known, i]
        row["ari_oracle"] = rand(label[:, i], best[:, i])
        row["coverage_genewise"] = truth.coverage(
            value[known, i], x - reach[known, i], x + reach[known, i]
        )
        row["rmse_genewise"] = truth.rmse(value[known, i], x)
        row |= {"unknown": int(np.sum(~known)), "left_out": case.genes - len(kept)}
        given = mixtures.Given(fits.given[:, i], k, starts, case.seed)
        rows.append(row | others(given, label[:, i]) | cost)
    return pd.DataFrame(rows)


def others(given: mixtures.Given, label: np.ndarray) -> dict[str, float]:
    """Columns of scikit-learn's methods for one coordinate; none where they get no starts."""
    row = {}
    for name, method in mixtures.METHODS.items() if given.starts else ():
        # Their threads wait for each other in busy loops: one is ten times as fast.
        with threadpool_limits(1):
            told = method(given)
        row |= {f"ari_{name}": rand(label, told), f"found_{name}": len(np.unique(told))}
    return row


def worst(table: pd.DataFrame) -> pd.DataFrame:
    """Of each case: how far behind the oracle, clusters too many, coverage, errors."""
    told = table[KEYS].copy()
    for name in ("ours", "two_step"):
        told[f"behind_oracle_{name}"] = table["ari_oracle"] - table[f"ari_{name}"]
        told[f"too_many_{name}"] = table[f"found_all_{name}"] - table["clusters"]
        told[f"least_coverage_{name}"] = table[f"coverage_{name}"]
        told[f"error_to_genewise_{name}"] = table[f"rmse_{name}"] / table["rmse_genewise"]
    told["too_few_ours"] = -told["too_many_ours"]
    by = told.groupby(KEYS, sort=False)
    ways = {c: "min" if c.startswith("least") else "max" for c in told.columns.drop(KEYS)}
    return by.agg(ways)


def main() -> None:
    """Print the tables of one subcommand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("simulations")
    one.add_argument("--genes", type=int, nargs="+")
    one.add_argument("--cells", type=int, nargs="+")
    one.add_argument("--numbers", nargs="+", help="of clusters, a digit a coordinate")
    one.add_argument("--separation", type=float, nargs="+")
    one.add_argument("--sizes", nargs="+", choices=["equal", "uneven"])
    one.add_argument("--level-step", type=float, help="of levels, natural log: errors differ")
    one.add_argument("--seeds", type=int, default=2, help="in the grid, of 500 x 200 only")
    one.add_argument("--starts", type=int, default=5, help="of the others")
    one.add_argument("--rivals-up-to", type=int, default=2000, help="genes")
    one.add_argument("--others-only", action="store_true", help="all but our own clustering")
    clustering_cost.add_options(commands)
    clustering_stability.add_options(commands)
    clustering_real.add_options(commands)
    for one in commands.choices.values():
        one.add_argument("--out", type=Path, help="file for the values that tables are of (csv)")
    wanted = parser.parse_args()
    COMMANDS[wanted.what](wanted)


COMMANDS = {
    "simulations": simulations,
    "scaling": clustering_cost.scaling,
    "once": clustering_cost.once,
    "stability": clustering_stability.stability,
    "real": clustering_real.real,
}

if __name__ == "__main__":
    pd.set_option("display.width", 250)
    main()
