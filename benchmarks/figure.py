"""Time against samples and against genes, from tables that de.py saved."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

# Okabe and Ito's palette for the colour-blind (2008), their black for expressway.
COLOURS = {
    "expressway": "#000000",
    "deseq2": "#D55E00",
    "deseq2_glmgampoi": "#E69F00",
    "edger_ql": "#0072B2",
    "glmgampoi": "#009E73",
    "limma_voom": "#56B4E9",
    "pydeseq2": "#CC79A7",
    "delnx": "#999999",
}
DASHES = {"cold": "-", "cached": "--", "warm": ":"}
SIZES = {"samples": "genes", "genes": "samples"}
TIMES = {"wall_s": "whole process", "fit_wall_s": "fit"}


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", type=Path, help="file to draw into: png, pdf or svg")
    parser.add_argument("tables", type=Path, nargs="+", help="de.csv of one run or of several")
    wanted = parser.parse_args()
    draw(wanted.tables).savefig(wanted.figure)


def draw(tables: Sequence[Path]) -> Figure:
    """Panels for the whole process above, for the fit below; against samples left, genes right.

    Against samples at the number of genes that was tried with most of them, and likewise; left
    out where only one was tried.
    """
    table = pd.concat([pd.read_csv(path) for path in tables])
    sizes = {size: other for size, other in SIZES.items() if table[size].nunique() > 1} or SIZES
    figure = Figure(figsize=(1 + 3.5 * len(sizes), 7), dpi=150, layout="constrained")
    panels = figure.subplots(2, len(sizes), sharex="col", sharey="row", squeeze=False)
    for down, (time, what) in enumerate(TIMES.items()):
        for across, (size, other) in enumerate(sizes.items()):
            ax = panels[down, across]
            most = table.groupby(other)[size].nunique().idxmax()
            _lines(ax, table.loc[table[other] == most], size, time)
            ax.set_title(f"{what}, {most:,} {other}", fontsize=9)
            ax.set_ylabel("" if across else "seconds")
            ax.set_xlabel(size if down else "")
    entries = {}
    for ax in panels.flat:
        handles, names = ax.get_legend_handles_labels()
        entries |= dict(zip(names, handles, strict=True))
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=2 * len(sizes),
        frameon=False,
        fontsize=8,
    )
    return figure


def _lines(ax: Axes, table: pd.DataFrame, size: str, time: str) -> None:
    """One line a program and kind of run."""
    measured = table.dropna(subset=time)
    for program, run in measured[["program", "run"]].drop_duplicates().itertuples(index=False):
        own = measured.loc[(measured["program"] == program) & (measured["run"] == run)]
        middle = own.groupby(size)[time].median()  # of several tables
        look = f"o{DASHES[run]}"
        name = f"{program}, {run}"
        ax.plot(middle.index, middle, look, color=COLOURS[program], markersize=4, label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    tried = sorted(table[size].unique())
    ax.set_xticks(tried, [f"{number:,}" for number in tried])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
