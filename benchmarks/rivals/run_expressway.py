"""Expressway within a process that is running already."""

import anndata
import pandas as pd

import expressway as ew
import run


def fit(counts: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Results by gene."""
    adata = anndata.AnnData(counts, obs=samples)
    return ew.tl.de(adata, run.DESIGN, ("condition", "treated", "control"))


if __name__ == "__main__":
    run.run(fit)
