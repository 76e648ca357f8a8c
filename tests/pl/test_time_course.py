import io
from collections.abc import Callable, Iterable
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from expressway import pl
from expressway.pl import _panels

# Fourteen times in hours, dense and then sparse (those of Shoemaker et al. 2015).
HOURS = np.array([0, 3, 6, 9, 12, 18, 24, 30, 36, 48, 60, 72, 120, 168.0])
LATE = (72.0, 120.0, 168.0)
LONG = "ENSG00000141510.17_a_very_long_gene_name_of_which_a_panel_has_no_room_for_one_half"


def make_basis(functions: int = 5, late: Iterable[float] = LATE) -> pd.DataFrame:
    """Bumps between 0 and 60 hours, and indicators."""
    grid = np.unique(np.concatenate([np.linspace(0, 168, 337), HOURS]))
    bumps = {
        f"spline[{i + 1}]": np.clip(1 - ((grid - 60 * i / functions) / 20) ** 2, 0, None)
        for i in range(functions)
    }
    lone = {f"time[{t:g}]": (grid == t).astype(float) for t in late}
    return pd.DataFrame({**bumps, **lone}, index=pd.Index(grid, name="time"))


def make_curves(
    names: Iterable[object],
    groups: Iterable[object] = ("wt",),
    times: np.ndarray = HOURS,
    late: tuple[float, ...] = LATE,
    scale: float = 1.0,
) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for name in names:
        for group in groups:
            a, b = rng.normal(0, scale, 2)
            for time in times:
                mean = a * np.sin(time / times.max() * 4) + b * time / times.max()
                rows.append((name, group, time, mean, mean - scale / 4, mean + scale / 4))
    table = pd.DataFrame(rows, columns=["name", "group", "time", "mean", "lower", "upper"])
    return table.assign(indicator=table["time"].isin(late))


