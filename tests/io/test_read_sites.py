import anndata
import numpy as np
import pandas as pd
import pytest

from expressway.io import InputError, read_sites


def test_each_folder_is_a_site(tmp_path):
    table = pd.DataFrame([[1, 2], [3, 4]], index=["g1", "g2"], columns=["s1", "s2"])
    obs = pd.DataFrame({"dex": ["a", "b"]}, index=pd.Index(["s1", "s2"], name="sample"))
    for name, ending in (("north", "csv"), ("south", "tsv.gz")):
        (tmp_path / name).mkdir()
        separator = "," if ending == "csv" else "\t"
        table.to_csv(tmp_path / name / f"counts.{ending}", sep=separator)
        obs.to_csv(tmp_path / name / "samples.csv")
    (tmp_path / "east").mkdir()
    stored = anndata.AnnData(np.ones((2, 2)), obs=obs, var=pd.DataFrame(index=["g1", "g2"]))
    stored.write_h5ad(tmp_path / "east" / "any.h5ad")
    (tmp_path / "notes.txt").write_text("not a site")
    (tmp_path / ".hidden").mkdir()
    sites = read_sites(tmp_path)
    assert list(sites) == ["east", "north", "south"]
    for name in ("north", "south"):
        np.testing.assert_array_equal(sites[name].X, table.T)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_sites(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no folders"):
        read_sites(tmp_path)
    (tmp_path / "north").mkdir()
    with pytest.raises(InputError, match=r"north: counts.csv is missing"):
        read_sites(tmp_path)
    (tmp_path / "north" / "counts.csv").write_text("gene,s1\na,1\n")
    with pytest.raises(InputError, match=r"north: samples.csv is missing"):
        read_sites(tmp_path)
