"""What the terminal shows of a clustering along pseudotime."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from expressway import io
from expressway._types import Float
from expressway.clustering import Clusters

from .cluster_folder import Wanted, numbers, statuses
from .ends import say

# Rows of the table of modules, and sizes of clusters named for a coordinate.
TOP, SIZES = 10, 6
# Share of a curve's range (natural logarithm) by which it may turn and still only rises or falls.
TURN = 0.1
# A curve whose range is less is flat.
FLAT = 0.1


def shape(mean: Float[np.ndarray, "m"]) -> str:
    """What a mean curve does: flat, up, down, peak, dip, or nothing where it is none of these."""
    value = np.log(mean)
    reach = float(np.ptp(value))
    if reach < FLAT:
        return "flat"
    turn = TURN * reach
    for sign, ways in ((1.0, ("up", "peak")), (-1.0, ("down", "dip"))):
        own = sign * value
        top = int(np.argmax(own))
        rising = np.max(np.maximum.accumulate(own[: top + 1]) - own[: top + 1]) <= turn
        falling = np.max(np.maximum.accumulate(own[top:][::-1]) - own[top:][::-1]) <= turn
        ends = own[top] - own[0] > turn, own[top] - own[-1] > turn
        if rising and falling and ends[0]:
            return ways[1] if ends[1] else ways[0]
    return ""


def summary(found: Clusters, wanted: Wanted, out: Path, warned: int) -> None:
    """What was found, in one screen."""
    console = Console(highlight=False)
    data, source = found.data, wanted.source
    name = Path(source.get("resume") or source["counts"]).name
    along = f" along {', '.join(source['along'])}" if source["along"] else ""
    say(console, f"{name}: {len(data.genes):,} genes x {len(data.samples):,} samples{along}")
    if others := {status: n for status, n in statuses(found).items() if status != "ok"}:
        say(console, "not clustered: " + ", ".join(f"{n:,} {s}" for s, n in others.items()))
    condition = f"of condition number {data.frame.condition:.3g}"
    then = ", made orthonormal" if data.frame.orthonormal else ""
    say(console, f"basis: {data.shape} columns {condition}{then}")

    say(console, "\nnumbers of clusters", "bold")
    modules = found.modules()["module"].dropna()
    sizes = {c: t["label"].value_counts() for c, t in found.clusters().groupby("coefficient")}
    sizes["modules"] = modules.value_counts()
    rows = [(c, f"{n}", _sizes(sizes[c])) for c, n in numbers(found).items()]
    _table(console, ("", "clusters", "genes in each"), rows)

    curves = found.curves([]).query("kind == 'module'")
    size = sizes["modules"].sort_index()
    largest = f" (the {TOP} largest)" if len(size) > TOP else ""
    say(console, f"\nmodules{largest}", "bold")
    lineages = [rows.lineage for rows in data.curves]
    rows = []
    for module, number in size.head(TOP).items():
        row = [f"{module}", f"{number:,}"]
        for lineage in lineages:
            own = curves[(curves["name"] == str(module)) & (curves["lineage"] == lineage)]
            mean = np.asarray(own["mean"], dtype=float)
            fold = float(np.max(mean) / np.min(mean))
            row.append(f"{f'{fold:.1f}' if fold < 1000 else '> 1000':>6}  {shape(mean)}")
        rows.append(tuple(row))
    _table(console, ("", "genes", *(name or "  fold  shape" for name in lineages)), rows)
    sure = float(np.mean(found.modules()["probability"].dropna() > 0.9))
    say(console, f"{sure:.0%} of the genes have one module with probability above .9")
    if len(lineages) > 1:
        say(console, "of each lineage: the largest over the smallest mean, and the shape")
    if warned:
        say(console, f"\n{warned} warning{'s' if warned > 1 else ''}: above, and in run.json")
    memory = io.peak_memory()
    at_most = "" if memory is None else f"; at most {memory:,.0f} MB of memory"
    say(console, f"\nresults in {out}{at_most}")


def _sizes(counted: pd.Series) -> str:
    """Sizes of clusters, the largest first."""
    most = counted.sort_values(ascending=False)
    more = len(most) - SIZES
    said = [f"{n:,}" for n in most.head(SIZES)]
    return ", ".join(said) + (f" and {more} smaller" if more > 0 else "")


def _table(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Words and numbers in columns; texts stand at the left, numbers at the right."""
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in head:
        right = name in ("clusters", "genes")
        shown.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    console.print(shown, markup=False)
