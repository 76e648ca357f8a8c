"""Python lines of the README and the guide run as they stand, on simulated data."""

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import expressway as ew

README = Path(__file__).parents[1] / "README.md"


def block(text):
    """The README's one block of Python with that text in it."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if text in block]
    return found


def test_first_analysis(tmp_path, monkeypatch):
    adata = ew.datasets.simulate(genes=200, samples=8, seed=1)
    obs = pd.DataFrame(index=adata.obs_names)
    obs["dex"] = adata.obs["condition"].map({"control": "untrt", "treated": "trt"}).astype(str)
    obs["cell"] = ["N052611", "N061011"] * 4
    counts = pd.DataFrame(adata.X.T, index=adata.var_names, columns=adata.obs_names)
    counts.to_csv(tmp_path / "counts.csv.gz")
    obs.to_csv(tmp_path / "samples.csv")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block("read_counts"), names)
    assert len(names["table"]) == len(names["other"]) == 200
    assert (tmp_path / "volcano.png").stat().st_size > 0
    again = ew.get.de(anndata.read_h5ad("airway.h5ad"))
    pd.testing.assert_series_equal(again["p_value"], names["other"]["p_value"])
    exec(block("tl.lrt"), names)
    assert names["adata"].layers["vst"].shape == (8, 200)


def test_screen():
    # As many samples and coefficients as the first analysis has, whose functions are compiled.
    screen = ew.datasets.simulate(genes=200, samples=8, seed=1)
    screen.obs["perturbation"] = ["control", "one"] * 4
    screen.obs["batch"] = list("aabb") * 2
    names = {"screen": screen, "ew": ew}
    exec(block("tl.contrasts"), names)
    assert names["each"].shape == (1, 200)


def test_any_fit():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    names = {"x": x, "y": x[:, 0] + rng.normal(size=30)}
    exec(block("ew.implicit"), names)
    assert names["series"].order == 4


def test_page_of_the_engine():
    page = (README.parent / "docs" / "sensitivity.md").read_text(encoding="utf-8")
    names: dict = {}
    for lines in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(lines, names)
    assert names["series"].trust(names["stronger"]).trusted
    predicted, exact = names["prediction"]["slope"], names["exact"].theta["slope"]
    np.testing.assert_allclose(predicted, exact, atol=1e-5)
    assert abs(names["quick"].loss - names["sure"].loss) < 0.01
    assert names["found"].found


def test_page_of_draws():
    page = (README.parent / "docs" / "draws.md").read_text(encoding="utf-8")
    names: dict = {}
    for lines in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(lines, names)
    assert names["draws"].theta["slope"].shape == (1000, 3)
    assert names["net_draws"].certified
    assert names["net_draws"].damping == 1.0
    # Of the model, and of what it is worth where the model is right, are about as wide.
    spreads = [np.std(names[name].theta["slope"], axis=0) for name in ("draws", "robust")]
    np.testing.assert_allclose(*spreads, rtol=0.25)


def test_influence():
    adata = ew.datasets.simulate(genes=200, samples=8, seed=1)
    adata.obs["dex"] = ["untrt", "trt"] * 4
    adata.obs["cell"] = list("aabb") * 2
    ew.tl.de(adata, "~ cell + dex")
    names = {"adata": adata, "ew": ew}
    exec(block("tl.influence"), names)
    assert names["moved"].shape == (8, 200)


def test_time_courses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adata = ew.datasets.simulate_timecourse(genes=60, clusters=5)
    names: dict = {"adata": adata, "ew": ew}
    exec(block("tl.timecourse"), names)
    assert names["found"].chosen in range(4, 9)
    page = (README.parent / "docs" / "timecourse.md").read_text(encoding="utf-8")
    for lines in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(lines, names)
    assert names["without"].trusted
    assert (tmp_path / "fit.npz").exists()


def test_clusters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (README.parent / "docs" / "clustering.md").read_text(encoding="utf-8")
    names: dict = {"ew": ew}
    for lines in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(lines.replace("genes=200, cells=100", "genes=60, cells=80"), names)
    assert (tmp_path / "fit.npz").exists()
    assert names["moved"].prior.notna().all(axis=None)
    names["adata"].obs = names["adata"].obs.drop(columns="size_factor")
    exec(block("tl.cluster"), names)
    assert len(names["found"].modules()) == 60


def test_guide_to_sites():
    adata = ew.datasets.simulate(genes=100, samples=24, batches=3, seed=1)
    studies = dict(
        zip(adata.obs["batch"].unique(), ("Cheung", "Montgomery", "Pickrell"), strict=True)
    )
    adata.obs["study"] = adata.obs["batch"].map(studies).astype(str)
    sexes = {"control": "male", "treated": "female"}
    adata.obs["gender"] = adata.obs["condition"].map(sexes).astype(str)
    sites = {name: adata[adata.obs["study"] == name] for name in studies.values()}
    guide = (README.parent / "docs" / "federated.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    names: dict = {"sites": sites}
    exec(lines, names)
    assert len(names["run"].table) == len(names["other"]) == 100
    assert names["run"].disclosure["round"].max() == names["run"].rounds
