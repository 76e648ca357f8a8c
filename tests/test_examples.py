"""The examples that need no data run."""

import importlib
import sys
from pathlib import Path

import pandas as pd


def test_random_matrices(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    random_spd = importlib.import_module("random_spd")
    random_spd.main(["--n", "60", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "random_spd.csv")
    ours = table[table["method"] == "Expressway"]
    known = ours[ours["case"] != "B B'"]
    assert (known["bound"] >= known["error"]).all()
    asked = ours.dropna(subset="rtol")
    assert len(asked) == 12
    assert (asked["error"] <= asked["rtol"]).all()
    assert (tmp_path / "random_spd.png").stat().st_size > 10_000
    assert "a certificate" in capsys.readouterr().out
    sys.modules.pop("random_spd")
