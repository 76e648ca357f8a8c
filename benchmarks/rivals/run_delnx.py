"""delnx 0.3 (glmGamPoi's model in JAX) in its own environment."""
# pyright: reportMissingImports=false

import anndata
import delnx
import pandas as pd

import run

NAMES = {"log2fc": "log2_fold_change", "pval": "p_value", "padj": "p_adj"}


def fit(counts: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Results by gene."""
    adata = anndata.AnnData(counts, obs=samples)
    found = delnx.tl.nb_de(
        adata, formula=run.DESIGN, contrast="condition[T.treated]", verbose=False
    )
    return found.set_index("feature").rename(columns=NAMES)


if __name__ == "__main__":
    run.run(fit)
