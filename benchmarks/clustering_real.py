"""paul15: modules along one pseudotime beside cell types, association along two lineages beside R.

Needs the data folder (``EXPRESSWAY_DATA``); R with edgeR, glmGamPoi and mgcv for what stands beside
ours: the quasi-likelihood tests have our design, mgcv has splines of its own, fitted and tested in
tradeSeq's way (`rivals/association_mgcv.R`).
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import clustering_cases as cases
import numpy as np
import pandas as pd
from measure import Failed, measure

import expressway as ew
from expressway.clustering import Clusters
from expressway.models.multiple_testing import benjamini_hochberg

LIMIT = 1800.0
CALLED = 0.05
TIMES, WEIGHTS = ["pseudotime1", "pseudotime2"], ["weight1", "weight2"]
RIVALS = ("edger", "glmgampoi", "mgcv")
# Modules with fewer genes are left out of the table of cell types, not of the shares below it.
SHOWN = 10


def add_options(commands: Any) -> None:
    """Add ``real``."""
    one = commands.add_parser("real")
    one.add_argument("--genes", type=int, help="of paul15 at most; 0 to leave it out")
    one.add_argument("--lineage-genes", type=int, help="of the 240 at most; 0 to leave them out")
    one.add_argument("--basis", default="rbf:3", help="of each lineage")
    one.add_argument("--smooths", type=int, default=60, help="genes that mgcv is given")
    one.add_argument("--rivals", nargs="*", default=RIVALS, choices=RIVALS)


def real(wanted: argparse.Namespace) -> None:
    """Tables of both data sets."""
    folder = ew.datasets.data_folder()
    if folder is None:
        sys.exit("no data folder: name it by EXPRESSWAY_DATA")
    if wanted.genes != 0:
        one_lineage(folder, wanted)
    if wanted.lineage_genes != 0:
        two_lineages(folder, wanted)


def paul15(folder: Path, genes: int | None) -> anndata.AnnData:
    """Counts along Monocle's pseudotime, of all genes or of so many."""
    return some(
        ew.io.read_counts(folder / "paul15_counts.csv.gz", folder / "paul15_metadata.csv"), genes
    )


def some(adata: anndata.AnnData, genes: int | None) -> anndata.AnnData:
    """So many genes at equal distances."""
    if genes is None or genes >= adata.n_vars:
        return adata
    return adata[:, np.linspace(0, adata.n_vars - 1, genes).astype(int)].copy()


def run(adata: anndata.AnnData, along: str | Sequence[str], **choices: Any) -> Clusters:
    """Our analysis, printing what it costs and how many clusters it finds."""
    cases.forget_peak()
    begin = time.perf_counter()
    found = ew.tl.cluster(adata, along, **choices)
    wall = time.perf_counter() - begin
    cells, genes = adata.shape
    print(f"\n{genes} genes x {cells} cells: {wall:.1f} s, peak {ew.io.peak_memory():.0f} MB")
    print(pd.Series(found.data.status).value_counts().to_string())
    cases.shown(pd.DataFrame(dict(found.seconds)).T, "seconds by stage")
    last = [kind for kind, _, _ in found.found.bounds].count("refresh")
    print(f"refreshes: {last}; starts of modules: {len(found.joint.starts)}")
    print("clusters:", ", ".join(f"{name} {k}" for name, k in found.numbers().items()))
    return found


def one_lineage(folder: Path, wanted: argparse.Namespace) -> None:
    """Clusters of paul15, its modules beside cell types."""
    adata = paul15(folder, wanted.genes)
    found = run(adata, "Pseudotime", basis=wanted.basis)
    every, own = peaks(found, adata.obs["cell_type2"].astype(str))
    large = every[every["genes"] >= SHOWN]
    cases.shown(large, f"modules of {SHOWN} genes or more: mean z-score of log counts by cell type")
    module = own["module"].to_numpy()
    rng = np.random.default_rng(0)
    by_chance = [share(own, rng.permutation(module)) for _ in range(20)]
    print(
        f"genes that are highest in the cell type where their module is: {share(own, module):.3f}"
        f" (modules permuted: {np.mean(by_chance):.3f})"
    )
    if wanted.out:
        every.to_csv(wanted.out)


