"""What the terminal shows after a run."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

TOP = 10


def summary(adata: anndata.AnnData, tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Warnings, counts of genes and the strongest ones of each contrast."""
    console = Console(highlight=False)
    stored = adata.uns["de"]
    for warning in stored["warnings"]:
        console.print("warning:", warning, markup=False, style="yellow")
    if stored["trend"]["kind"] == "mean":
        console.print(
            "warning: the dispersion trend a0 + a1 / mean does not fit these genes; "
            "the mean dispersion was used for all",
            style="yellow",
        )
    for name, table in tables.items():
        _counts(console, name, table, float(stored["settings"]["alpha"]))
        _strongest(console, table)
    console.print(f"\nresults in {out}", markup=False)


def _counts(console: Console, name: str, table: pd.DataFrame, alpha: float) -> None:
    """Genes up, down, outlying and filtered."""
    tested = int((table["base_mean"] > 0).sum())
    called = table["p_adj"] < alpha
    up = int((called & (table["log2_fold_change"] > 0)).sum())
    down = int((called & (table["log2_fold_change"] < 0)).sum())
    console.print(f"\n{name}", style="bold", markup=False)
    console.print(f"{len(table):,} genes, {tested:,} with counts; adjusted p-value < {alpha:g}:")
    for label, number in (
        ("up", up),
        ("down", down),
        ("outliers (no p-value)", int((table["status"] == "outlier").sum())),
        ("low counts (filtered)", int((table["status"] == "low_count").sum())),
    ):
        console.print(f"  {label:22} {number:>7,}  {number / max(tested, 1):6.1%}")


def _strongest(console: Console, table: pd.DataFrame) -> None:
    """The genes with the smallest p-values."""
    best = table.assign(size=-np.abs(table["stat"])).sort_values(["p_value", "size"])
    best = best[best["p_value"].notna()].head(TOP)
    if best.empty:
        return
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    shown.add_column("gene")
    for column in ("base mean", "log2 fold change", "SE", "p", "adjusted p"):
        shown.add_column(column, justify="right")
    shown.add_column("status")
    for gene, row in best.iterrows():
        shown.add_row(
            str(gene),
            f"{row['base_mean']:,.1f}",
            f"{row['log2_fold_change']:+.3f}",
            f"{row['lfc_se']:.3f}",
            f"{row['p_value']:.2e}",
            f"{row['p_adj']:.2e}",
            str(row["status"]),
        )
    console.print(shown)
