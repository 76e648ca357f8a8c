import gzip
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from typer.testing import CliRunner, Result

from expressway import datasets
from expressway.cli import app


@pytest.fixture(scope="session")
def adata() -> anndata.AnnData:
    """200 genes x 8 samples, the shape of every run here: kernels compile once."""
    return datasets.simulate(genes=200, samples=8, batches=2, seed=3)


@pytest.fixture
def write(adata, tmp_path) -> Callable[..., list[str]]:
    """Write the data, after a change, in a format: the first arguments of a command."""

    def written(
        kind: str = "csv",
        counts: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table,
        samples: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table,
    ) -> list[str]:
        table = counts(adata.to_df().T)
        obs = samples(adata.obs.rename_axis("sample"))
        obs.to_csv(tmp_path / "samples.csv")
        return [str(_write_counts(kind, table, obs, tmp_path)), str(tmp_path / "samples.csv")]

    return written


def _write_counts(kind: str, table: pd.DataFrame, obs: pd.DataFrame, folder: Path) -> Path:
    path = folder / f"counts.{kind.removeprefix('turned.').removeprefix('sparse.')}"
    if kind == "mtx":
        scipy.io.mmwrite(path, sp.coo_matrix(table.to_numpy()))
        (folder / "counts_genes.tsv").write_text("\n".join(table.index) + "\n")
        (folder / "counts_barcodes.tsv").write_text("\n".join(table.columns) + "\n")
    elif kind.endswith("h5ad"):
        x = table.T.to_numpy()
        var = pd.DataFrame(index=table.index)
        stored = sp.csc_matrix(x) if kind.startswith("sparse.") else x
        anndata.AnnData(stored, obs=obs.copy(), var=var).write_h5ad(path)
    else:
        turned = table.T if kind.startswith("turned.") else table
        separator = "," if "csv" in kind else "\t"
        turned.to_csv(path, sep=separator, compression="gzip" if kind.endswith("gz") else None)
    return path


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run `expressway de` in this process, without figures unless they are asked for."""

    def invoke(*arguments: str | Path) -> Result:
        words = list(map(str, arguments))
        if not {"--figures", "--report"} & {*words}:
            words += ["--figures", ""]
        return CliRunner().invoke(app, ["de", *words])

    return invoke


@pytest.fixture
def refused(run, tmp_path) -> Callable[..., str]:
    """Run `expressway de`; return its one line about a mistake, having left nothing behind."""

    def invoke(*arguments: str | Path) -> str:
        before = sorted(tmp_path.rglob("*"))
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert isinstance(result.exception, SystemExit)
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert lines[-1].startswith("error: ")
        assert all(line.startswith("warning: ") for line in lines[:-1])
        assert sorted(tmp_path.rglob("*")) == before
        return lines[-1].removeprefix("error: ")

    return invoke


@pytest.fixture
def empty_gzip(tmp_path) -> Path:
    """Return a gzip file that breaks off."""
    path = tmp_path / "broken.csv.gz"
    path.write_bytes(gzip.compress(np.arange(999).tobytes())[:50])
    return path
