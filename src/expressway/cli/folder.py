"""The folder of results."""

import json
import re
from pathlib import Path

import anndata
import pandas as pd

from expressway import get, io, pl, tl
from expressway.io.contrast import ContrastSpec


def write(
    adata: anndata.AnnData, specs: list[ContrastSpec | None], folder: Path, clock: io.Clock
) -> dict[str, pd.DataFrame]:
    """Tables of each contrast, by name, after writing everything into a folder.

    One contrast is written as ``results.csv``, several as ``results_NAME.csv``; likewise figures.
    """
    (folder / "figures").mkdir()
    tables: dict[str, pd.DataFrame] = {}
    thresholds: dict[str, float] = {}
    for i, spec in enumerate(specs):
        table = get.de(adata) if i == 0 else tl.contrast(adata, spec)
        name = adata.uns["de"]["contrast"]
        tables[name], thresholds[name] = table, adata.uns["de"]["filter_threshold"]
    with clock.stage("figures"):
        for name, table in tables.items():
            suffix = "" if len(tables) == 1 else "_" + re.sub(r"\W+", "_", name).strip("_")
            table.to_csv(folder / f"results{suffix}.csv")
            for figure, draw in (("ma", pl.ma), ("volcano", pl.volcano)):
                ax = draw(table, contrast=name, alpha=adata.uns["de"]["settings"]["alpha"])
                ax.figure.savefig(folder / "figures" / f"{figure}{suffix}.png")
        trend = adata.uns["de"]["trend"]
        ax = pl.dispersion(get.genes(adata), (trend["asymptotic"], trend["extra"]))
        ax.figure.savefig(folder / "figures" / "dispersion.png")
    get.genes(adata).to_csv(folder / "genes.csv")
    get.samples(adata).to_csv(folder / "samples.csv")
    record = _record(adata, tables, thresholds, clock)
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    return tables


def _record(
    adata: anndata.AnnData,
    tables: dict[str, pd.DataFrame],
    thresholds: dict[str, float],
    clock: io.Clock,
) -> dict:
    """Settings, versions, what was estimated from all genes, and what it cost."""
    stored = adata.uns["de"]
    return {
        "versions": io.versions(),
        "samples": adata.n_obs,
        "genes": adata.n_vars,
        "design": {
            "formula": stored["design"],
            "coefficients": stored["coefficients"],
            "levels": stored["levels"],
        },
        "settings": stored["settings"],
        "trend": stored["trend"],
        "prior_variance": stored["prior_variance"],
        "linear_means": stored["linear_means"],
        "cooks_cutoff": stored["cooks_cutoff"],
        "contrasts": {
            name: {
                "filter_threshold": thresholds[name],
                "status": table["status"].value_counts().to_dict(),
            }
            for name, table in tables.items()
        },
        "warnings": stored["warnings"],
        "seconds": clock.seconds | stored["seconds"],
        "peak_memory_mb": round(io.peak_memory(), 1),
    }
