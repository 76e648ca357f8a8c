"""The folder of results of an analysis within each group of samples."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anndata
from rich.console import Console

from expressway import io, tl

from .ends import say
from .folder import Place, recorded, seconds, suffixes_of


def write_each(
    adata: anndata.AnnData,
    found: tl.Each,
    place: Place,
    inputs: Mapping[str, Any],
    key: str = "de_each",
) -> None:
    """Write everything into a folder: results_GROUP.csv, groups.csv and run.json.

    ``groups.csv`` has a row a group: samples, genes tested, up and down, why it was not analysed,
    doubts, and the name of its file.

    Parameters
    ----------
    adata, found
        As `tl.de_each` left it, and what it returned.
    inputs
        What the run read, and more to record of it.
    """
    stored: dict[str, Any] = adata.uns[key]
    by = str(stored["by"])
    groups = found.groups.copy()
    suffixes = suffixes_of([str(level) for level in groups.index])
    groups["results"] = [
        "" if why else f"results{suffix}.{place.tables}"
        for why, suffix in zip(groups["why"], suffixes, strict=True)
    ]
    levels = found.results[by].astype(str)
    for level, name in zip(groups.index, groups["results"].astype(str), strict=True):
        if name:
            rows = (levels == str(level)).to_numpy()
            place.write(found.results.loc[rows].drop(columns=by), name.rpartition(".")[0])
    place.write(groups, "groups")
    names = [name for name in groups["results"] if name]
    files = sorted([*names, f"groups.{place.tables}", "run.json"])
    record = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": io.versions(),
        **inputs,
        "samples": adata.n_obs,
        "genes": adata.n_vars,
        "within": by,
        "design": {"formula": stored["design"]},
        "contrast": stored["contrast"],
        "settings": recorded(stored["settings"]),
        "groups": groups.to_dict("index"),
        "seconds": seconds(place.clock.seconds, {}),
        "files": files,
    }
    io.write_json(record, place.folder / "run.json")


def show_each(found: tl.Each, source: str, out: Path) -> None:
    """Print a line a group: genes up and down, or why there are none."""
    console = Console(highlight=False)
    say(console, f"{source}: {len(found.groups)} groups of {found.groups.index.name}")
    width = max(len(str(level)) for level in found.groups.index)
    for level, row in found.groups.iterrows():
        text = f"{row['up']:>6,} up {row['down']:>6,} down of {row['tested']:>7,} genes tested"
        why = str(row["why"])
        say(console, f"  {level!s:{width}}  {why or text}")
    say(console, f"results in {out}")
