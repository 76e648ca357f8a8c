import re

import numpy as np
import pytest

from expressway import datasets, demo


def test_simulated_truth_is_recovered(capsys, monkeypatch):
    """The demo on data of the size of other tests, so that nothing compiles anew."""
    small = datasets.simulate(genes=200, samples=8, batches=2, seed=3)
    monkeypatch.setattr(datasets, "simulate", lambda **_: small)
    demo.simulated()
    text = capsys.readouterr().out
    assert "200 genes x 8 samples" in text
    assert "20 genes truly change" in text
    called, right = np.array(re.findall(r"(\d+) called, +(\d+) of them true", text), dtype=int).T
    assert len(called) == 3
    assert np.all(np.diff(called) >= 0)
    assert np.all(right <= called)
    assert right[-1] >= 8


@pytest.fixture
def folder(tmp_path):
    """Files named as airway's are, small ones."""
    small = datasets.simulate(genes=200, samples=8, batches=2, seed=3)
    small.obs = small.obs.rename(columns={"batch": "cell"})
    small.obs["dex"] = small.obs["condition"].map({"treated": "trt", "control": "untrt"})
    small.to_df().T.to_csv(tmp_path / "airway_counts.csv.gz")
    small.obs.to_csv(tmp_path / "airway_metadata.csv", index_label="sample")
    return tmp_path


def test_airway_is_run_where_it_is(capsys, monkeypatch, folder):
    monkeypatch.setattr(demo, "simulated", lambda: None)
    monkeypatch.setattr(datasets, "data_folder", lambda: folder)
    demo.main()
    text = capsys.readouterr().out
    assert "airway: 200 genes x 8 samples" in text
    assert "genes at adjusted p < .1" in text
    assert "log2_fold_change" in text


def test_what_is_missing_is_said(capsys, monkeypatch):
    monkeypatch.setattr(demo, "simulated", lambda: None)
    monkeypatch.setattr(datasets, "data_folder", lambda: None)
    demo.main()
    assert "set EXPRESSWAY_DATA" in capsys.readouterr().out
