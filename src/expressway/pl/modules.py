"""The modules figure: mean curves of modules of genes over the curves of their genes."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from expressway._types import Float

from . import _lines, _panels, _time

MOST = 12
# Genes in a panel.
_DRAWN = 100
# Inches, by columns.
_WIDTH = {1: 4.2, 2: 5.8, 3: _panels.PAGE, 4: _panels.PAGE}
_HEIGHT = {1: 3.2, 2: 2.2, 3: 1.9, 4: 1.6}
# Share of the members' values that the axis need not show, at either end.
_BEYOND = 0.02
_LEAST = 1e-6  # normalised counts; less has the logarithm of this


class _Scale(NamedTuple):
    """What is drawn of a curve of normalised counts."""

    log: bool
    centred: bool

    def of(self, rows: pd.DataFrame, *ends: str) -> pd.DataFrame:
        """Return rows of curves on the scale, each relative to its name's own average of means."""
        value = {name: _panels.number(rows, name) for name in ("mean", *ends)}
        if self.log:
            value = {name: np.log2(np.maximum(v, _LEAST)) for name, v in value.items()}
        if self.centred:
            code = pd.factorize(rows["name"])[0]
            own = pd.Series(value["mean"]).groupby(code).transform("mean").to_numpy(dtype=float)
            value = {name: v - own if self.log else v / own for name, v in value.items()}
        return rows.assign(**value)

    @property
    def text(self) -> str:
        """The title of the axis."""
        if self.centred:
            return "log₂ fold of own average" if self.log else "fold of own average"
        return "log₂ normalised count" if self.log else "normalised count"


class _Drawn(NamedTuple):
    """One panel's rows."""

    module: pd.DataFrame
    genes: pd.DataFrame
    size: int | None
    """How many genes the module has, if that is known."""


