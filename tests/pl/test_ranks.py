import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from expressway import pl


@pytest.fixture
def table() -> pd.DataFrame:
    """Four genes of which two are first, and one that is not ranked."""
    return pd.DataFrame(
        {
            "rank": [1, 2, 3, 4, np.nan],
            "rank_lower": [1, 1, 2, 2, np.nan],
            "rank_upper": [1, 3, 4, 4, np.nan],
            "probability_top": [1.0, 0.7, 0.2, 0.1, np.nan],
        },
        index=pd.Index(["a$1$", "b", "c", "d", "e"], name="gene"),
    )


def test_the_first_genes_and_half_as_many_more_are_drawn(table):
    ax = pl.ranks(table, level=0.8, contrast="x vs y")
    clouds = [c for c in ax.collections if c.get_rasterized()]
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in clouds])
    np.testing.assert_array_equal(drawn, [[3, 0.2], [1, 1.0], [2, 0.7]])
    lines = [c.get_segments() for c in ax.collections if isinstance(c, LineCollection)]
    assert np.any([np.array_equal(s, [[1, 0.7], [3, 0.7]]) for part in lines for s in part])
    assert ax.get_ylabel() == "probability of being among the first 2"
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend[:3] == [
        "probability above .5: 2 genes",
        "other genes drawn: 1",
        "80 % interval of the rank",
    ]
    assert [text.get_text() for text in ax.texts] == ["a$1$", "b", "c"]


def test_names_that_would_meet_are_left_out(table):
    crowded = table.assign(rank=[1.0, 1.001, 1.002, 4, np.nan])
    assert [text.get_text() for text in pl.ranks(crowded).texts] == ["a$1$"]


def test_what_cannot_be_drawn_is_refused(table):
    with pytest.raises(ValueError, match="cannot label z"):
        pl.ranks(table, label=["z"])
    with pytest.raises(ValueError, match="none of 5 genes has a rank"):
        pl.ranks(table.assign(rank=np.nan))
    with pytest.raises(ValueError, match="no column rank_upper"):
        pl.ranks(table.drop(columns="rank_upper"))