def make_points(curves: pd.DataFrame, replicates: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    table = pd.concat([curves] * replicates, ignore_index=True)
    table["value"] = table["mean"] + rng.normal(0, 0.1 * table["mean"].std(), len(table))
    return table[["name", "group", "time", "value"]]


def make_draws(curves: pd.DataFrame, draws: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    tables = [
        curves.assign(draw=i, value=curves["mean"] + rng.normal(0, 0.1)) for i in range(draws)
    ]
    return pd.concat(tables, ignore_index=True)[["name", "group", "draw", "time", "value"]]


def make_members(curves: pd.DataFrame, sizes: Iterable[int]) -> pd.DataFrame:
    """As many genes as each cluster, in the order of the table, is to have."""
    rng = np.random.default_rng(3)
    names = [f"gene_{name}" for name in curves["name"].unique()]
    tables = []
    for (_, part), name, size in zip(curves.groupby("name", sort=False), names, sizes, strict=True):
        table = part.loc[np.tile(part.index, size)]
        table["gene"] = np.repeat([f"{name}_{i}" for i in range(size)], len(part)).astype(object)
        table["value"] = table["mean"] + np.repeat(rng.normal(0, 0.2, size), len(part))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)[["name", "gene", "group", "time", "value"]]


def make_errors(
    df: Iterable[int] = range(3, 11), leave_out: Iterable[object] = (1, 2)
) -> pd.DataFrame:
    rows = [(d, left) for left in leave_out for d in df]
    table = pd.DataFrame(rows, columns=["df", "leave_out"])
    curve = 0.12 + 0.002 * (table["df"] - 6) ** 2
    shifts = {"train": -0.04, "ij": -0.006, "corrected": -0.002, "exact": 0.0, "test": 0.01}
    for name, shift in shifts.items():
        table[name] = curve + shift
        table[f"{name}_se"] = 0.005
    return table.assign(chosen=table["df"] == 6)


def make_folds(folds: int = 14, leave_out: Iterable[object] = (1, 2)) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    left = [value for value in leave_out for _ in range(folds)]
    exact = 0.1 * np.exp(rng.normal(0, 0.3, len(left)))
    return pd.DataFrame(
        {
            "df": 6,
            "leave_out": left,
            "left_out": [f"{time:g} h" for time in np.resize(HOURS, len(left))],
            "ij": 0.9 * exact,
            "corrected": 0.99 * exact,
            "exact": exact,
            "trusted": np.arange(len(left)) % 5 > 0,
        }
    )


def make_influence(clusters: int = 5, samples: Iterable[str] = ("a", "b", "c")) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    left = [("time", time) for time in HOURS] + [("sample", name) for name in samples]
    rows = [
        (kind, name, cluster, abs(rng.normal()))
        for kind, name in left
        for cluster in range(1, clusters + 1)
    ]
    return pd.DataFrame(rows, columns=["kind", "left_out", "cluster", "shift"])


def panels(drawn: Axes | np.ndarray) -> list[Axes]:
    return [drawn] if isinstance(drawn, Axes) else list(drawn)


def figure(drawn: Axes | np.ndarray) -> Figure:
    found = panels(drawn)[0].get_figure(root=True)
    assert found is not None
    return found


def legend(drawn: Axes | np.ndarray) -> list[str]:
    """What the legend says, as it is read: row by row."""
    figure(drawn).draw_without_rendering()
    texts = [text for found in figure(drawn).legends for text in found.get_texts()]
    texts.sort(key=lambda text: (-round(box(text).y0 / 10), box(text).x0))
    return [text.get_text() for text in texts]


def titles(drawn: np.ndarray) -> list[str]:
    return [ax.get_title(loc="left") for ax in panels(drawn)]


def strings(drawn: Axes | np.ndarray) -> list[Text]:
    """Everything written in a figure that can be seen."""
    return [
        text
        for text in figure(drawn).findobj(Text)
        if isinstance(text, Text) and text.get_visible() and text.get_text()
    ]


def box(text: Text) -> Bbox:
    return Text.get_window_extent(text)  # without the arrow of an annotation


def check(drawn: Axes | np.ndarray) -> None:
    """See that nothing is empty, cut off, or written over something else."""
    figure(drawn).draw_without_rendering()
    whole = figure(drawn).bbox.padded(1)  # a pixel, as letters are rounded to whole ones
    for ax in panels(drawn):
        assert ax.has_data()
        assert ax.bbox.width > 30
        assert ax.bbox.height > 30
    beyond = ticks_beyond(figure(drawn))
    written = [text for text in strings(drawn) if text not in beyond]
    for text in written:
        corners = box(text).get_points()
        assert all(whole.contains(*corner) for corner in corners), text.get_text()
    # Pixels that letters' own margins may share
    boxes = [(text.get_text(), box(text).padded(-1.5)) for text in written]
    for (a, first), (b, second) in combinations(boxes, 2):
        assert not first.overlaps(second), (a, b)


def ticks_beyond(whole: Figure) -> list[Text]:
    """The texts of ticks that matplotlib keeps but does not draw, as they are beyond their axis."""
    return [
        label
        for ax in whole.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not axis.get_view_interval().min() <= tick.get_loc() <= axis.get_view_interval().max()
    ]


def numbers(ax: Axes, name: str = "x") -> list[str]:
    """What the ticks of an axis say."""
    axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
    return [label.get_text() for label in axis.get_majorticklabels() if label.get_text()]


def place(ax: Axes, time: float) -> float:
    """Where a time is, as a share of the axis."""
    pixel = ax.transData.transform((time, 0))[0]
    return float(ax.transAxes.inverted().transform((pixel, 0))[0])


def faint(ax: Axes) -> list[np.ndarray]:
    """The many thin lines."""
    return [
        np.asarray(path.vertices)
        for found in ax.collections
        if isinstance(found, LineCollection) and found.get_rasterized()
        for path in found.get_paths()
    ]


def bold(ax: Axes) -> list[np.ndarray]:
    """The curves."""
    return [
        np.asarray(line.get_xydata())
        for line in ax.lines
        if line.get_linewidth() == 1.3 and line.get_linestyle() != "None"
    ]


AWKWARD: dict[str, Callable[[], Axes | np.ndarray]] = {
    "basis": lambda: pl.basis(make_basis(), HOURS),
    "basis of twelve": lambda: pl.basis(make_basis(12), HOURS, shorten_gaps=False),
    "basis without indicators": lambda: pl.basis(make_basis(1, ()), [0, 0.5, 168]),
    "curves": lambda: drawn_curves([f"gene_{i}" for i in range(12)], ("K", "M", "N")),
    "curves, long names": lambda: drawn_curves(
        [LONG, f"{LONG} again", "$x_1$"], (LONG, f"{LONG} again")
    ),
    "curves at decimals": lambda: drawn_curves(
        ["a", "b"], times=np.array([0, 0.25, 0.5, 1.5, 2.75]), late=()
    ),
    "curves at many times": lambda: drawn_curves(list("abcd"), times=np.linspace(0, 0.987, 61)),
    "curves at one time": lambda: drawn_curves(["a"], times=np.array([3.0]), late=()),
    "curves of nine groups": lambda: drawn_curves(["a"], [f"group {i}" for i in range(9)]),
    "large numbers": lambda: drawn_curves(["a"], scale=3e6),
    "small numbers": lambda: drawn_curves(["a"], scale=3e-6),
    "clusters": lambda: drawn_clusters([7, 40, 1, 250, 0]),
    "one cluster": lambda: drawn_clusters([12]),
    "forty clusters": lambda: drawn_clusters([1234, *range(39)]),
    "cross-validation": lambda: pl.cross_validation(make_errors()),
    "one df": lambda: pl.cross_validation(make_errors([6], [1])),
    "many df": lambda: pl.cross_validation(make_errors(range(3, 60), [1, 2])),
    "folds": lambda: pl.fold_errors(make_folds()),
    "one fold": lambda: pl.fold_errors(make_folds(1, [1])),
    "influence": lambda: pl.cluster_influence(make_influence()),
    "influence on one cluster": lambda: pl.cluster_influence(
        make_influence(1), label="shift in posterior standard deviations of the cluster's curve"
    ),
    "influence of many samples": lambda: pl.cluster_influence(
        make_influence(30, [f"GSM{1557140 + i}" for i in range(126)]), kind="sample"
    ),
    "influence of long names": lambda: pl.cluster_influence(
        make_influence(3, [LONG, f"{LONG} again"]), kind="sample"
    ),
}


def drawn_curves(names, groups=("wt",), draws: int = 0, **of_curves) -> np.ndarray:
    curves = make_curves(names, groups, **of_curves)
    return pl.curves(curves, make_points(curves), make_draws(curves, draws) if draws else None)


def drawn_clusters(sizes, groups=("wt",), **options) -> np.ndarray:
    curves = make_curves(range(1, len(sizes) + 1), groups)
    return pl.clusters(curves, make_members(curves, sizes), **options)


@pytest.mark.parametrize("name", AWKWARD)
def test_nothing_is_cut_off_or_overlaps(name):
    check(AWKWARD[name]())


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_figures_can_be_saved(kind):
    for drawn in (
        AWKWARD["basis"](),
        drawn_curves(["a"], ("K", "M"), draws=3),
        drawn_clusters([250, 2]),
        pl.cross_validation(make_errors()),
        pl.fold_errors(make_folds()),
        pl.cluster_influence(make_influence()),
    ):
        file = io.BytesIO()
        figure(drawn).savefig(file, format=kind, dpi=80)
        # Many lines are one picture, not thousands of paths.
        assert 3_000 < len(file.getvalue()) < 200_000


def test_a_basis_has_lines_and_stems():
    table = make_basis(functions=4)
    ax = pl.basis(table, HOURS, xlabel="time (h)")
    assert isinstance(ax, Axes)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (h)", "basis function")
    assert legend(ax) == [f"spline[{i}]" for i in range(1, 5)] + ["indicators"]
    lines = {str(line.get_label()): np.asarray(line.get_xydata()) for line in ax.lines}
    for name in table.columns[:4]:
        drawn = ~np.isnan(lines[name][:, 1])
        np.testing.assert_array_equal(lines[name][drawn, 1], table[name].to_numpy()[drawn])
        assert not np.any(table[name].to_numpy()[~drawn])  # only zeros are left out
    (stems,) = [found for found in ax.collections if isinstance(found, LineCollection)]
    ends = [np.asarray(segment).tolist() for segment in stems.get_segments()]
    assert ends == [[[time, 0], [time, 1]] for time in LATE]


def test_a_function_that_jumps_to_zero_draws_no_wall():
    time = np.linspace(0, 10, 101)
    ramp = np.where(time <= 5, time / 5, 0.0)
    wave = np.sin(time)
    table = pd.DataFrame({"ramp": ramp, "wave": wave}, index=time)
    first, second = pl.basis(table, [0, 5, 10]).lines[:2]
    drawn = np.asarray(first.get_xydata())
    drawn = drawn[~np.isnan(drawn[:, 1])]
    assert drawn[0].tolist() == [0, 0]
    assert drawn[-1].tolist() == [5, 1]
    np.testing.assert_array_equal(second.get_ydata(), wave)


def test_the_rug_is_at_the_samples():
    ax = pl.basis(make_basis(), [*HOURS, 3, 3])
    (rug,) = [line for line in ax.lines if line.get_marker() == 2]
    np.testing.assert_array_equal(rug.get_xdata(), HOURS)


def test_long_gaps_are_shortened_and_marked():
    shortened = pl.basis(make_basis(), HOURS)
    linear = pl.basis(make_basis(), HOURS, shorten_gaps=False)
    assert place(linear, 60) == pytest.approx(0.05 / 1.1 + 60 / 168 / 1.1, abs=1e-9)
    assert place(shortened, 60) > 0.5
    # Within 0 to 72 hours it stays to scale; the gaps have three times the median one, 6 hours.
    hour = (place(shortened, 72) - place(shortened, 0)) / 72
    # 1e-9: floating point
    assert place(shortened, 24) - place(shortened, 18) == pytest.approx(6 * hour, abs=1e-9)
    assert place(shortened, 120) - place(shortened, 72) == pytest.approx(18 * hour, abs=1e-9)
    marks = [line for line in shortened.lines if np.array_equal(line.get_xdata(), [96, 144])]
    assert len(marks) == 3
    assert not [line for line in linear.lines if np.array_equal(line.get_xdata(), [96, 144])]


def test_even_times_are_to_scale():
    times = np.array([0, 15, 30, 60, 120, 180.0])
    ax = drawn_curves(["a"], times=times, late=())[0]
    assert ax.get_xscale() == "linear"


@pytest.mark.parametrize(
    "draw", [AWKWARD["basis"], AWKWARD["clusters"], lambda: drawn_curves(["a", "b"])]
)
def test_times_that_are_written_are_samples(draw):
    drawn = draw()
    figure(drawn).draw_without_rendering()
    said = [numbers(ax) for ax in panels(drawn) if numbers(ax)]
    assert said
    for texts in said:
        assert set(texts) <= {f"{time:g}" for time in HOURS}
        assert (texts[0], texts[-1]) == ("0", "168")


def test_curves_have_a_panel_a_gene():
    curves = make_curves(["b", "a"], ("K", "M"))
    points = make_points(curves)
    drawn = pl.curves(curves, points, make_draws(curves), ylabel="log₂ counts", xlabel="hours")
    assert drawn.shape == (2,)
    assert titles(drawn) == ["b", "a"]
    written = [text.get_text() for text in strings(drawn)]
    assert written.count("log₂ counts") == 1
    assert written.count("hours") == 1
    assert legend(drawn) == ["K", "M"]
    for ax, name in zip(drawn, ("b", "a"), strict=True):
        samples = [line for line in ax.lines if line.get_alpha() == 0.75]
        for line, group in zip(samples, ("K", "M"), strict=True):
            here = points[(points["name"] == name) & (points["group"] == group)]
            np.testing.assert_array_equal(line.get_xydata(), here[["time", "value"]])
        assert len({line.get_color() for line in samples}) == 2
        assert len({line.get_marker() for line in samples}) == 2


def test_isolated_estimates_are_not_joined():
    curves = make_curves(["a"])
    points, draws = make_points(curves), make_draws(curves, draws=5)
    (ax,) = pl.curves(curves, points, draws)
    (line,) = bold(ax)
    early = ~curves["time"].isin(LATE)
    np.testing.assert_array_equal(line, curves.loc[early, ["time", "mean"]])
    assert len(faint(ax)) == 5
    assert max(path[:, 0].max() for path in faint(ax)) == 60
    bars = [
        found
        for found in ax.collections
        if isinstance(found, LineCollection) and not found.get_rasterized()
    ]
    (ends,) = [np.array(found.get_segments()) for found in bars]
    np.testing.assert_array_equal(ends[:, :, 0].T, [LATE, LATE])
    late = curves.loc[~early, ["lower", "upper"]]
    np.testing.assert_array_equal(ends[:, :, 1], late)
    # Without the column all are joined.
    (ax,) = pl.curves(curves.drop(columns="indicator"), points, draws)
    assert len(bold(ax)[0]) == len(HOURS)


def test_a_curve_with_missing_values():
    curves = make_curves(["a", "b"], ("K", "M"))
    points = make_points(curves)
    curves.loc[[2, 3], ["mean", "lower", "upper"]] = np.nan
    curves.loc[curves["name"].eq("b") & curves["group"].eq("M"), ["mean", "lower"]] = np.nan
    curves.loc[5, "upper"] = np.inf
    points.loc[points.index[::3], "value"] = np.nan
    check(pl.curves(curves, points))


def test_wide_intervals_run_out_of_the_panel():
    curves = make_curves(["a"])
    points = make_points(curves)
    inner = [*curves["mean"], *points["value"]]
    curves.loc[3, "upper"] = 1000.0
    low, high = pl.curves(curves, points)[0].get_ylim()
    assert high < max(inner) + 1.5 * np.ptp(inner)
    assert low < min(inner)


def test_long_names_break_between_words():
    first, second = titles(drawn_curves([LONG, "b", "c"]))[0].split("\n")
    assert first.endswith("_")
    assert LONG.startswith(first)
    assert LONG.endswith(second.split("…")[-1])


def test_too_many_genes():
    curves = make_curves(range(13))
    with pytest.raises(ValueError, match=r"has 13 genes; a figure shows 1 to 12"):
        pl.curves(curves, make_points(curves))
    with pytest.raises(ValueError, match=r"has 0 genes"):
        pl.curves(curves.iloc[:0], make_points(curves))


def test_clusters_come_by_size():
    drawn = drawn_clusters([3, 1200, 1, 0], ylabel="log₂ change")
    assert titles(drawn) == [
        "cluster 2: 1,200 genes",
        "cluster 1: 3 genes",
        "cluster 3: 1 gene",
        "cluster 4: 0 genes",
    ]
    assert [len(faint(ax)) for ax in drawn] == [200, 3, 1, 0]
    assert len({ax.get_ylim() for ax in drawn}) == 1
    apart = drawn_clusters([3, 1200, 1, 0], share_y=False)
    assert len({ax.get_ylim() for ax in apart}) == 4


def test_members_are_chosen_evenly():
    curves = make_curves([1], late=())
    members = make_members(curves, [500])
    members["value"] = members["gene"].str.rsplit("_", n=1).str[1].astype(float)
    (ax,) = pl.clusters(curves, members)
    shown = np.array([path[0, 1] for path in faint(ax)])
    assert len(shown) == 200
    assert (shown[0], shown[-1]) == (0, 499)
    assert set(np.diff(shown)) <= {2, 3}


def test_groups_of_a_cluster_have_colours():
    drawn = drawn_clusters([5, 8], ("K", "M"))
    assert legend(drawn) == ["K", "M"]
    for ax, size in zip(drawn, (8, 5), strict=True):
        many = [found for found in ax.collections if found.get_rasterized()]
        colours = [to_hex(found.get_edgecolor()[0], keep_alpha=False) for found in many]
        assert len(set(colours)) == 2
        assert len(faint(ax)) == 2 * size
        dashes = {
            line.get_linestyle()
            for line in ax.lines
            if line.get_linewidth() == 1.3 and line.get_linestyle() != "None"
        }
        assert len(dashes) == 2


def test_a_few_far_members_do_not_set_the_axis():
    curves = make_curves([1, 2])
    members = make_members(curves, [400, 10])
    members.loc[members["gene"] == "gene_1_7", "value"] += 0.0
    lone = members.index[members["gene"] == "gene_1_7"][:1]
    high = pl.clusters(curves, members)[0].get_ylim()[1]
    members.loc[lone, "value"] = 1000.0
    assert pl.clusters(curves, members)[0].get_ylim()[1] == pytest.approx(high, rel=0.2)


def test_members_need_a_curve():
    curves = make_curves([1, 2])
    members = make_members(curves, [2, 2])
    with pytest.raises(ValueError, match=r"none of cluster 2; it needs"):
        pl.clusters(curves[curves["name"] == 1], members)
    with pytest.raises(ValueError, match=r"none of cluster any"):
        pl.clusters(curves.iloc[:0], members.iloc[:0])


def test_errors_have_a_panel_for_each_left_out():
    table = make_errors(leave_out=[1, 2, 3])
    drawn = pl.cross_validation(table)
    assert titles(drawn) == ["leave out 1", "leave out 2", "leave out 3"]
    assert legend(drawn) == [
        "training",
        "jackknife",
        "jackknife, corrected",
        "exact cross-validation",
        "held-out genes",
        "chosen",
    ]
    written = [text.get_text() for text in strings(drawn)]
    assert "mean squared error" in written
    assert "degrees of freedom" in written
    for ax in drawn:
        joined = [line for line in ax.lines if line.get_linestyle() != "None"]
        for line, name in zip(joined, ("train", "ij", "corrected", "exact", "test"), strict=True):
            np.testing.assert_array_equal(
                line.get_xydata(), table.loc[table["leave_out"] == 1, ["df", name]]
            )
        (stripe,) = ax.patches
        assert stripe.get_extents().transformed(ax.transData.inverted()).intervalx == pytest.approx(
            [5.5, 6.5]
        )
        assert not ax.texts


def test_standard_errors_are_bars():
    table = make_errors([4, 5, 6], [1])[["df", "leave_out", "exact", "exact_se"]]
    table.loc[1, "exact_se"] = np.nan
    (ax,) = pl.cross_validation(table)
    segments = ax.collections[0].get_segments()
    for i in (0, 2):
        ends = table["exact"][i] + np.array([-0.005, 0.005])
        np.testing.assert_allclose(segments[i][:, 1], ends, rtol=1e-12)  # rounding
    assert not len(segments[1])
    assert legend(ax) == ["exact cross-validation"]


def test_a_far_error_is_written_at_the_edge():
    table = make_errors()
    usual = pl.cross_validation(table)[0].get_ylim()
    table.loc[0, ["exact", "exact_se"]] = [1.234, 3.0]
    drawn = pl.cross_validation(table)
    check(drawn)
    assert [text.get_text() for ax in drawn for text in ax.texts] == ["1.23"]
    triangle = [line for line in drawn[0].lines if line.get_markersize() == 5.5][-1].get_xydata()
    assert usual[1] < drawn[0].get_ylim()[1] < 1.2 * usual[1]
    assert np.asarray(triangle)[:, 0] == [3]
    assert usual[0] < np.asarray(triangle)[0, 1] < drawn[0].get_ylim()[1]
    assert all(np.max(line.get_ydata()) < drawn[0].get_ylim()[1] for line in drawn[0].lines)
    assert drawn[0].get_ylim() == drawn[1].get_ylim()


def test_missing_kinds_of_errors_have_no_entry():
    table = make_errors().drop(columns=["test", "test_se", "train_se", "chosen"])
    table["corrected"] = np.nan
    table.loc[table["leave_out"] == 2, ["ij", "exact"]] = np.nan
    drawn = pl.cross_validation(table, error="deviance")
    check(drawn)
    assert legend(drawn) == ["training", "jackknife", "exact cross-validation"]
    assert len(drawn) == 2
    table["train"] = np.where(table["leave_out"] == 2, np.nan, table["train"])
    assert len(pl.cross_validation(table)) == 1  # a panel with nothing is left out
    with pytest.raises(ValueError, match="has none to draw"):
        pl.cross_validation(table[["df", "leave_out", "corrected"]])
    with pytest.raises(ValueError, match="error is 'cubed'; it must be one of 'squared'"):
        pl.cross_validation(table, error="cubed")


def test_numbers_of_clusters_are_panels_or_the_axis():
    table = pd.concat([make_errors().assign(clusters=k) for k in (5, 10)], ignore_index=True)
    drawn = pl.cross_validation(table)
    check(drawn)
    assert titles(drawn) == [f"leave out {left}, {k} clusters" for left in (1, 2) for k in (5, 10)]
    drawn = pl.cross_validation(table[table["df"] == 6])
    figure(drawn).draw_without_rendering()
    assert titles(drawn) == ["leave out 1", "leave out 2"]
    assert "number of clusters" in [text.get_text() for text in strings(drawn)]
    assert numbers(drawn[0]) == ["5", "10"]


def test_folds_lie_about_the_line_of_equality():
    table = make_folds()
    drawn = pl.fold_errors(table, error="absolute")
    assert titles(drawn) == ["jackknife", "jackknife, corrected"]
    assert legend(drawn) == ["leave out 1", "leave out 2", "not trusted"]
    written = [text.get_text() for text in strings(drawn)]
    assert "predicted mean absolute error" in written
    assert "exact mean absolute error" in written
    for ax, name in zip(drawn, ("ij", "corrected"), strict=True):
        assert ax.get_xlim() == ax.get_ylim()
        assert ax.get_aspect() == 1
        assert np.ptp(ax.lines[0].get_xydata(), axis=1).tolist() == [0, 0]
        dots = np.concatenate([np.asarray(found.get_offsets()) for found in ax.collections])
        expected = table[[name, "exact"]].to_numpy()
        np.testing.assert_array_equal(dots[np.lexsort(dots.T)], expected[np.lexsort(expected.T)])
        hollow = [found for found in ax.collections if not len(found.get_facecolor())]
        assert sum(len(found.get_offsets()) for found in hollow) == (~table["trusted"]).sum()


def test_far_folds_are_named_at_the_edge():
    table = make_folds(folds=20)
    usual = pl.fold_errors(table)[0].get_xlim()
    table.loc[3, "exact"] = 5.0
    table.loc[30, ["ij", "exact"]] = [2.5, 4.0]
    drawn = pl.fold_errors(table)
    check(drawn)
    names = table["left_out"]
    first, second = ([text.get_text() for text in ax.texts] for ax in drawn)
    assert first == [f"{names[3]}: 5", f"{names[30]}: 2.5 / 4"]
    assert second == [f"{names[3]}: 5", f"{names[30]}: 4"]
    for ax in drawn:
        assert ax.get_xlim()[1] < 1.3 * usual[1]
        for found in ax.collections:
            assert np.all(np.asarray(found.get_offsets()) < ax.get_xlim()[1])


def test_names_of_far_folds_that_are_alike_do_not_overlap():
    table = make_folds(folds=20)
    table.loc[[3, 4, 5], ["ij", "corrected"]] = 0.1
    table.loc[[3, 4, 5], "exact"] = [5.0, 6.0, 7.0]
    drawn = pl.fold_errors(table)
    check(drawn)
    assert all(len(ax.texts) >= 2 for ax in drawn)


def test_folds_without_an_exact_error():
    table = make_folds()
    table.loc[table.index[::2], "exact"] = np.nan
    (ax,) = pl.fold_errors(table.assign(corrected=np.nan))
    assert sum(len(found.get_offsets()) for found in ax.collections) == len(table) / 2
    check(pl.fold_errors(table.drop(columns="ij")))
    with pytest.raises(ValueError, match="none of 28 folds has both"):
        pl.fold_errors(table.assign(exact=np.nan))


def mesh(ax: Axes) -> np.ma.MaskedArray:
    (found,) = [found for found in ax.collections if isinstance(found, QuadMesh)]
    values = found.get_array()
    assert isinstance(values, np.ma.MaskedArray)
    return values


def test_influence_is_a_map():
    table = make_influence(clusters=12).sample(frac=1.0, random_state=0)
    table = table[(table["cluster"] != 3) | (table["left_out"] != 6)]
    ax = pl.cluster_influence(table)
    figure(ax).draw_without_rendering()
    times = table[table["kind"] == "time"].astype({"left_out": float})
    expected = times.pivot(index="cluster", columns="left_out", values="shift")
    np.testing.assert_array_equal(mesh(ax).filled(np.nan), expected)
    assert np.ma.count_masked(mesh(ax)) == 1
    assert numbers(ax) == [f"{time:g}" for time in HOURS]
    assert numbers(ax, "y") == [str(k) for k in range(1, 13)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time left out", "cluster")
    assert ax.get_ylim() == (11.5, -0.5)  # the first cluster on top
    samples = pl.cluster_influence(table, kind="sample", label="distance")
    assert samples.get_xlabel() == "sample left out"
    assert mesh(samples).shape == (12, 3)
    assert "distance" in [text.get_text() for text in strings(samples)]


def test_a_far_shift_does_not_set_the_colours():
    table = make_influence()
    table.loc[7, "shift"] = 50.0
    ax = pl.cluster_influence(table)
    check(ax)
    (found,) = [found for found in ax.collections if isinstance(found, QuadMesh)]
    assert found.norm.vmin == 0
    assert found.norm.vmax == table.loc[table["kind"] == "time", "shift"].nlargest(2).iloc[1]
    assert "shift; largest 50" in [text.get_text() for text in strings(ax)]


def test_signed_shifts_are_centred():
    table = make_influence()
    table["shift"] -= 0.5
    (found,) = [
        found for found in pl.cluster_influence(table).collections if isinstance(found, QuadMesh)
    ]
    assert found.norm.vmin == -found.norm.vmax


def test_influence_needs_one_row_each():
    table = make_influence()
    with pytest.raises(ValueError, match="of kind 'gene'; there are 'time', 'sample'"):
        pl.cluster_influence(table, kind="gene")
    with pytest.raises(ValueError, match="several shifts of cluster 1 without 0"):
        pl.cluster_influence(pd.concat([table, table.iloc[:1]], ignore_index=True))


def test_influence_and_basis_draw_on_given_axes():
    left, right = Figure(figsize=(11, 4), layout="constrained").subplots(1, 2)
    assert pl.basis(make_basis(), HOURS, ax=left) is left
    assert pl.cluster_influence(make_influence(), ax=right) is right
    check(left)


CURVES = make_curves(["a"])
MISSING: list[tuple[Callable[..., object], list[pd.DataFrame], int, str]] = [
    (pl.curves, [CURVES, make_points(CURVES)], 0, "upper"),
    (pl.curves, [CURVES, make_points(CURVES)], 1, "group"),
    (pl.curves, [CURVES, make_points(CURVES), make_draws(CURVES)], 2, "draw"),
    (pl.clusters, [CURVES, make_members(CURVES, [2])], 0, "mean"),
    (pl.clusters, [CURVES, make_members(CURVES, [2])], 1, "gene"),
    (pl.cross_validation, [make_errors()], 0, "df"),
    (pl.fold_errors, [make_folds()], 0, "left_out"),
    (pl.cluster_influence, [make_influence()], 0, "cluster"),
]


@pytest.mark.parametrize(("draw", "tables", "which", "column"), MISSING)
def test_missing_columns_are_named_in_one_line(draw, tables, which, column):
    without = list(tables)
    without[which] = tables[which].drop(columns=column)
    with pytest.raises(ValueError, match=f"has no column {column}; it has ") as caught:
        draw(*without)
    assert "\n" not in str(caught.value)


def test_a_basis_needs_times_and_functions():
    table = make_basis()
    with pytest.raises(ValueError, match="337 rows and 0 columns"):
        pl.basis(table[[]], HOURS)
    with pytest.raises(ValueError, match="it needs to be times, as numbers"):
        pl.basis(table.set_axis(table.index.astype(str)), HOURS)


def test_tables_are_left_as_they_were():
    curves = make_curves([1, 2], ("K", "M"))
    tables = [curves, make_points(curves), make_draws(curves)]
    members, errors, folds = make_members(curves, [3, 2]), make_errors(), make_folds()
    influence = make_influence()
    every = [*tables, members, errors, folds, influence]
    before = [table.copy() for table in every]
    pl.curves(*tables)
    pl.clusters(curves, members)
    pl.cross_validation(errors)
    pl.fold_errors(folds)
    pl.cluster_influence(influence)
    for was, table in zip(before, every, strict=True):
        pd.testing.assert_frame_equal(was, table)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3, 4], np.inf),
        ([1, 2, 3, 40], 3),  # one value may be left out
        ([1, 2, 3, 40, 400], 40),  # of five only one, so the rest is as wide as it is
        ([*range(1, 21), 100, 1000], 20),
        ([*range(1, 21), 20.1, 1000], 20.1),
        ([1, 1, 1, 1, 1.5], np.inf),  # far from others that are equal, but not large
        ([1, 1, 1, np.nan, 9], 1),
        ([], np.inf),
    ],
)
def test_the_ceiling_leaves_out_a_few_far_values(values, expected):
    assert _panels.ceiling(np.array(values, dtype=float)) == expected


def test_grids_are_square_or_wider():
    shapes = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 7: 4, 8: 4, 9: 3, 11: 4, 12: 4}
    assert {n: _panels.columns_for(n, 4) for n in shapes} == shapes
    assert _panels.columns_for(40, 5) == 5


def test_names_lose_their_middle():
    assert _panels.shortened("short", 100.0, 8.0) == "short"
    cut = _panels.shortened(LONG, 100.0, 8.0)
    assert _panels.length(cut, 8.0) <= 100
    start, end = cut.split("…")
    assert LONG.startswith(start)
    assert LONG.endswith(end)
    assert abs(len(start) - len(end)) <= 1


def test_groups_look_different():
    looks = [_panels.look(i) for i in range(28)]
    assert len({(look.colour, look.dash) for look in looks}) == 28
    assert all(a.colour != b.colour for a, b in pairwise(looks))
