"""Random contrasts said in every way there is, releveled and refitted too.

Prints, for each way, how far natural logarithms of p-values are from those of the first way, over
all contrasts, genes and alternatives (the largest and 1 in 10,000, also divided by
max(-log p, .1)), how far fold changes are (standard errors), and how many genes are left
out: without counts in the samples compared by only one way's rule. Then, of the genes that move
most, mean, statuses and dispersions. The data are pasilla and fission, of the folder
``EXPRESSWAY_DATA``.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import expressway as ew

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import contrast_ways

REAL = {
    "pasilla": (
        "~ type + condition",
        [{}, {"condition": "untreated"}, {"type": "single-read"}],
    ),
    "fission": (
        "~ strain * C(minute)",
        [{"strain": "wt"}, {"strain": "mut"}, {"strain": "wt", "minute": "60"}],
    ),
}


def main() -> None:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contrasts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=REAL)
    wanted = parser.parse_args()
    folder = Path(os.environ["EXPRESSWAY_DATA"])
    for name, (formula, references) in REAL.items():
        if wanted.only in (None, name):
            adata = ew.io.read_counts(
                folder / f"{name}_counts.csv.gz", folder / f"{name}_metadata.csv"
            )
            adata = adata[:, np.asarray(adata.X.sum(axis=0)).ravel() > 0].copy()
            report(name, adata, formula, references, wanted)


def report(name: str, adata: Any, formula: str, references: list, wanted: Any) -> None:
    """Fit, compare, print."""
    begin = time.perf_counter()
    fitted = contrast_ways.fits(adata, formula, references)
    seconds = time.perf_counter() - begin
    print(f"\n{name} {formula}: {adata.shape}, {len(references)} fits in {seconds:.0f} s")
    rng = np.random.default_rng(wanted.seed)
    found = []
    for ways in contrast_ways.contrasts(fitted, wanted.contrasts, wanted.seed):
        found += contrast_ways.compare(fitted, ways, float(rng.uniform(0.2, 1.5)))
    print(table(found).to_string())
    worst(fitted, found)


def table(found: list[contrast_ways.Difference]) -> pd.DataFrame:
    """A row a way."""
    rows = {}
    for way in dict.fromkeys(one.way for one in found):
        some = [one for one in found if one.way == way]
        moved = np.abs(np.concatenate([one.log_p for one in some]))
        log = np.abs(np.concatenate([one.log for one in some]))
        known = np.isfinite(moved)
        relative = moved[known] / np.maximum(log[known], 0.1)
        change = np.abs(np.concatenate([one.change for one in some]))
        rows[way] = {
            "p-values": known.sum(),
            "log p: largest": moved[known].max(),
            "99.99 %": np.quantile(moved[known], 0.9999),
            "relative: largest": relative.max(),
            "99.99 % ": np.quantile(relative, 0.9999),
            "estimate/se: largest": np.nanmax(change),
            "excepted": sum(one.excepted for one in some),
        }
    return pd.DataFrame(rows).T


def worst(fitted: list, found: list[contrast_ways.Difference]) -> None:
    """The genes that move most."""
    moves = [np.nan_to_num(one.log_p) for one in found if one.way.startswith("releveled")]
    moved = np.max(np.abs(moves), axis=0)
    genes = ew.io.genes_table(fitted[0].fit, fitted[0].genes)
    for gene in np.argsort(-moved)[:8]:
        values = [one.fit.gene.dispersion[gene] for one in fitted]
        about = genes.iloc[gene][["base_mean", "dispersion_status", "coefficients_status", "boxed"]]
        print(f"{moved[gene]:.2e}", genes.index[gene], *about, *(f"{v:.10g}" for v in values))


if __name__ == "__main__":
    main()
