import io
from collections.abc import Callable, Iterable
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from expressway import pl

LONG = "ENSG00000141510.17_a_very_long_gene_name_of_which_a_panel_has_no_room_for_one_half"
TIMES = np.linspace(0, 1, 21)
TWO = ("erythroid", "myeloid")


def make_curves(
    sizes: Iterable[int], lineages: Iterable[str] = ("",), prefix: str = "gene"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves of modules and of as many genes as each is to have, and whose member each gene is."""
    rng = np.random.default_rng(0)
    tables: list[pd.DataFrame] = []
    member: dict[str, int] = {}

    def put(kind: str, name: str, level: float, slope: float) -> None:
        for i, lineage in enumerate(lineages):
            mean = np.exp(level + (slope + i) * TIMES)
            tables.append(
                pd.DataFrame(
                    {
                        "kind": kind,
                        "name": name,
                        "lineage": lineage,
                        "time": TIMES,
                        "mean": mean,
                        "lower": 0.8 * mean,
                        "upper": 1.25 * mean,
                    }
                )
            )

    for module, size in enumerate(sizes, start=1):
        slope = rng.normal()
        put("module", str(module), 1.0, slope)
        for i in range(size):
            member[f"{prefix}_{module}_{i}"] = module
            put("gene", f"{prefix}_{module}_{i}", rng.normal(), slope + 0.2 * rng.normal())
    index = pd.Index(list(member), name="gene", dtype=object)
    modules = pd.DataFrame({"module": list(member.values()), "probability": 0.9}, index=index)
    return pd.concat(tables, ignore_index=True), modules


def make_components(coefficients: int = 5, most: int = 4) -> pd.DataFrame:
    """Some components with genes for each coefficient, and as many without as make thirty."""
    rng = np.random.default_rng(1)
    names = ["level", *(f"basis[{i}]" for i in range(1, coefficients - 1)), "log_dispersion"]
    tables = []
    for name in names[:coefficients]:
        k = int(rng.integers(1, most + 1))
        weight = np.append(np.sort(rng.dirichlet(np.full(k, 3.0)))[::-1] * 0.97, np.zeros(30 - k))
        weight[k:] = 0.03 / (30 - k)
        mean, sd = rng.normal(0, 1, 30), rng.uniform(0.1, 0.3, 30)
        tables.append(
            pd.DataFrame(
                {
                    "coefficient": name,
                    "mixture": "coefficients",
                    "component": np.arange(1, 31),
                    "genes": np.where(np.arange(30) < k, 1000 * weight, 0.1),
                    "weight": weight,
                    "weight_lower": 0.9 * weight,
                    "weight_upper": 1.1 * weight,
                    "mean": mean,
                    "mean_lower": mean - 0.05,
                    "mean_upper": mean + 0.05,
                    "sd": sd,
                    "sd_lower": 0.9 * sd,
                    "sd_upper": 1.1 * sd,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def make_probabilities(genes: int, modules: int) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    return pd.DataFrame(
        rng.dirichlet(np.full(modules, 0.2), genes),
        index=[f"gene_{i}" for i in range(genes)],
        columns=range(1, modules + 1),
    )


def make_predictive(genes: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    tables = []
    for statistic, top in (("zeros", 1.0), ("sd", 1.5)):
        expected = rng.uniform(0.1, 0.9, genes) * top
        observed = expected + 0.02 * rng.normal(size=genes)
        tables.append(
            pd.DataFrame(
                {
                    "gene": [f"gene_{i}" for i in range(genes)],
                    "statistic": statistic,
                    "observed": observed,
                    "expected": expected,
                    "lower": expected - 0.033,
                    "upper": expected + 0.033,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def make_elbo(refreshes: int = 3, sweeps: int = 8, counts: bool = True) -> pd.DataFrame:
    rows = []
    for r in range(refreshes):
        for i in range(sweeps):
            event = ("refresh" if r else "start") if i == 0 else "sweep"
            event = {(0, 3): "split", (0, 5): "merge"}.get((r, i), event)
            known = counts and i == sweeps - 1
            nb = -1.2e6 + 500 * r if known else np.nan
            rows.append((len(rows), event, -900 - 40 * r + 100 * (1 - 0.6**i), nb))
    return pd.DataFrame(rows, columns=["step", "event", "elbo", "nb_elbo"])


def make_composition(modules: int = 5, types: Iterable[str] = tuple("abcd")) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    types = list(types)
    index = pd.RangeIndex(1, modules + 1)
    return pd.DataFrame(rng.normal(size=(modules, len(types))), index=index, columns=types)


def panels(drawn: Axes | np.ndarray) -> list[Axes]:
    return [drawn] if isinstance(drawn, Axes) else list(drawn)


def figure(drawn: Axes | np.ndarray) -> Figure:
    found = panels(drawn)[0].get_figure(root=True)
    assert found is not None
    return found


def titles(drawn: np.ndarray) -> list[str]:
    return [ax.get_title(loc="left") for ax in panels(drawn)]


def legend(drawn: np.ndarray) -> list[str]:
    return [text.get_text() for found in figure(drawn).legends for text in found.get_texts()]


def strings(drawn: Axes | np.ndarray) -> list[Text]:
    """Everything written in a figure that can be seen."""
    whole = figure(drawn)
    beyond = [
        label
        for ax in whole.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not axis.get_view_interval().min() <= tick.get_loc() <= axis.get_view_interval().max()
    ]
    return [
        text
        for text in whole.findobj(Text)
        if isinstance(text, Text) and text.get_visible() and text.get_text() and text not in beyond
    ]


def said(drawn: Axes | np.ndarray) -> list[str]:
    return [text.get_text() for text in strings(drawn)]


def check(drawn: Axes | np.ndarray) -> None:
    """See that nothing is empty, cut off, or written over something else."""
    figure(drawn).draw_without_rendering()
    whole = figure(drawn).bbox.padded(1)  # a pixel, as letters are rounded to whole ones
    for ax in panels(drawn):
        assert ax.has_data()
        assert min(ax.bbox.width, ax.bbox.height) > 30
    # Without the arrow of an annotation; 1.5 pixels that letters' own margins may share
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in strings(drawn)]
    for text, box in boxes:
        assert all(whole.contains(*corner) for corner in box.get_points()), text
    small: list[tuple[str, Bbox]] = [(text, box.padded(-1.5)) for text, box in boxes]
    for (a, first), (b, second) in combinations(small, 2):
        assert not first.overlaps(second), (a, b)


def many(ax: Axes) -> list[np.ndarray]:
    """The thin lines."""
    return [
        np.asarray(path.vertices)
        for found in ax.collections
        if isinstance(found, LineCollection) and found.get_rasterized()
        for path in found.get_paths()
    ]


def bold(ax: Axes) -> list[np.ndarray]:
    """The curves."""
    return [np.asarray(line.get_xydata()) for line in ax.lines if line.get_linewidth() == 1.3]


def mesh(ax: Axes) -> QuadMesh:
    (found,) = [found for found in ax.collections if isinstance(found, QuadMesh)]
    return found


def values(ax: Axes) -> np.ndarray:
    """What a map shows."""
    shown = mesh(ax).get_array()
    assert isinstance(shown, np.ma.MaskedArray)
    return shown.filled(np.nan)


def dots(ax: Axes) -> np.ndarray:
    """Where points are."""
    found = [found for found in ax.collections if isinstance(found, PathCollection)]
    return np.concatenate([np.asarray(one.get_offsets()).reshape(-1, 2) for one in found])


AWKWARD: dict[str, Callable[[], Axes | np.ndarray]] = {
    "modules": lambda: pl.modules(*make_curves([9, 5, 3, 2, 1], TWO)),
    "one module": lambda: pl.modules(*make_curves([3])),
    "twenty modules": lambda: pl.modules(*make_curves(range(20, 0, -1), (LONG, f"{LONG} 2"), LONG)),
    "modules as they are": lambda: pl.modules(
        *make_curves([5, 3]), log=False, centred=False, share_y=False
    ),
    "components": lambda: pl.component_weights(make_components()),
    "components of one": lambda: pl.component_weights(make_components(1)),
    "components of ten": lambda: pl.component_weights(make_components(10, 9)),
    "components of long names": lambda: pl.component_weights(
        make_components(3).replace({"coefficient": {"level": LONG}})
    ),
    "co-clustering": lambda: pl.co_clustering(make_probabilities(900, 5)),
    "co-clustering of one": lambda: pl.co_clustering(make_probabilities(1, 1)),
    "co-clustering of forty": lambda: pl.co_clustering(make_probabilities(2000, 40)),
    "predictive": lambda: pl.predictive(make_predictive()),
    "predictive of one": lambda: pl.predictive(make_predictive(1)),
    "elbo": lambda: pl.elbo(make_elbo()),
    "one step": lambda: pl.elbo(make_elbo(1, 1, counts=False)),
    "composition": lambda: pl.module_composition(make_composition()),
    "one cell": lambda: pl.module_composition(make_composition(1, ["a"])),
    "composition of many": lambda: pl.module_composition(
        make_composition(40, [f"{i} {LONG}" for i in range(30)]), label=LONG
    ),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_nothing_is_cut_off_or_overlaps(name):
    check(AWKWARD[name]())


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_figures_can_be_saved(kind):
    for name in ("modules", "components of one", "co-clustering", "predictive", "elbo", "one cell"):
        file = io.BytesIO()
        figure(AWKWARD[name]()).savefig(file, format=kind, dpi=60)
        # Many lines are one picture, not thousands of paths.
        assert 2_000 < len(file.getvalue()) < 200_000


def test_modules_come_by_size():
    curves, modules = make_curves([3, 1200, 1, 0])
    shown = pl.modules(curves, modules, xlabel="hours")
    assert titles(shown) == [
        "module 2: 1,200 genes",
        "module 1: 3 genes",
        "module 3: 1 gene",
        "module 4: 0 genes",
    ]
    assert [len(many(ax)) for ax in shown] == [100, 3, 1, 0]
    assert len({ax.get_ylim() for ax in shown}) == 1
    assert {"hours", "log₂ fold of own average"} <= set(said(shown))
    assert not legend(shown)
    assert len({ax.get_ylim() for ax in pl.modules(curves, modules, share_y=False)}) == 4


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("centred", [True, False])
def test_curves_of_modules_are_those_of_the_table(log, centred):
    curves, modules = make_curves([2])
    (ax,) = pl.modules(curves, modules, log=log, centred=centred)

    def expected(name: str, column: str = "mean") -> np.ndarray:
        own = curves[curves["name"] == name]
        mean, value = own["mean"].to_numpy(), own[column].to_numpy()
        if log:
            return np.log2(value) - np.log2(mean).mean() * centred
        return value / mean.mean() if centred else value

    # 1e-12: rounding
    (line,) = bold(ax)
    np.testing.assert_allclose(line, np.column_stack([TIMES, expected("1")]), atol=1e-12)
    for path, name in zip(many(ax), ("gene_1_0", "gene_1_1"), strict=True):
        np.testing.assert_allclose(path, np.column_stack([TIMES, expected(name)]), atol=1e-12)
    (band,) = [found for found in ax.collections if isinstance(found, PolyCollection)]
    edge = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert edge.max() == pytest.approx(expected("1", "upper").max(), rel=1e-12)
    assert edge.min() == pytest.approx(expected("1", "lower").min(), rel=1e-12)


def test_lineages_have_colours_and_one_average():
    curves, modules = make_curves([4, 2], TWO)
    shown = pl.modules(curves, modules)
    assert legend(shown) == list(TWO)
    first, second = bold(shown[0])
    # The second rises by one natural logarithm more: they differ as in the table.
    np.testing.assert_allclose((second - first)[:, 1], TIMES / np.log(2), atol=1e-12)  # rounding
    assert np.mean([first[:, 1], second[:, 1]]) == pytest.approx(0, abs=1e-12)
    assert [len(many(ax)) for ax in shown] == [8, 4]
    colours = {to_hex(line.get_color()) for line in shown[0].lines if line.get_linewidth() == 1.3}
    assert len(colours) == 2


def test_the_largest_modules_are_drawn_and_the_others_counted():
    shown = pl.modules(*make_curves(range(1, 21)))
    assert titles(shown)[0] == "module 20: 20 genes"
    assert titles(shown)[-1] == "module 9: 9 genes"
    assert "pseudotime (the 12 largest of 20 modules)" in said(shown)


def test_modules_without_members():
    curves, modules = make_curves([3, 2])
    alone = pl.modules(curves)
    assert titles(alone) == ["module 1", "module 2"]
    assert not [path for ax in alone for path in many(ax)]
    # Genes without a module, as they were not fitted, are of none; numbers may be of any type.
    modules = modules.astype({"module": float})
    modules.loc["gene_1_0", "module"] = np.nan
    curves = curves.drop(columns="lineage")
    assert titles(pl.modules(curves, modules)) == ["module 1: 2 genes", "module 2: 2 genes"]


def test_modules_need_a_curve():
    curves, modules = make_curves([2])
    with pytest.raises(ValueError, match="42 rows and none of kind 'module'"):
        pl.modules(curves[curves["kind"] == "gene"], modules)
    with pytest.raises(ValueError, match="0 rows and none"):
        pl.modules(curves.iloc[:0], modules.iloc[:0])


def test_components_are_where_the_table_says():
    table = make_components()
    shown = pl.component_weights(table)
    names = list(table["coefficient"].unique())
    for ax, name, title in zip(shown, names, titles(shown), strict=True):
        rows = table[(table["coefficient"] == name) & (table["genes"] >= 1)]
        n = len(rows)
        assert title == f"{name}: {n} component{'s' if n > 1 else ''}, others 0.03"
        at = np.concatenate([np.asarray(line.get_xydata()) for line in ax.lines])
        expected = rows[["mean", "weight"]].to_numpy()
        np.testing.assert_array_equal(at[np.lexsort(at.T)], expected[np.lexsort(expected.T)])
        bars = [found for found in ax.collections if isinstance(found, LineCollection)]
        ends = {
            tuple(np.ravel(segment).tolist()) for found in bars for segment in found.get_segments()
        }
        first = rows.iloc[0]
        assert (first["mean"], first["weight_lower"], first["mean"], first["weight_upper"]) in ends
        assert (first["mean_lower"], first["weight"], first["mean_upper"], first["weight"]) in ends
        assert ax.get_ylim() == shown[0].get_ylim()
        assert {text.get_text() for text in ax.texts} <= set(rows["component"].astype(str))
        assert ax.texts[0].get_text() == "1"  # the heaviest always has its number


def test_spreads_are_widths():
    table = make_components(1, most=1)
    (ax,) = pl.component_weights(table)
    (bell,) = [found for found in ax.collections if isinstance(found, PolyCollection)]
    x, y = np.asarray(bell.get_paths()[0].vertices).T
    row = table.iloc[0]
    assert y.max() == pytest.approx(row["weight"])
    above = x[y > row["weight"] * np.exp(-0.5) - 1e-9]
    # A standard deviation is twenty steps of a tenth of it, less at either end by rounding
    assert np.ptp(above) == pytest.approx(2 * row["sd"], rel=0.11)
    assert ax.get_xlim()[0] < row["mean"] - 3 * row["sd"]


def test_components_of_the_joint_mixture():
    table = make_components(3)
    joint = table[table["component"] <= 2].assign(mixture="modules", genes=5.0)
    both = pd.concat([table, joint], ignore_index=True)
    assert titles(pl.component_weights(both)) == titles(pl.component_weights(table))
    shown = pl.component_weights(both, mixture="modules")
    assert all(": 2 components" in title for title in titles(shown))
    with pytest.raises(ValueError, match="of mixture 'genes'; there are 'coefficients', 'modules'"):
        pl.component_weights(both, mixture="genes")
    with pytest.raises(ValueError, match="there are none"):
        pl.component_weights(table.iloc[:0])


def test_a_coefficient_without_a_component_of_a_gene():
    (ax,) = pl.component_weights(make_components(1).assign(genes=0.0))
    figure(ax).draw_without_rendering()
    assert titles(np.array([ax]))[0] == "level: 0 components, others 1"


def test_co_clustering_is_a_product_by_module():
    probability = make_probabilities(60, 3)
    ax = pl.co_clustering(probability)
    module = probability.to_numpy().argmax(axis=1)
    sizes = np.bincount(module)
    shown = values(ax)
    assert shown.shape == (60, 60)
    np.testing.assert_array_equal(shown, shown.T)
    # The same values block by block: genes are only put in order. 1e-12: rounding
    product = probability.to_numpy() @ probability.to_numpy().T
    ends = np.concatenate([[0], np.cumsum(sizes)])
    for i in range(3):
        for j in range(3):
            block = shown[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]
            expected = product[np.ix_(module == i, module == j)]
            np.testing.assert_allclose(np.sort(block, None), np.sort(expected, None), rtol=1e-12)
    for lines, axis in zip(
        [found for found in ax.collections if isinstance(found, LineCollection)],
        (1, 0),
        strict=True,
    ):
        bounds = [np.asarray(segment)[0, axis] for segment in lines.get_segments()]
        assert bounds == (ends[1:-1] - 0.5).tolist()
    assert (mesh(ax).norm.vmin, mesh(ax).norm.vmax) == (0, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("60 genes", "module")
    # Those that share most with their module come first.
    within = [shown[i, : sizes[0]].mean() for i in range(sizes[0])]
    assert within == sorted(within, reverse=True)


def test_some_genes_of_every_module_are_drawn():
    probability = np.zeros((5001, 3))
    probability[:3000, 0] = probability[3000:5000, 1] = probability[5000:, 2] = 1.0
    ax = pl.co_clustering(probability)
    rows = values(ax).sum(axis=1).astype(int)
    np.testing.assert_array_equal(rows, np.repeat([239, 159, 1], [239, 159, 1]))
    assert ax.get_xlabel() == "399 of 5,001 genes"


def test_labels_of_genes():
    probability = make_probabilities(6, 2)
    labels = pd.Series([7, 2, 7, 2, np.nan, 7])
    ax = pl.co_clustering(probability, labels)
    figure(ax).draw_without_rendering()
    assert values(ax).shape == (5, 5)
    assert [t.get_text() for t in ax.get_yticklabels() if t.get_text()] == ["2", "7"]
    with pytest.raises(ValueError, match="3 labels of 6 genes"):
        pl.co_clustering(probability, labels[:3])
    with pytest.raises(ValueError, match="none of 6 genes has a module"):
        pl.co_clustering(probability * np.nan)
    with pytest.raises(ValueError, match="none of 0 genes"):
        pl.co_clustering(probability.iloc[:0])


def test_the_predictive_check_counts_genes_outside():
    table = make_predictive()
    shown = pl.predictive(table)
    for ax, name in zip(shown, ("zeros", "sd"), strict=True):
        rows = table[table["statistic"] == name]
        expected = rows[["expected", "observed"]].to_numpy()
        at = dots(ax)
        np.testing.assert_array_equal(at[np.lexsort(at.T)], expected[np.lexsort(expected.T)])
        outside = ~rows["observed"].between(rows["lower"], rows["upper"])
        assert 0 < outside.sum() < 100
        assert f"{100 * outside.mean():.1f} % outside" in ax.get_title(loc="left")
        coloured = [
            len(np.asarray(found.get_offsets()))
            for found in ax.collections
            if isinstance(found, PathCollection) and to_hex(found.get_facecolor()[0]) == "#d55e00"
        ]
        assert sum(coloured) == outside.sum()
        bars = {tuple(path[:, 0]) + tuple(path[:, 1]) for path in many(ax)}
        ends = rows[["expected", "expected", "lower", "upper"]].itertuples(index=False, name=None)
        assert bars <= set(ends)
        assert 20 < len(bars) <= 40
        assert ax.get_xlim() == ax.get_ylim()
    assert "expected (200 genes)" in said(shown)


def test_a_far_sd_is_at_the_edge():
    table = make_predictive()
    usual = pl.predictive(table)[1].get_xlim()
    table.loc[table.index[-1], "observed"] = 50.0
    ax = pl.predictive(table)[1]
    assert ax.get_ylim()[1] < 1.2 * usual[1]
    assert len(dots(ax)) == 200
    assert dots(ax)[:, 1].max() < ax.get_ylim()[1]


def test_a_predictive_check_of_one_statistic_or_none():
    table = make_predictive(5)
    (ax,) = pl.predictive(table[table["statistic"] == "sd"])
    check(ax)
    table.loc[0, "observed"] = np.nan
    assert len(dots(pl.predictive(table)[0])) == 4
    for none in (table.assign(expected=np.nan), table.iloc[:0]):
        with pytest.raises(ValueError, match=f"none of {len(none)} rows of the predictive check"):
            pl.predictive(none)


def test_the_elbo_begins_anew_at_a_refresh():
    table = make_elbo()
    top, bottom = pl.elbo(table)
    pieces = bold(top)
    assert [len(piece) for piece in pieces] == [8, 8, 8]
    np.testing.assert_array_equal(np.concatenate(pieces), table[["step", "elbo"]])
    for marker, event in (("^", "split"), ("v", "merge"), ("D", "refresh")):
        (marks,) = [line for line in top.lines if line.get_marker() == marker]
        rows = table[table["event"] == event]
        np.testing.assert_array_equal(marks.get_xydata(), rows[["step", "elbo"]])
    (counts,) = [line for line in bottom.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(counts.get_xydata(), table[["step", "nb_elbo"]].dropna())
    assert legend(np.array([top])) == ["split", "merge", "refresh"]
    assert top.get_xlim() == bottom.get_xlim()
    figure(top).draw_without_rendering()
    assert "\N{MINUS SIGN}1,200,000" in [label.get_text() for label in bottom.get_yticklabels()]


def test_a_low_start_does_not_set_the_axis():
    table = make_elbo()
    table.loc[0, "elbo"] = -1e6
    assert pl.elbo(table)[0].get_ylim()[0] > -1100


def test_an_elbo_of_pseudo_observations_alone():
    (ax,) = pl.elbo(make_elbo(1, counts=False))
    check(ax)
    assert legend(np.array([ax])) == ["split", "merge"]
    for none in (make_elbo().assign(elbo=np.nan), make_elbo().iloc[:0]):
        with pytest.raises(ValueError, match=f"none of {len(none)} rows of the table of the ELBO"):
            pl.elbo(none)


def test_composition_is_the_table():
    table = make_composition(6)
    table.iloc[2, 1] = np.nan
    ax = pl.module_composition(table, label="mean", xlabel="cluster")
    figure(ax).draw_without_rendering()
    np.testing.assert_array_equal(values(ax), table)
    assert mesh(ax).norm.vmin == -np.nanmax(np.abs(table))
    assert [label.get_text() for label in ax.get_xticklabels()] == list("abcd")
    assert [label.get_text() for label in ax.get_yticklabels()] == list("123456")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("cluster", "module")
    for none in (table.iloc[:0], table.iloc[:, :0]):
        with pytest.raises(ValueError, match="one module and one cell type at least"):
            pl.module_composition(none)


def test_maps_draw_on_given_axes():
    left, right = Figure(figsize=(11, 4), layout="constrained").subplots(1, 2)
    assert pl.module_composition(make_composition(), ax=left) is left
    assert pl.co_clustering(make_probabilities(50, 3), ax=right) is right
    check(left)


MISSING: list[tuple[Callable[..., object], list[pd.DataFrame], int, str]] = [
    (pl.modules, list(make_curves([1])), 0, "upper"),
    (pl.modules, list(make_curves([1])), 1, "module"),
    (pl.component_weights, [make_components(1)], 0, "weight_lower"),
    (pl.predictive, [make_predictive(2)], 0, "statistic"),
    (pl.elbo, [make_elbo(1)], 0, "nb_elbo"),
]


@pytest.mark.parametrize(("draw", "tables", "which", "column"), MISSING)
def test_missing_columns_are_named_in_one_line(draw, tables, which, column):
    without = list(tables)
    without[which] = tables[which].drop(columns=column)
    with pytest.raises(ValueError, match=f"has no column {column}; it has ") as caught:
        draw(*without)
    assert "\n" not in str(caught.value)


def test_tables_are_left_as_they_were():
    curves, modules = make_curves([3, 2], TWO)
    every = [curves, modules, make_components(2), make_probabilities(9, 2), make_predictive(5)]
    every += [make_elbo(), make_composition()]
    before = [table.copy() for table in every]
    pl.modules(every[0], every[1])
    draws = (pl.component_weights, pl.co_clustering, pl.predictive, pl.elbo, pl.module_composition)
    for draw, table in zip(draws, every[2:], strict=True):
        draw(table)
    for was, table in zip(before, every, strict=True):
        pd.testing.assert_frame_equal(was, table)
