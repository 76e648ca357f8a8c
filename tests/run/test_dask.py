"""Genes spread over the processes of a Dask cluster: the same results, also where one is lost."""

import logging
import os
import re
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

import expressway
from expressway import datasets, run, tl

DESIGN = "~ batch + condition"
# What comes and goes with processes is no fault of the analysis.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def data():
    return datasets.simulate(genes=300, samples=32, batches=2, outliers=6, seed=1)


@pytest.fixture(scope="module")
def client():
    # Ends of connections to a worker that was killed are told long after its test.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("distributed", "asyncio")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        yield client


def alike(found: pd.DataFrame, expected: pd.DataFrame):
    """Blocks are cut elsewhere, so that sums are rounded in another order."""
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=1e-9, atol=1e-11)


def test_results_are_the_same_wherever_genes_are(data, client):
    expected = tl.de(data.copy(), DESIGN)
    adata = data.copy()
    told = []
    found = tl.de(
        adata, DESIGN, where=run.dask.over(client), tell=lambda done, of: told.append((done, of))
    )
    alike(found, expected)
    assert adata.varm["de_genes"]["replaced"].any()
    assert told
    assert all(0 < done <= of for done, of in told)


@pytest.mark.parametrize(
    "stage", ["gene-wise dispersions", pytest.param("outliers", marks=pytest.mark.slow)]
)
def test_a_worker_that_is_killed_is_done_without(stage, data, client):
    expected = tl.de(data.copy(), DESIGN)
    killed = []

    def watch(name):
        if name == stage:
            pids = client.run(os.getpid)
            killed.append(next(iter(pids.values())))
            os.kill(killed[0], signal.SIGKILL)

    found = tl.de(data.copy(), DESIGN, where=run.dask.over(client), watch=watch)
    assert killed
    alike(found, expected)


def test_genes_in_any_order(data, client):
    from expressway.core.cohort import Pooled, samples
    from expressway.models.size_factors import log_counts

    y = np.asarray(data.X)
    pooled = Pooled(samples(y, np.ones((len(y), 1))))
    spread = run.dask.over(client)(pooled)
    for genes in (np.array([299, 0, 150, 7, 7]), np.arange(0), None):
        found, expected = (c.sum(log_counts, genes=genes) for c in (spread, pooled))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14)


def test_lines_of_the_readme(data, client, monkeypatch):
    """As they stand, but for the address of a cluster."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Client" in b)
    adata = data.copy()
    adata.obs = adata.obs.rename(columns={"batch": "cell", "condition": "dex"})
    address = client.scheduler.address
    names = {"ew": expressway, "adata": adata}
    exec(block.replace("tcp://scheduler:8786", address), names)
    assert len(adata.varm["de"]) == adata.n_vars
