"""Clusters, smoothness and errors of time courses beside what is known of them.

See `timecourse.py`, which has the command line.
"""

import argparse
import time
from collections.abc import Sequence

import anndata
import courses
import numpy as np
import pandas as pd
from courses import DF, DFS
from rivals import clusterings

import expressway as ew
from expressway.models import mixture, spline, timecourse
from expressway.timecourse import DEFAULTS, Settings

LATE = (72.0, 120.0, 168.0)
EARLY = (0.0, 3.0, 6.0, 9.0, 12.0, 18.0, 24.0)
KINDS = ("train", "ij", "corrected", "exact")
REAL = "shoemaker500"
# A prediction of an error is bad when it is off by this share of the exact one.
BAD = 0.1
LEGEND = f"""
compared: folds that leave enough information with every df. r: correlation with exact errors of
trusted folds; rise: the same, of errors less those with all samples. Then relative errors: median,
90 %, most; of trusted folds, of others. bad: wrong by {BAD:.0%} or more; caught: not trusted"""


def accuracy(wanted: argparse.Namespace) -> None:
    """Adjusted Rand index by method, mean and sd over seeds."""
    version = clusterings.installed()
    print(f"scikit-learn {version}" if version else "scikit-learn is not installed: ours alone")
    rows, seconds = [], []
    for kind, seed in courses.problems(wanted):
        adata = courses.drawn(kind, wanted, seed)
        truth = np.asarray(adata.var["cluster"].cat.codes)
        row, took = ours(adata, kind["clusters"], truth)
        row["all_known"] = adjusted_rand(truth, known(adata, truth, kind["spread"]))
        if version:
            given = seen(adata, DF)
            for name, method in clusterings.METHODS.items():
                begin = time.perf_counter()
                labels = method(given, kind["clusters"], wanted.starts, seed)
                took[name] = time.perf_counter() - begin
                row[name] = adjusted_rand(truth, labels)
        rows.append(kind | {"seed": seed} | row)
        seconds.append(took)
    table = pd.DataFrame(rows)
    if wanted.out:
        table.to_csv(wanted.out, index=False)
    groups = table.drop(columns=["seed"]).groupby(["clusters", "noise", "spread"], sort=False)
    mean, sd = groups.mean(), groups.std()
    shown = mean.map("{:.3f}".format) + " ± " + sd.map("{:.3f}".format)
    shown["chosen_df"] = mean["chosen_df"].map("{:.1f}".format)
    shown.columns = shown.columns.str.replace("_", " ")
    print(f"\nadjusted Rand index, mean ± sd over seeds; the data have df {DF}")
    print(shown.T.to_string())
    print("\nseconds of one data set, mean:")
    print(pd.DataFrame(seconds).mean().to_string(float_format="{:.2f}".format))
    for name in clusterings.METHODS if version else ():
        better = table["ours"] - table[name]
        print(
            f"ours less {name:22}{better.mean():7.3f}; ahead by .005 in {np.sum(better > 0.005)}, "
            f"behind in {np.sum(better < -0.005)} of {len(better)}, by {-better.min():.3f} at most"
        )


def ours(
    adata: anndata.AnnData, k: int, truth: np.ndarray
) -> tuple[dict[str, float], dict[str, float]]:
    """Index and seconds of our analysis: as it is, without spread, and given the true df."""
    row, seconds = {}, {}
    for name, settings in (("ours", Settings()), ("ours_spread_0", Settings(spread=0.0))):
        begin = time.perf_counter()
        try:
            found = ew.tl.timecourse(adata, "time", df=DFS, clusters=k, settings=settings)
        except (ew.io.InputError, np.linalg.LinAlgError) as error:
            print(f"{name} failed: {error}")
            continue
        seconds[name] = time.perf_counter() - begin
        row[name] = adjusted_rand(truth, np.asarray(found.clusters()["cluster"], int))
        if name == "ours":
            row["chosen_df"] = found.chosen
            row["ours_true_df"] = adjusted_rand(
                truth, np.asarray(found.clusters(DF)["cluster"], int)
            )
    return row, seconds