def modules(
    curves: pd.DataFrame,
    modules: pd.DataFrame | None = None,
    *,
    log: bool = True,
    centred: bool = True,
    share_y: bool = True,
    xlabel: str = "pseudotime",
) -> np.ndarray:
    """Array of Axes, one a module, the largest first: its curve and interval over its genes'.

    The twelve largest modules at most are drawn, and 100 genes of each, chosen evenly in the order
    of the curves; the title counts all. Lineages have colours of their own. An axis of values
    shows the modules' curves and all but 4 % of the genes' values, and intervals as far as they go
    beyond those by no more than their range.

    Parameters
    ----------
    curves
        Columns kind (``"gene"`` or ``"module"``), name, time, mean, lower, upper in normalised
        counts, and lineage if there are several. A module's name is its number.
    modules
        Index gene, column module (number, or missing): whose member each gene is. Without it no
        gene is drawn.
    log
        Draw log2 of the counts.
    centred
        Draw each curve, a module's too, relative to its own average over time and lineages (with
        ``log`` the average of logarithms), so that its shape is seen and not its level.
    share_y
        One axis of values for all panels.
    xlabel
        Title of the axes of time, with its unit.

    Raises
    ------
    ValueError
        A column is missing, or there is no module.
    """
    _panels.check(curves, "curves", "kind", "name", "time", "mean", "lower", "upper")
    if modules is not None:
        _panels.check(modules, "modules", "module")
    curves = curves.assign(name=_written(curves["name"]), group=_lineages(curves))
    every = _panels.where(curves, "kind", "module")
    if every.empty:
        message = (
            f"the table of curves has {len(curves)} rows and none of kind 'module'; it needs the "
            "curve of one module at least. Pass the curves of modules with those of genes."
        )
        raise ValueError(message)

    scale = _Scale(log, centred)
    member, sizes = _members(modules)
    names = [str(name) for name in _panels.distinct(every, "name")]
    names = sorted(names, key=lambda name: -sizes.get(name, 0))  # stable: else as in the table
    shown = names[:MOST]
    every = scale.of(_among(every, shown), "lower", "upper")
    some = _some(_panels.distinct(_panels.where(curves, "kind", "gene"), "name"), member, shown)
    genes = scale.of(_among(_panels.where(curves, "kind", "gene"), some))
    own = [member[str(name)] for name in genes["name"]]
    genes = genes.assign(value=genes["mean"], module=np.array(own, dtype=object))
    styles = _lines.groups(every, genes)

    columns = _panels.columns_for(len(shown), 4)
    size = (_WIDTH[columns], -(-len(shown) // columns) * _HEIGHT[columns] + 0.5)
    panels = _panels.grid(len(shown), columns, size, same_y=share_y)
    spans = []
    for ax, name in zip(panels, shown, strict=True):
        mine = _panels.where(every, "name", name)
        known = None if modules is None else sizes.get(name, 0)
        panel = _Drawn(mine, _panels.where(genes, "module", name), known)
        spans.append(_draw(ax, panel, styles))
        _panels.title(ax, _title(name, panel.size), size[0] / columns - (0.2 if share_y else 0.5))
        if centred:
            _lines.zero(ax, 0.0 if log else 1.0)
        ax.locator_params(axis="y", nbins=5)
    for ax, span in zip(panels, spans, strict=True):
        both = np.concatenate(spans) if share_y else span
        _lines.limits(ax, np.array([both.min(), both.max()]))
    _time.axis(panels, np.array([]), _panels.number(every, "time"), shorten=False)
    left = f" (the {MOST} largest of {len(names)} modules)" if len(names) > MOST else ""
    _panels.axis_titles(panels[0], xlabel + left, scale.text)
    if len(styles) > 1:
        keys = [_panels.key(s, str(group), marker=False) for group, s in styles.items()]
        _panels.legend(panels[0], keys)
    return _panels.array(panels)


def _written(names: Iterable[object]) -> np.ndarray:
    """Return names as text: 1 and 1.0 are the same module."""
    return np.array([_panels.written(name) for name in names], dtype=object)


def _lineages(curves: pd.DataFrame) -> np.ndarray:
    """Return the lineage of each row, "" where it has none."""
    if "lineage" not in curves.columns:
        return np.full(len(curves), "", dtype=object)
    lineage = curves["lineage"].to_numpy(dtype=object)
    return np.where(pd.isna(lineage), "", lineage)


def _members(modules: pd.DataFrame | None) -> tuple[dict[str, str], Counter[str]]:
    """Return the module of each gene that has one, and how many genes each has."""
    if modules is None:
        return {}, Counter()
    known = modules[modules["module"].notna().to_numpy()]
    module = _written(known["module"])
    return dict(zip(_written(known.index), module, strict=True)), Counter(module)


def _among(curves: pd.DataFrame, names: Sequence[Hashable]) -> pd.DataFrame:
    """Return the rows of some names."""
    return curves.take(np.flatnonzero(curves["name"].isin(list(names))))


def _some(
    genes: Sequence[Hashable], member: Mapping[str, str], shown: Sequence[str]
) -> list[Hashable]:
    """Return the genes of modules that are drawn, evenly chosen where they are many."""
    of: dict[str, list[Hashable]] = {name: [] for name in shown}
    for gene in genes:
        if (module := member.get(str(gene), "")) in of:
            of[module].append(gene)
    kept: list[Hashable] = []
    for part in of.values():
        at = np.linspace(0, len(part) - 1, min(_DRAWN, len(part))).round().astype(int)
        kept.extend(part[i] for i in at)
    return kept


def _draw(ax: Axes, panel: _Drawn, styles: dict[Hashable, _panels.Look]) -> Float[np.ndarray, "2"]:
    """Draw one module; return the lowest and the largest value to show."""
    several = len(styles) > 1
    drawn = panel.genes["name"].nunique()
    alpha = float(np.clip(10 / max(drawn, 1), 0.15, 0.5))
    for group, style in styles.items():
        thin = _lines.Faint(style.colour if several else "#777777", alpha)
        genes = _panels.where(panel.genes, "group", group)
        none = np.array([])
        _lines.faint(ax, genes, "name", alone=none, style=thin, transform=ax.transData)
        _lines.estimate(ax, _panels.where(panel.module, "group", group), style, ax.transData)
    value = panel.genes["value"].to_numpy(dtype=float)
    value = value[np.isfinite(value)]
    ends = np.quantile(value, [_BEYOND, 1 - _BEYOND]) if len(value) else np.array([])
    lower, upper = (_panels.number(panel.module, name) for name in ("lower", "upper"))
    inner = np.concatenate([ends, _panels.number(panel.module, "mean")])
    return _lines.span(inner, np.concatenate([lower, upper]))


def _title(name: str, size: int | None) -> str:
    """Return what a panel is called."""
    if size is None:
        return f"module {name}"
    return f"module {name}: {size:,} gene" + ("s" if size != 1 else "")
