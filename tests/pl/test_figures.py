import io
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from expressway import pl
from expressway.models.trend import Trend, through


def make_results(genes: int = 2000, seed: int = 0) -> pd.DataFrame:
    """A results table shaped like a real one: a tenth of the genes change, some have no p."""
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.normal(4.3, 2.5, genes))
    lfc_se = 0.1 + 1 / np.sqrt(mean)
    change = rng.normal(0, lfc_se) + (rng.random(genes) < 0.1) * rng.normal(0, 2, genes)
    p_value = 10.0 ** -np.abs(2 * change / lfc_se)
    results = pd.DataFrame(
        {
            "base_mean": mean,
            "log2_fold_change": change,
            "lfc_se": lfc_se,
            "stat": change / lfc_se,
            "p_value": p_value,
            "p_adj": np.minimum(1, 10 * p_value),
        },
        index=pd.Index([f"gene_{j}" for j in range(genes)], name="gene"),
    )
    results.loc[mean < 1, "p_adj"] = np.nan
    return results


def make_genes(genes: int = 2000) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    mean = np.exp(rng.normal(4.3, 2.5, genes))
    final = (0.05 + 2 / mean) * np.exp(rng.normal(0, 0.4, genes))
    gene_wise = np.where(rng.random(genes) < 0.1, 1e-8, final * np.exp(rng.normal(0, 1, genes)))
    outlier = rng.random(genes) < 0.02
    return pd.DataFrame(
        {
            "base_mean": mean,
            "dispersion_gene_wise": gene_wise,
            "dispersion": np.where(outlier, gene_wise, final),
            "dispersion_outlier": outlier,
        },
        index=pd.Index([f"gene_{j}" for j in range(genes)], name="gene"),
    )