def known(adata: anndata.AnnData, truth: np.ndarray, spread: float) -> np.ndarray:
    """The likeliest cluster of each gene, given all but that: curves, shares, deviations, noise.

    What no method can pass, on average.
    """
    stage = courses.stage_of(adata, DF)
    at, u = np.asarray(adata.obs["time"], float), stage.frame.u
    curves = adata.uns["truth"]["curves"][:, np.searchsorted(adata.uns["truth"]["times"], at)]
    deviation = spread * (u.T @ spline.evaluate(spline.basis(at, DF), at))
    variance = np.asarray(adata.var["noise_sd"])[:, None, None] ** 2 * np.eye(u.shape[1])
    estimate = stage.observed(np.ones(len(at))).estimate
    precision = np.linalg.inv(variance + deviation @ deviation.T)
    weight = np.bincount(truth) / len(truth)
    of = mixture.Mixture(curves @ u, np.log(weight))
    t = mixture.terms(mixture.Observed(estimate, precision))
    return np.argmax(mixture.members(of, t).responsibility, axis=1)


def seen(adata: anndata.AnnData, df: int) -> clusterings.Given:
    """What other methods are given."""
    stage = courses.stage_of(adata, df)
    at = np.asarray(adata.obs["time"], float)
    first = [int(np.flatnonzero(at == each)[0]) for each in np.unique(at)]
    means = np.column_stack([np.mean(stage.y[:, at == each], axis=1) for each in np.unique(at)])
    estimate = stage.observed(np.ones(len(at))).estimate
    return clusterings.Given(means, estimate, estimate @ stage.frame.u[first].T)


def adjusted_rand(a: np.ndarray, b: np.ndarray) -> float:
    """Agreement of two partitions: 1 where they are the same, 0 on average by chance.

    Hubert & Arabie 1985, Journal of Classification 2, eq. 5.
    """
    table = pd.crosstab(a, b).to_numpy().astype(float)

    def pairs(n: np.ndarray) -> float:
        return float(np.sum(n * (n - 1) / 2))

    both, left, right = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    chance = left * right / pairs(np.array([len(a)]))
    return (both - chance) / ((left + right) / 2 - chance)


def choice(wanted: argparse.Namespace) -> None:
    """How often each df, and each number of clusters, is chosen."""
    rows = []
    for kind, seed in courses.problems(wanted):
        for df in wanted.df:
            adata = courses.drawn(kind, wanted, seed, df)
            k = kind["clusters"]
            found = ew.tl.timecourse(adata, "time", df=DFS, clusters=k)
            row = kind | {"seed": seed, "df": df, "chosen_df": found.chosen}
            errors = found.cv.set_index("df")
            for other in ("ij", "corrected", "train"):
                row[f"{other}_df"] = int(errors[other].idxmin())
            row |= number(adata, df, k, wanted.around)
            rows.append(row)
    table = pd.DataFrame(rows)
    if wanted.out:
        table.to_csv(wanted.out, index=False)
    for by in ("chosen_df", "corrected_df", "ij_df", "train_df"):
        print(f"\n{by}: how often, by noise, spread and true df")
        print(pd.crosstab([table["noise"], table["spread"], table["df"]], table[by]).to_string())
    for by in ("chosen_k", "ij_k", "train_k"):
        print(f"\n{by}: number of clusters less the true one, by noise and spread")
        less = (table[by] - table["clusters"]).map("{:+.0f}".format).rename("difference")
        print(pd.crosstab([table["clusters"], table["noise"], table["spread"]], less).to_string())


def number(adata: anndata.AnnData, df: int, k: int, around: int) -> dict[str, float]:
    """Number of clusters chosen among those around the truth; NaN where the analysis failed."""
    numbers = range(max(2, k - around), k + around + 1)
    try:
        found = ew.tl.timecourse(adata, "time", df=df, clusters=numbers, cv="none")
    except (ew.io.InputError, np.linalg.LinAlgError) as error:
        print(f"no number chosen of {numbers}: {error}")
        return {"chosen_k": np.nan, "ij_k": np.nan, "train_k": np.nan}
    told = found.selection.set_index("clusters")
    kinds = {f"{kind}_k": float(told[kind].idxmax()) for kind in ("ij", "train")}
    return {"chosen_k": float(len(found.fit().found.clusters.mixture.weight)), **kinds}


