"""`make demo`: the main job on simulated data with known truth, and on airway where it is."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from expressway import datasets, io, tl

console = Console(highlight=False)


def main() -> None:
    """Run both and print what was found."""
    simulated()
    folder = datasets.data_folder()
    if folder is None or not (folder / "airway_counts.csv.gz").is_file():
        console.print("\nairway: no data folder here; set EXPRESSWAY_DATA to one to run it")
        return
    airway(folder)


def simulated() -> None:
    """Recover known truth at several false-discovery rates."""
    adata = datasets.simulate(genes=10_000, samples=12, batches=2, outliers=50, seed=1)
    console.print(f"simulated: {adata.n_vars:,} genes x {adata.n_obs} samples, ~ batch + condition")
    start = time.perf_counter()
    table = tl.de(adata, "~ batch + condition", ("condition", "treated", "control"))
    console.print(f"fitted and tested in {time.perf_counter() - start:.1f} s (with compilation)")
    truth = adata.var["is_de"].to_numpy()
    console.print(f"{truth.sum():,} genes truly change; found at which false-discovery rate:")
    for rate in (0.01, 0.05, 0.1):
        called = (table["p_adj"] < rate).to_numpy()
        right = int((called & truth).sum())
        false = 1 - right / max(called.sum(), 1)
        console.print(
            f"  adjusted p < {rate:<4}: {called.sum():5,} called, {right:5,} of them true "
            f"({right / truth.sum():.0%}), {false:.1%} false"
        )


def airway(folder: Path) -> None:
    """Dexamethasone in airway cells (Himes et al. 2014)."""
    adata = io.read_counts(folder / "airway_counts.csv.gz", folder / "airway_metadata.csv")
    console.print(f"\nairway: {adata.n_vars:,} genes x {adata.n_obs} samples, ~ cell + dex")
    start = time.perf_counter()
    table = tl.de(adata, "~ cell + dex", ("dex", "trt", "untrt"))
    seconds = time.perf_counter() - start
    called = table.loc[table["p_adj"] < 0.1]
    up = int(np.sum(called["log2_fold_change"] > 0))
    console.print(
        f"fitted and tested in {seconds:.1f} s: {len(called):,} genes at adjusted p < .1, "
        f"{up:,} up and {len(called) - up:,} down"
    )
    columns = ["base_mean", "log2_fold_change", "p_value", "p_adj"]
    with pd.option_context("display.width", 100):
        console.print(called.sort_values("p_value").head(5)[columns].to_string(), markup=False)


if __name__ == "__main__":
    main()
