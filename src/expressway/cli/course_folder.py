"""The folder of results of a time-course analysis, and what the terminal shows of it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from expressway import io
from expressway.timecourse import Courses

from . import folder
from .ends import say

# Genes in the figure of curves, where none are named.
SHOWN = 12
DRAWS = 20
# Rows of the terminal's tables.
TOP = 10


def expect(adata: anndata.AnnData, genes: Sequence[str]) -> None:
    """Import what draws figures meanwhile, and refuse genes that there are not.

    Raises
    ------
    InputError
        A gene to draw is not in the data.
    """
    folder.expect_figures()
    if unknown := [name for name in genes if name not in adata.var_names]:
        msg = f"--genes: there is no gene {', '.join(unknown)}"
        raise io.InputError(msg)


def write(
    found: Courses,
    genes: Sequence[str],
    scratch: Path,
    clock: io.Clock,
    inputs: Mapping[str, Any],
    watch: Callable[[str], None],
) -> None:
    """Write everything into a folder."""
    with clock.stage("curves"):
        curves, influence, clusters = found.curves(), found.influence(), found.clusters()
    watch("writing")
    with clock.stage("tables"):
        tables = {
            "cv": found.cv,
            "folds": found.folds,
            "curves": curves,
            "influence": influence,
            "starts": found.starts,
            "selection": found.selection,
        }
        for name, table in tables.items():
            if len(table):
                table = table.set_index(table.columns[0])
                io.write_table(table, scratch / f"{name}.csv")
        io.write_table(clusters, scratch / "clusters.csv")
        io.write_table(found.differential, scratch / "differential.csv")
        found.save(scratch / "fit.npz")
    with clock.stage("figures"):
        (scratch / "figures").mkdir()
        _draw(found, list(genes) or _strongest(found), curves, influence, scratch / "figures")
    names = [
        str(path.relative_to(scratch).as_posix()) for path in scratch.rglob("*.*") if path.is_file()
    ]
    record = _record(found, clock, inputs) | {"files": sorted([*names, "run.json"])}
    io.write_json(record, scratch / "run.json")


def _strongest(found: Courses) -> list[str]:
    """Genes whose curves change most surely, of those that have one."""
    has = found.clusters()["cluster"].notna()
    table = found.differential[has.to_numpy()]
    column = next(c for c in ("moderated_p_value_time", "p_value_time") if c in table)
    order = np.argsort(np.asarray(table[column], float), kind="stable")
    return [str(table.index[i]) for i in order[:SHOWN]]


def _draw(
    found: Courses, genes: list[str], curves: pd.DataFrame, influence: pd.DataFrame, to: Path
) -> None:
    """Write the figures."""
    from expressway import pl  # after the analysis: a refusal need not wait for matplotlib

    times = np.unique(found.data.plan.time)
    groups = list(found.data.plan.groups)
    own = _where(curves, "group", groups)
    unit = "log2 normalised count" if found.data.counts else "expression"
    drawn: dict[str, Any] = {f"basis_df{df}": pl.basis(found.basis(df), times) for df in found.fits}
    drawn["curves"] = pl.curves(
        _where(_where(own, "kind", ["gene"]), "name", genes),
        found.values(genes),
        found.draws(genes, DRAWS),
        ylabel=unit,
    )
    drawn["clusters"] = pl.clusters(
        _where(own, "kind", ["cluster"]),
        found.members(),
        times=times,
        sizes=found.sizes(),
        ylabel=f"centred {unit}",
    )
    if len(found.cv) and _shown(found.cv):
        error = (
            "deviance"
            if found.data.counts and found.settings.error == "squared"
            else (found.settings.error)
        )
        drawn["cross_validation"] = pl.cross_validation(found.cv, error=error)
        if "exact" in _shown(found.cv):
            drawn["fold_errors"] = pl.fold_errors(found.folds.query("comparable"), error=error)
    for kind in dict.fromkeys(influence["kind"] if len(influence) else []):
        drawn[f"influence_{kind}"] = pl.cluster_influence(influence, kind=kind)
    for name, axes in drawn.items():
        first = np.ravel(np.asarray(axes, dtype=object))[0]
        first.get_figure(root=True).savefig(to / f"{name}.png")


def _where(table: pd.DataFrame, column: str, values: Sequence[str]) -> pd.DataFrame:
    """Rows that have one of some values."""
    return pd.DataFrame(table[np.isin(np.asarray(table[column], str), values)])


def _record(found: Courses, clock: io.Clock, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, versions, what was chosen and certified, and what it cost."""
    memory = io.peak_memory()
    status = pd.Series(found.fit().status).value_counts()
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": io.versions(),
        **inputs,
        "samples": len(found.data.plan.time),
        "genes": len(found.data.genes),
        "groups": list(found.data.plan.groups),
        "status": {str(name): int(number) for name, number in status.items()},
        "settings": found.settings._asdict(),
        "chosen": {
            "df": found.chosen,
            "clusters": len(found.fit().found.clusters.mixture.weight),
        },
        "fits": {
            str(df): {
                "basis": one.basis._asdict(),
                "objective": one.found.clusters.objective,
                "certificate": one.found.clusters.certificate._asdict(),
            }
            for df, one in found.fits.items()
        },
        "seconds": folder.seconds(clock.seconds, dict(found.seconds)),
        "peak_memory_mb": None if memory is None else round(memory, 1),
    }


