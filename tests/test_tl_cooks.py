"""Cook's distances of every count, and normalised counts, of a stored analysis."""

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from expressway import datasets, get, io, tl


@pytest.fixture(scope="module", params=[np.array, sp.csr_matrix])
def fitted(request) -> anndata.AnnData:
    """Two groups of ten, so that outliers are replaced; as an array, or a sparse matrix."""
    found = datasets.simulate(genes=200, samples=20, outliers=6, seed=4)
    found.X[:, 5] = 0
    found.X = request.param(found.X)
    tl.de(found, "~ condition")
    return found


def test_distances_are_those_that_flagged_the_outliers(fitted):
    found = tl.cooks(fitted)
    genes = get.genes(fitted)
    assert list(found.index) == list(fitted.obs_names)
    assert list(found.columns) == list(fitted.var_names)
    assert genes["replaced"].sum() >= 5
    above = (found > fitted.uns["de"]["cooks_cutoff"]).sum()
    # Of replaced genes too: those that the counts had as they were.
    np.testing.assert_array_equal(above, genes["flagged"])
    # The fit is the stored one, or for replaced genes made again by the same steps.
    np.testing.assert_allclose(found.max(), genes["max_cooks"], rtol=1e-9)
    nothing = np.asarray(fitted.X.sum(axis=0)).ravel() == 0
    assert nothing[5]
    np.testing.assert_array_equal(found.isna().all(), nothing)
    np.testing.assert_array_equal(found.isna().any(), nothing)


def test_normalised_counts(fitted):
    found = get.normalised(fitted)
    sizes = get.samples(fitted)["size_factor"].to_numpy()
    counts = fitted.X if isinstance(fitted.X, np.ndarray) else fitted.X.toarray()
    # One exponential of a logarithm.
    np.testing.assert_allclose(found, counts / sizes[:, None], rtol=1e-14)
    assert found.index.name == "sample"


def test_without_an_analysis_or_its_samples(fitted):
    with pytest.raises(io.InputError, match="no analysis is stored under 'other'"):
        tl.cooks(fitted, key="other")
    with pytest.raises(io.InputError, match="samples changed"):
        tl.cooks(fitted[:12].copy())