def points(ax: Axes) -> np.ndarray:
    """Everything drawn as filled markers."""
    clouds = [np.asarray(c.get_offsets()) for c in ax.collections if c.get_rasterized()]
    return np.concatenate([np.empty((0, 2)), *clouds])


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def names(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def save(ax: Axes) -> bytes:
    """Draw to a PNG: what fails or warns only when drawn does so here."""
    file = io.BytesIO()
    ax.figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def test_ma_draws_every_gene_and_counts_the_significant():
    results = make_results()
    ax = pl.ma(results, contrast="trt vs untrt", alpha=0.05)
    save(ax)
    assert ax.get_xlabel() == "mean of normalised counts"
    assert ax.get_ylabel() == "log₂ fold change (trt vs untrt)"
    assert ax.get_xscale() == "log"
    assert len(points(ax)) == len(results)
    called = results[results["p_adj"] < 0.05]["log2_fold_change"]
    up, down = (called > 0).sum(), (called < 0).sum()
    assert legend(ax)[:2] == [
        f"adjusted p < 0.05: {up} up, {down} down",
        f"other genes: {len(results) - len(called):,}",
    ]


def test_volcano_draws_every_tested_gene():
    results = make_results()
    results.loc["gene_3", "p_value"] = np.nan
    ax = pl.volcano(results)
    save(ax)
    assert ax.get_xlabel() == "log₂ fold change"
    assert ax.get_ylabel() == "\N{MINUS SIGN}log₁₀ p-value"
    assert len(points(ax)) == len(results) - 1


@pytest.mark.parametrize(
    "trend",
    [
        (0.05, 2.0),
        lambda mean: 0.05 + 2 / mean,
        lambda _: 0.2,
        through(np.array([1.0, 10.0, 90.0]), np.array([2.0, 0.5, 0.1])),
    ],
)
def test_dispersion_draws_genes_outliers_and_trend(trend):
    genes = make_genes()
    ax = pl.dispersion(genes, trend)
    save(ax)
    assert ax.get_xlabel() == "mean of normalised counts"
    assert ax.get_ylabel() == "dispersion"
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    outliers = genes["dispersion_outlier"].sum()
    assert len(points(ax)) == 2 * (len(genes) - outliers) + outliers
    assert f"outliers (gene-wise kept): {outliers}" in legend(ax)
    (line,) = ax.lines
    mean = line.get_xdata()
    if isinstance(trend, Trend):
        expected = np.exp(np.interp(np.log(mean), trend.log_mean, trend.log_dispersion))
    else:
        expected = 0.05 + 2 / mean if isinstance(trend, tuple) else trend(mean)
    np.testing.assert_allclose(line.get_ydata(), np.broadcast_to(expected, 200), rtol=1e-12)
    low = (genes["dispersion_gene_wise"] < np.min(expected) / 100).sum()
    assert f"below the axis: {low}" in legend(ax)
    assert points(ax)[:, 1].min() == pytest.approx(np.min(expected) / 100, rel=1e-12)


def test_far_fold_changes_stand_at_the_edge():
    results = make_results()
    results.loc[["gene_1", "gene_2"], "log2_fold_change"] = [25.0, -30.0]
    ma, volcano = pl.ma(results), pl.volcano(results)
    for ax, axis, limits in ((ma, 1, ma.get_ylim()), (volcano, 0, volcano.get_xlim())):
        save(ax)
        drawn = points(ax)[:, axis]
        assert limits[0] < drawn.min()
        assert drawn.max() < limits[1] < 25
        assert "beyond the axis: 2" in legend(ax)


def test_a_p_value_of_zero_is_drawn_at_the_smallest_above_it():
    results = make_results()
    results.loc[["gene_1", "gene_2"], ["p_value", "p_adj"]] = 0.0
    ax = pl.volcano(results)
    save(ax)
    smallest = results["p_value"][results["p_value"] > 0].min()
    heights = points(ax)[:, 1]
    assert heights.max() == pytest.approx(-np.log10(smallest))
    assert (heights == heights.max()).sum() == 3
    assert f"p = 0, drawn at {smallest:.0e}: 2" in legend(ax)


def test_all_p_values_zero():
    results = make_results(genes=3).assign(p_value=0.0, p_adj=0.0)
    ax = pl.volcano(results)
    save(ax)
    # -log10 of the smallest normal float
    np.testing.assert_allclose(points(ax)[:, 1], 307.65, atol=0.01)


@pytest.mark.parametrize("draw", [pl.ma, pl.volcano])
def test_names_the_strongest_genes_without_overlap(draw):
    results = make_results()
    ax = draw(results, label=15)
    save(ax)
    ax.figure.draw_without_rendering()
    strongest = results[results["p_adj"] < 0.1].sort_values("p_value").index[:15]
    assert set(names(ax)) <= set(strongest)
    assert len(ax.texts) > 10
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    frame = ax.get_window_extent()
    assert all(frame.containsx(box.x0) and frame.containsx(box.x1) for box in boxes)
    assert all(frame.containsy(box.y0) and frame.containsy(box.y1) for box in boxes)


def test_names_the_genes_asked_for():
    ax = pl.ma(make_results(), label=["gene_5", "gene_9"])
    assert sorted(names(ax)) == ["gene_5", "gene_9"]
    with pytest.raises(ValueError, match="cannot label absent"):
        pl.ma(make_results(), label=["gene_5", "absent"])


def test_dollar_signs_are_text():
    results = make_results(genes=1).assign(p_value=1e-9, p_adj=1e-9)
    results.index = ["a$_b$"]
    assert save(pl.ma(results, contrast="$x vs $y"))


@pytest.mark.parametrize("draw", [pl.ma, pl.volcano])
def test_few_genes(draw):
    one = make_results(genes=1)
    assert len(points(draw(one))) == 1
    none = make_results().assign(p_adj=1.0)
    ax = draw(none)
    assert "adjusted p < 0.1: 0 up, 0 down" in legend(ax)
    assert not ax.texts
    for empty in (one * np.nan, one.iloc[:0]):
        ax = draw(empty)
        assert save(ax)
        assert len(points(ax)) == 0


def test_few_genes_dispersion():
    genes = make_genes()
    assert len(points(pl.dispersion(genes.iloc[[0]], (0.1, 2.0)))) == 2
    missing = ["dispersion_gene_wise", "dispersion"]
    nothing = genes.assign(**dict.fromkeys(missing, np.nan))
    assert save(pl.dispersion(nothing, (0.1, 2.0)))
    half = genes.copy()
    half.loc[half.index[:5], missing] = np.nan
    drawn = len(points(pl.dispersion(genes, (0.1, 2.0))))
    lost = 2 * 5 - genes["dispersion_outlier"].iloc[:5].sum()
    assert len(points(pl.dispersion(half, (0.1, 2.0)))) == drawn - lost


def test_missing_columns_are_named():
    results, genes = make_results(genes=3), make_genes(genes=3)
    with pytest.raises(ValueError, match="no column base_mean, p_adj"):
        pl.ma(results.drop(columns=["base_mean", "p_adj"]))
    with pytest.raises(ValueError, match="no column p_value"):
        pl.volcano(results.drop(columns="p_value"))
    with pytest.raises(ValueError, match="no column dispersion_outlier"):
        pl.dispersion(genes.drop(columns="dispersion_outlier"), (0.1, 2.0))


def test_draws_on_given_axes():
    left, middle, right = Figure(figsize=(11, 4), layout="constrained").subplots(1, 3)
    results = make_results()
    assert pl.ma(results, ax=left) is left
    assert pl.volcano(results, ax=middle) is middle
    assert pl.dispersion(make_genes(), (0.05, 2.0), ax=right) is right
    assert save(left)


def test_threads_draw_the_same():
    results = make_results(genes=300)
    alone = save(pl.volcano(results))
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: save(pl.volcano(results)), range(8))) == {alone}
