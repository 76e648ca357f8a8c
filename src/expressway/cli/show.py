"""What the terminal shows after a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from expressway import io
from expressway.run import Ledger

from .ends import error_console, say
from .folder import Tested, tested_how

TOP = 10
# Columns where there is no terminal to fit: names of genes stay whole.
_WIDE = 200
# Each status and what it means, in the order shown; the first two always, others if there are any.
_STATUSES = {
    "outlier": "no p-value",
    "low_count": "filtered, no adjusted p",
    "no_counts": "none in the samples compared",
    "separated": "a group has no counts",
    "replaced": "outlying counts, refitted",
    "at_bound": "dispersion or coefficient",
    "not_converged": "do not use",
}


def summary(adata: anndata.AnnData, tested: Sequence[Tested], source: str, out: Path) -> None:
    """Counts of genes and the strongest ones of each contrast."""
    console = Console(highlight=False)
    stored = adata.uns["de"]
    size = f"{adata.n_vars:,} genes x {stored['samples']} samples"
    say(console, f"{source}: {size}, {stored['design']}")
    for one in tested:
        how = tested_how(stored)
        say(console, f"\n{one.name}{'' if how == 'Wald' else f': {how}'}", "bold")
        _counts(console, one.table, float(stored["settings"]["alpha"]))
        _strongest(console, one.table)
    memory = io.peak_memory()
    at_most = "" if memory is None else f"; at most {memory:,.0f} MB of memory"
    say(console, f"\nresults in {out}{at_most}")


def survival(moved: Mapping[str, pd.DataFrame]) -> None:
    """How many calls would survive without any single sample, of each file of influences."""
    console = Console(highlight=False)
    for name, table in moved.items():
        survive = int((table["call"] == "survives").sum())
        lost = int(table["call"].str.startswith("lost").sum())
        called = survive + lost
        say(console, f"{name}: {survive:,} of {called:,} calls survive without any single sample")


def ranked(found: Mapping[str, pd.DataFrame], top: int) -> None:
    """How sure it is which genes change most, of each table of intervals by name of its file."""
    console = Console(highlight=False)
    for name, table in found.items():
        sure = [int((table["probability_top"] > limit).sum()) for limit in (0.9, 0.5)]
        text = f"are among the {top:,} largest fold changes with a probability above"
        say(console, f"{name}: {sure[0]:,} genes {text} .9, {sure[1]:,} above .5")


def excess(memory: str | None) -> None:
    """Say so where a run took more memory than it was allowed."""
    taken = io.peak_memory()
    if memory is not None and taken is not None and taken * 1e6 > io.parse_bytes(memory):
        text = f"warning: the run took {taken:,.0f} MB of memory, more than --memory {memory}"
        say(error_console, text, "yellow")


def _counts(console: Console, table: pd.DataFrame, alpha: float) -> None:
    """Genes up, down, outlying, filtered and doubtful."""
    found = io.tally(table, alpha)
    tested = found["tested"]
    numbers = {"up": found["up"], "down": found["down"]}
    for status, label in _STATUSES.items():
        number = found.get(status, 0)
        if number or status in ("outlier", "low_count"):
            numbers[f"{status} ({label})"] = number
    say(console, f"{tested:,} genes with counts; adjusted p < {alpha:g}:")
    for label, number in numbers.items():
        say(console, f"  {label:40} {number:>7,}  {number / max(tested, 1):6.1%}")


def _strongest(console: Console, table: pd.DataFrame) -> None:
    """The genes with the smallest p-values."""
    best = table.assign(size=-np.abs(table["stat"])).sort_values(["p_value", "size"])
    best = best[best["p_value"].notna()].head(TOP)
    if best.empty:
        return
    decimals = _decimals(pd.Series(best["lfc_se"]))
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    shown.add_column("gene", no_wrap=True)
    for column in ("mean", "log2 FC", "SE", "p", "adj. p"):
        shown.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    shown.add_column("status", no_wrap=True)
    for gene, row in best.iterrows():
        shown.add_row(
            str(gene),
            f"{row['base_mean']:,.1f}",
            f"{row['log2_fold_change']:+.{decimals}f}",
            f"{row['lfc_se']:.{decimals}f}",
            f"{row['p_value']:.2e}",
            "-" if np.isnan(row["p_adj"]) else f"{row['p_adj']:.2e}",
            str(row["status"]),
        )
    console.print(shown, markup=False, width=None if console.is_terminal else _WIDE)


def _decimals(se: pd.Series) -> int:
    """Decimals that show two digits of the smallest standard error; three to eight."""
    positive = se[se > 0]
    return int(np.clip(1 - np.floor(np.log10(positive.min())), 3, 8)) if len(positive) else 3


def rounds(ledger: Ledger) -> None:
    """Rounds and bytes of an analysis across sites."""
    console = Console(highlight=False)
    up, down = (sum(part.values()) / 1e6 for part in (ledger.up, ledger.down))
    say(console, f"{ledger.round} rounds; {up:,.1f} MB from the sites, {down:,.1f} MB to them")
