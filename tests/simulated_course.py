"""Simulated time courses for tests of the verb and its result."""

import numpy as np
import pandas as pd

from expressway import datasets, tl
from expressway.timecourse import Settings

TIMES = [0, 1, 2, 3, 4, 5, 6, 8, 10]
TABLES = ("cv", "folds", "selection", "starts", "differential")
# What of clusters depends on rounding: their optimum does, by 1e-13 over curvatures of 1e-2.
ROUNDING = 1e-8


def simulated(**options):
    """A time course; the true cluster is "truth" of genes, for the verb writes "cluster"."""
    given = {"genes": 100, "clusters": 4, "times": TIMES, "replicates": 2, "seed": 0, "df": 5}
    adata = datasets.simulate_timecourse(**(given | options))
    adata.var["truth"] = adata.var.pop("cluster").astype(str)
    return adata


def run(adata, **options):
    given = {"df": 5, "clusters": 4, "cv": "none", "settings": Settings(starts=3)}
    return tl.timecourse(adata.copy(), "time", **(given | options))


def same_clusters(found, label):
    """Adjusted Rand index (Hubert & Arabie 1985)."""
    table = pd.crosstab(np.asarray(found), np.asarray(label)).to_numpy()

    def pairs(n):
        return np.sum(n * (n - 1) / 2)

    rows, columns, every = (
        pairs(table.sum(1)),
        pairs(table.sum(0)),
        pairs(np.array([table.sum()])),
    )
    expected = rows * columns / every
    return (pairs(table) - expected) / ((rows + columns) / 2 - expected)
