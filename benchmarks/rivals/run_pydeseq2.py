"""PyDESeq2 0.5 in its own environment, with its default of one worker a core."""
# pyright: reportMissingImports=false

import pandas as pd
from pydeseq2.dds import DeseqDataSet
from pydeseq2.ds import DeseqStats

import run

NAMES = {"log2FoldChange": "log2_fold_change", "pvalue": "p_value", "padj": "p_adj"}


def fit(counts: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Results by gene."""
    data = DeseqDataSet(counts=counts, metadata=samples, design=run.DESIGN, quiet=True)
    data.deseq2()
    tests = DeseqStats(data, contrast=["condition", "treated", "control"], quiet=True)
    tests.summary()
    return tests.results_df.rename(columns=NAMES)


if __name__ == "__main__":
    run.run(fit)
