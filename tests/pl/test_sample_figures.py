import io
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform

from expressway import pl
from expressway.pl import _groups
from expressway.pl._trees import _order


def make(n: int = 10, genes: int = 120, name: str = "s{}", seed: int = 0) -> pd.DataFrame:
    """Normalised counts of two groups in turns, samples × genes."""
    rng = np.random.default_rng(seed)
    log = rng.normal(4, 2, (1, genes)) + rng.normal(0, 0.4, (n, genes))
    log[::2, :20] += 2.0
    index = [name.format(i) for i in range(n)]
    return pd.DataFrame(np.exp(log), index, [f"gene_{j}" for j in range(genes)])


def groups(table: pd.DataFrame) -> pd.DataFrame:
    n = len(table)
    arm = ["treated" if i % 2 == 0 else "control" for i in range(n)]
    return pd.DataFrame({"arm": arm, "batch": [str(i % 3) for i in range(n)]}, table.index)


def save(ax: Axes) -> bytes:
    file = io.BytesIO()
    ax.figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def inside(figure: Figure) -> bool:
    """Whether nothing is drawn beyond the edges of a figure, by more than half a pixel."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    slack = 0.5 / figure.dpi
    return (
        box.x0 > -slack and box.y0 > -slack and box.x1 < width + slack and box.y1 < height + slack
    )


def legend(ax: Axes) -> list[str]:
    found = [child for child in ax.get_children() if type(child).__name__ == "Legend"]
    return [text.get_text() for one in found for text in one.get_texts()]


def mesh(ax: Axes) -> QuadMesh:
    (found,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return found


def test_components_are_those_of_the_genes_that_vary_most():
    table = np.log2(make() + 1)
    ax = pl.pca(table, groups(table), top=50)
    assert save(ax)
    some = table.var(axis=0).nlargest(50).index
    centred = table[some] - table[some].mean(axis=0)
    value, vector = np.linalg.eigh(centred.T @ centred)
    share = value[::-1] / value.sum()
    assert ax.get_xlabel() == f"PC1: {100 * share[0]:.0f} % of variance"
    assert ax.get_ylabel() == f"PC2: {100 * share[1]:.0f} % of variance"
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])
    for axis in range(2):
        axis_vector = vector[:, -1 - axis]
        sign = np.sign(axis_vector[np.abs(axis_vector).argmax()])
        expected = sign * (centred.to_numpy() @ axis_vector)
        # Markers are drawn one kind after the other.
        np.testing.assert_allclose(np.sort(drawn[:, axis]), np.sort(expected), atol=1e-9)
    assert ax.get_aspect() == 1
    assert legend(ax) == ["batch:", "0", "1", "2", "arm:", "treated", "control"]
    assert sorted(text.get_text() for text in ax.texts)[:2] == ["s0", "s1"]
    assert not pl.pca(table, label=False).texts


def test_genes_with_missing_values_are_no_components():
    table = np.log2(make() + 1)
    holes = table.copy()
    holes.iloc[3, :5] = np.nan
    assert pl.pca(holes).get_xlabel() == pl.pca(table.iloc[:, 5:]).get_xlabel()
    with pytest.raises(ValueError, match="there are 2 samples; principal components need three"):
        pl.pca(table.iloc[:2])
    with pytest.raises(ValueError, match="none of 120 genes varies"):
        pl.pca(table * 0)


def test_distances_between_samples_in_the_order_of_a_tree():
    table = np.log2(make() + 1)
    ax = pl.sample_distances(table, groups(table))
    assert save(ax)
    expected = pdist(table.to_numpy())
    order = hierarchy.leaves_list(hierarchy.linkage(expected, "complete"))
    ax.figure.draw_without_rendering()
    assert [t.get_text() for t in ax.get_xticklabels()] == list(table.index[order])
    found = np.asarray(mesh(ax).get_array()).reshape(10, 10)
    # Of products of rows: their rounding, magnified by the root near 0.
    np.testing.assert_allclose(found, squareform(expected)[np.ix_(order, order)], atol=1e-6)
    assert legend(ax) == ["batch:", "0", "1", "2", "arm:", "treated", "control"]
    with pytest.raises(ValueError, match="there is 1 sample"):
        pl.sample_distances(table.iloc[:1])


def test_the_tree_is_the_linkage():
    table = np.log2(make(25) + 1)
    merges = hierarchy.linkage(table.to_numpy(), "complete")
    assert _order(merges) == list(hierarchy.leaves_list(merges))
    ax = pl.sample_distances(table)
    (tree,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    lines = np.array([path.vertices for path in tree.get_paths()])
    top = lines[:, 1, 1] - lines[:, :, 1].min()
    np.testing.assert_allclose(top / top[-1], merges[:, 2] / merges[-1, 2], rtol=1e-12)
    # Complete linkage: no branch stands on one that is higher.
    assert all(a <= b for a, b in pairwise(top))


def test_a_heat_map_of_genes_less_their_means_by_group():
    table = np.log2(make() + 1)
    table.iloc[2, 3] = np.nan
    genes = list(table.columns[:12])
    ax = pl.heatmap(table, genes, groups(table))
    assert save(ax)
    ax.figure.draw_without_rendering()
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert names == [f"s{i}" for i in (0, 6, 4, 2, 8, 3, 9, 1, 7, 5)]
    rows = [t.get_text() for t in ax.get_yticklabels()]
    assert sorted(rows) == sorted(genes)
    found = np.ma.filled(mesh(ax).get_array(), np.nan).reshape(12, 10)
    expected = (table - table.mean(axis=0)).loc[names, rows].T
    np.testing.assert_allclose(found, expected, atol=1e-12)
    with pytest.raises(ValueError, match="no gene absent in the transformed counts"):
        pl.heatmap(table, ["gene_1", "absent"])
    with pytest.raises(ValueError, match="there are 0 genes"):
        pl.heatmap(table, [])


@pytest.mark.parametrize("n", [2, 10, 120])
def test_maps_of_samples_stay_within_their_figure(n):
    table = np.log2(make(n, name="a_very_long_name_of_a_sample_from_the_core_facility_{}") + 1)
    about = groups(table).rename(columns={"arm": "what the patient was given in the first month"})
    table.columns = [f"gene_of_a_long_name_with_transcripts_{j}" for j in range(table.shape[1])]
    for ax in (
        pl.sample_distances(table, about),
        pl.heatmap(table, table.columns[:30], about),
        pl.cooks(np.exp(table), 3.0),
    ):
        assert inside(ax.figure)
        shown = [t.get_text() for t in ax.get_xticklabels() if t.get_text()]
        # All names, or none and their number.
        assert len(shown) == n if n < 40 else (not shown and ax.get_xlabel() == f"{n} samples")


def test_p_values_tested_and_filtered():
    rng = np.random.default_rng(2)
    p_value = rng.uniform(size=1000)
    p_value[:7] = np.nan
    p_adj = np.where(np.arange(1000) % 4 == 0, np.nan, p_value)
    table = pd.DataFrame({"p_value": p_value, "p_adj": p_adj})
    ax = pl.p_values(table, contrast="a vs b", bins=20)
    assert save(ax)
    heights = np.array([bar.get_height() for bar in ax.patches]).reshape(2, 20)
    known = ~np.isnan(p_value)
    kept = known & ~np.isnan(p_adj)
    np.testing.assert_array_equal(heights[0], np.histogram(p_value[kept], 20, (0, 1))[0])
    assert heights.sum() == 993
    assert ax.get_xlabel() == "p-value (a vs b)"
    filtered = np.count_nonzero(known & ~kept)
    texts = [f"tested: {kept.sum()}", f"filtered by mean count: {filtered}", "without a p-value: 7"]
    assert legend(ax) == texts
    assert save(pl.p_values(table * np.nan))
    with pytest.raises(ValueError, match="no column p_adj"):
        pl.p_values(table[["p_value"]])


def test_boxes_of_cooks_distances():
    rng = np.random.default_rng(3)
    value = pd.DataFrame(np.exp(rng.normal(-2, 2, (6, 400))), [f"s{i}" for i in range(6)])
    value.iloc[0, :3] = [np.nan, 0.0, 50.0]
    ax = pl.cooks(value, 10.0)
    assert save(ax)
    (lines,) = [
        c for c in ax.collections if isinstance(c, LineCollection) and c.get_linewidth()[0] == 1.4
    ]
    medians = [line[0, 1] for line in lines.get_segments()]
    np.testing.assert_allclose(medians[1:], value.iloc[1:].median(axis=1), rtol=1e-12)
    known = value.iloc[0, 2:]
    assert medians[0] == pytest.approx(known.median(), rel=1e-12)
    above = (value > 10).sum().sum()
    assert f"counts above it: {above}, of {(value > 10).any().sum()} genes" in legend(ax)
    assert save(pl.cooks(value * np.nan, 10.0))
    with pytest.raises(ValueError, match="there are no samples"):
        pl.cooks(value.iloc[:0])


def test_counts_of_a_gene_by_group():
    table = make()
    gene = table["gene_3"].copy()
    gene.iloc[1] = 0.0
    ax = pl.counts(gene, groups(table))
    assert save(ax)
    drawn = np.concatenate(
        [np.asarray(c.get_offsets()) for c in ax.collections if not isinstance(c, LineCollection)]
    )
    np.testing.assert_allclose(np.sort(drawn[:, 1]), np.sort(gene + 0.5), rtol=1e-12)
    assert ax.get_yscale() == "log"
    assert (ax.get_title(loc="left"), ax.get_xlabel()) == ("gene_3", "arm")
    means = [c.get_segments()[0][0, 1] for c in ax.collections if isinstance(c, LineCollection)]
    expected = [gene.iloc[::2].mean() + 0.5, gene.iloc[1::2].mean() + 0.5]
    np.testing.assert_allclose(means, expected, rtol=1e-12)
    again = pl.counts(gene, groups(table))
    assert save(again) == save(ax)
    with pytest.raises(ValueError, match="none of 10 samples has a count of gene_3"):
        pl.counts(gene * np.nan, groups(table))


def test_counts_of_several_genes():
    table = make()
    made = pl.counts(table.iloc[:, :5], groups(table))
    assert [ax.get_title(loc="left") for ax in made] == [f"gene_{j}" for j in range(5)]
    assert inside(made[0].figure)
    with pytest.raises(ValueError, match="there are no genes"):
        pl.counts(table.iloc[:, :0], groups(table))


def test_a_column_of_many_numbers_has_an_axis():
    table = make(16)
    age = pd.Series(np.linspace(20, 80, 16) ** 1.01, table.index, name="age")
    ax = pl.counts(table["gene_1"], age)
    (points,) = ax.collections
    np.testing.assert_allclose(np.asarray(points.get_offsets())[:, 0], age, rtol=1e-12)
    shown = legend(pl.pca(np.log2(table + 1), age))
    assert shown[0] == "age:"
    assert len(shown) == 5


def test_levels_keep_their_order():
    index = pd.Index(list("abcd"))
    text = pd.Series(["10", "9", None, "100"], index, name="minute")
    (column,) = _groups.columns(text, index, 1)
    assert column.levels == ("9", "10", "100")
    assert list(column.codes) == [1, 0, -1, 2]
    given = pd.Series(pd.Categorical(["low", "high", "low", "mid"], ["low", "mid", "high"]), index)
    assert _groups.columns(given, index, 1)[0].levels == ("low", "mid", "high")
    with pytest.raises(ValueError, match="groups has no row e"):
        _groups.columns(text, pd.Index(["a", "e"]), 1)
    with pytest.raises(ValueError, match="groups has 2 columns"):
        _groups.columns(pd.DataFrame({"a": text, "b": text}), index, 1)


def test_dollar_signs_are_text():
    table = make(6, name="$s_{}$")
    about = pd.Series(["$x_$", "$y"] * 3, table.index, name="$a$ vs $b$")
    log = np.log2(table + 1)
    for ax in (
        pl.pca(log, about),
        pl.sample_distances(log, about),
        pl.heatmap(log, log.columns[:4], about),
        pl.counts(table.iloc[:, 0].rename("$g"), about),
        pl.cooks(table),
    ):
        assert save(ax)


def test_draws_on_given_axes():
    table = make(8)
    log, about = np.log2(table + 1), groups(table)
    panels = Figure(figsize=(14, 9), layout="constrained").subplots(2, 3).ravel()
    assert pl.pca(log, about, ax=panels[0]) is panels[0]
    assert pl.sample_distances(log, about, ax=panels[1]) is panels[1]
    assert pl.heatmap(log, log.columns[:9], about, ax=panels[2]) is panels[2]
    assert pl.cooks(table, 3.0, ax=panels[3]) is panels[3]
    assert pl.counts(table["gene_1"], about, ax=panels[4]) is panels[4]
    assert save(panels[0])