def summary(found: Courses, source: str, out: Path) -> None:
    """What was found, in one screen."""
    console = Console(highlight=False)
    of = found.data
    groups = f", {len(of.plan.groups)} groups" if len(of.plan.groups) > 1 else ""
    size = f"{len(of.genes):,} genes x {len(of.plan.time)} samples"
    say(console, f"{source}: {size}, {len(np.unique(of.plan.time))} times{groups}")
    one = found.fit()
    other = {name: n for name, n in pd.Series(one.status).value_counts().items() if name != "ok"}
    if other:
        said = ", ".join(f"{n:,} {name}" for name, n in other.items())
        say(console, f"not clustered: {said}")
    if len(found.cv) and _shown(found.cv):
        say(console, "\nmean errors without what is left out", "bold")
        _table(console, found.cv, ["df", "leave_out", "folds", "trusted"], _shown(found.cv))
    if len(found.selection):
        say(console, "\nlog-likelihood of genes left out", "bold")
        columns = [
            c
            for c in ("train", "ij", "exact")
            if bool(np.any(np.isfinite(found.selection[c].to_numpy(float))))
        ]
        _table(console, found.selection, ["clusters"], columns)
    clusters = found.clusters()
    sizes = clusters["cluster"].value_counts().sort_index()
    kind = "" if one.basis.kind == "factor" else f" (df {found.chosen})"
    say(console, f"\n{len(one.found.clusters.mixture.weight)} clusters{kind}", "bold")
    say(console, "  genes in each: " + ", ".join(f"{n:,}" for n in sizes))
    sure = float((clusters["probability"] > 0.9).sum() / max(clusters["cluster"].notna().sum(), 1))
    say(console, f"  {sure:.0%} of the genes have one cluster with probability above .9")
    _changes(console, found)
    memory = io.peak_memory()
    at_most = "" if memory is None else f"; at most {memory:,.0f} MB of memory"
    say(console, f"\nresults in {out}{at_most}")


def _shown(cv: pd.DataFrame) -> list[str]:
    return [
        c
        for c in ("train", "ij", "corrected", "exact", "test")
        if bool(np.any(np.isfinite(cv[c].to_numpy(float))))
    ]


def _table(
    console: Console, table: pd.DataFrame, whole: Sequence[str], columns: Sequence[str]
) -> None:
    """Numbers of a table; the chosen row has a star."""
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for name in [*whole, *columns, ""]:
        shown.add_column(name, justify="right", no_wrap=True)
    for _, row in table.iterrows():
        first = [f"{int(row[name])}" for name in whole]
        numbers = [_number(row[name]) for name in columns]
        shown.add_row(*first, *numbers, "chosen" if bool(row["chosen"]) else "")
    console.print(shown, markup=False)


def _number(value: Any) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "-"


def _changes(console: Console, found: Courses) -> None:
    """How many genes change."""
    words = {
        "time": "change over time",
        "group": "differ between groups",
        "shape": "differ between groups otherwise than by a constant",
    }
    rate = found.settings.alpha
    for name, text in words.items():
        for column in (f"moderated_p_adj_{name}", f"p_adj_{name}"):
            if column in found.differential:
                number = np.count_nonzero(np.asarray(found.differential[column], float) < rate)
                say(console, f"  {number:,} genes {text} (adjusted p < {rate:g})")
                break