def peaks(found: Clusters, kind: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of modules, and of genes, mean z-scores by cell type, where they are highest, and when."""
    of = found.counts()
    logs = np.log1p(of.y * np.exp(-of.offset))
    z = (logs - logs.mean(axis=1, keepdims=True)) / logs.std(axis=1, keepdims=True)
    kinds = sorted(kind.unique())
    mean = np.column_stack([z[:, (kind == one).to_numpy()].mean(axis=1) for one in kinds])
    genes = pd.DataFrame(mean, [found.data.genes[i] for i in found.data.used], kinds)
    module = found.modules()["module"].loc[genes.index].astype(int)
    by = genes.groupby(module)
    modules = by.mean()
    curve = found.curves([])
    curve = curve[curve["kind"] == "module"]
    at = curve.loc[curve.groupby("name")["mean"].idxmax()].set_index("name")["time"]
    modules["highest_in"] = modules[kinds].idxmax(axis=1)
    modules["highest_at"] = [at[str(name)] for name in modules.index]
    modules.insert(0, "genes", by.size())
    return modules, genes.assign(highest_in=genes.idxmax(axis=1), module=module)


def share(genes: pd.DataFrame, module: np.ndarray) -> float:
    """Share of genes that are highest in the cell type where most z-score of their module is."""
    kinds = genes.columns.drop(["highest_in", "module"])
    where = genes[kinds].groupby(module).mean().idxmax(axis=1)
    return float(np.mean(genes["highest_in"].to_numpy() == where.loc[module].to_numpy()))


def two_lineages(folder: Path, wanted: argparse.Namespace) -> None:
    """Clusters along two lineages; tests of association beside those of others."""
    adata = some(
        ew.io.read_counts(folder / "paul15_240_counts.csv.gz", folder / "paul15_240_slingshot.csv"),
        wanted.lineage_genes,
    )
    choices = {"basis": wanted.basis, "weights": WEIGHTS}
    found = run(adata, TIMES, **choices)
    begin = time.perf_counter()
    tested = found.association().query("status == 'ok'")
    print(f"association: {time.perf_counter() - begin:.1f} s, df {tested['df'].iloc[0]}")
    permuted = adata.copy()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    for name in (*TIMES, *WEIGHTS):
        permuted.obs[name] = adata.obs[name].to_numpy()[order]
    by_chance = ew.tl.cluster(permuted, TIMES, size_factors=sizes(found), **choices)
    p = by_chance.association()["p_value"].dropna()
    print(f"cells permuted: p < .05 {np.mean(p < 0.05):.3f}, p < .01 {np.mean(p < 0.01):.3f}")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for rival in wanted.rivals:
            chosen = tested
            if rival == "mgcv":  # a second a gene or more: of all ranks
                order = tested.sort_values("statistic").index
                at = np.linspace(0, len(order) - 1, min(wanted.smooths, len(order))).astype(int)
                chosen = tested.loc[sorted(order[at])]
            try:
                table, seconds = of_rival(rival, found, adata, chosen.index, Path(scratch))
            except (Failed, FileNotFoundError) as error:
                print(f"{rival}: {error}")
                continue
            for kind in table.columns.drop(["p_value"]):
                row = {"by": rival, "statistic": kind, "genes": len(table), "wall_s": seconds}
                rows.append(row | compared(chosen, table, kind))
            if wanted.out:
                both = chosen.join(table, rsuffix=f"_{rival}")
                both.to_csv(wanted.out.with_stem(f"{wanted.out.stem}_{rival}"))
    if rows:
        cases.shown(pd.DataFrame(rows).set_index(["by", "statistic"]), "association beside others")


def sizes(found: Clusters) -> np.ndarray:
    """Size factors of the samples."""
    return np.exp(found.counts().offset)


def of_rival(
    rival: str, found: Clusters, adata: anndata.AnnData, genes: pd.Index, scratch: Path
) -> tuple[pd.DataFrame, float]:
    """Statistics of another program with the same counts, size factors and design; its seconds."""
    table = pd.DataFrame(np.asarray(adata[:, genes].X).T, genes, adata.obs_names)
    table.to_csv(scratch / "counts.csv")
    design = found.data.frame.z
    names = [f"z{i}" for i in range(design.shape[1])]
    pd.DataFrame(design, adata.obs_names, names).to_csv(scratch / "design.csv")
    obs = adata.obs[[*TIMES, *WEIGHTS]].assign(size_factor=sizes(found))
    obs.to_csv(scratch / "samples.csv")
    rivals = Path(__file__).with_name("rivals")
    out = scratch / f"{rival}.csv"
    command = ["Rscript", rivals / "association.R", rivals / f"association_{rival}.R", scratch, out]
    cost = measure(command, scratch / "log", LIMIT, os.environ)
    return pd.read_csv(out, index_col="gene").loc[genes], cost.wall_s


def compared(ours: pd.DataFrame, theirs: pd.DataFrame, kind: str) -> dict[str, float]:
    """Rank correlation of statistics; genes with association by ours, by theirs, by both.

    Calls are at a false discovery rate of 5 % among the genes compared.
    """
    mine = benjamini_hochberg(ours["p_value"].to_numpy()) < CALLED
    other = benjamini_hochberg(theirs["p_value"].to_numpy()) < CALLED
    return {
        "spearman": ours["statistic"].corr(theirs[kind], method="spearman"),
        "ours": int(np.sum(mine)),
        "theirs": int(np.sum(other)),
        "both": int(np.sum(mine & other)),
    }