def folds(wanted: argparse.Namespace) -> None:
    """Agreement of predicted and exact errors by fold."""
    every = all_folds(wanted)
    if wanted.out:
        every.to_csv(wanted.out, index=False)
    fine, real = every["compared"], every["set"] == REAL
    groups = {
        "simulated, compared": every[fine & ~real],
        **{name: every[fine & (every["set"] == name)] for name in every["set"].unique()},
        "simulated, not compared": every[~fine & ~real],
        f"{REAL}, not compared": every[~fine & real],
    }
    flags = {"trusted": every["trusted"], "trusted, were nothing corrected": uncorrected(every)}
    for title, flag in flags.items():
        print(f"\nflag: {title}")
        rows = {name: agreement(part, flag[part.index]) for name, part in groups.items()}
        print(pd.DataFrame(rows).T.to_string(float_format=figures))
    print(LEGEND)
    print("\nrelative errors of compared folds that are trusted, by times left out and df")
    some = every[fine]
    off = relative(some, "ij").where(some["trusted"]).groupby([some["leave_out"], some["df"]])
    share = some["trusted"].groupby([some["leave_out"], some["df"]]).mean()
    told = pd.DataFrame({"trusted": share, "median": off.median(), "max": off.max()})
    print(told.to_string(float_format=figures))
    means = some.groupby(["set", "seed", "leave_out", "df"])[list(KINDS)].mean()
    best = means.groupby(level=[0, 1, 2]).idxmin().map(lambda place: place[-1])
    print("\nshare of sets where df is the same as by exact errors, mean of the same folds")
    print(best.eq(best["exact"], axis=0).mean().to_string(float_format=figures))


def all_folds(wanted: argparse.Namespace) -> pd.DataFrame:
    """Folds that are singular with no df, of simulated sets and the real one."""
    tables = []
    for kind, seed in courses.problems(wanted):
        adata = courses.drawn(kind, wanted, seed)
        name = f"{kind['clusters']} clusters, noise {kind['noise']}, spread {kind['spread']:g}"
        table = without(adata, "time", kind["clusters"], Settings(information=0.0), None)
        tables.append(table.assign(set=name, seed=seed))
    folder = ew.datasets.data_folder()
    if folder is not None:
        adata = ew.io.read_expression(
            folder / "shoemaker500_expr.csv.gz",
            folder / "shoemaker500_metadata.csv",
            where={"Group": "C"},
        )
        settings = Settings(indicators=LATE, information=0.0)
        table = without(adata, "Timepoint", 10, settings, EARLY)
        tables.append(table.assign(set=REAL, seed=0))
    every = pd.concat(tables, ignore_index=True)
    least = every.groupby(["set", "seed", "leave_out", "left_out"])["conditioning"].transform("min")
    every["compared"] = least >= DEFAULTS.information
    found = every[every["exact"].notna()].reset_index(drop=True)
    print(f"{len(every) - len(found)} of {len(every)} folds have no refit")
    return found.astype({"trusted": bool})


def without(
    adata: anndata.AnnData, at: str, k: int, settings: Settings, among: Sequence[float] | None
) -> pd.DataFrame:
    """Folds of one and of two time points, for every df."""
    return ew.tl.timecourse(
        adata, at, df=DFS, clusters=k, leave_out=(1, 2), among=among, settings=settings
    ).folds


def figures(x: float) -> str:
    """Two digits of a share, all of a number."""
    return f"{x:.2g}" if abs(x) < 100 else f"{x:,.0f}"


def uncorrected(refit: pd.DataFrame) -> pd.Series:
    """The flag that an analysis without correction would have given."""
    return (
        (refit["conditioning"] >= timecourse.LEFT)
        & (refit["curvature"] > 0)
        & (refit["ratio"] <= timecourse.RATIO)
    )


def relative(folds: pd.DataFrame, kind: str) -> pd.Series:
    """Distance from the exact error, as a share of it."""
    return (folds[kind] - folds["exact"]).abs() / folds["exact"]


def agreement(folds: pd.DataFrame, flag: pd.Series) -> dict[tuple[str, str], float]:
    """Correlations, and quantiles of relative errors of trusted folds and others."""
    row: dict[tuple[str, str], float] = {("", "folds"): len(folds), ("", "trusted"): flag.mean()}
    for kind in ("ij", "corrected"):
        some = folds[flag]
        row[kind, "r"] = correlation(some[kind], some["exact"])
        row[kind, "rise"] = correlation(some[kind] - some["train"], some["exact"] - some["train"])
        off = relative(folds, kind)
        for name, some in (("", off[flag]), ("not ", off[~flag])):
            row[kind, f"{name}50 %"] = some.quantile(0.5)
            row[kind, f"{name}90 %"] = some.quantile(0.9)
            row[kind, f"{name}max"] = some.max()
        row[kind, "bad"] = (off >= BAD).mean()
        row[kind, "caught"] = (~flag)[off >= BAD].mean()
    return row


def correlation(a: pd.Series, b: pd.Series) -> float:
    """Pearson's; NaN of fewer than three."""
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 else np.nan
