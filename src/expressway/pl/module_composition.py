"""The figure of modules compared with cell types."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from . import _maps, _style


def module_composition(
    table: pd.DataFrame,
    *,
    label: str = "mean z-score of expression",
    xlabel: str = "cell type",
    ax: Axes | None = None,
) -> Axes:
    """Axes with a map of the mean expression of modules (rows) in cell types (columns).

    Values of both signs have colours about a white zero. A few that are more than three times as
    large as all others have the last colour of the bar, which then says how large the largest
    is. Missing values are grey. Rows and columns are in the order of the table.

    Parameters
    ----------
    table
        Index module, columns cell types: mean over the module's genes and the type's cells, each
        gene standardised over all cells.
    label
        Title of the bar of colours.
    xlabel
        What the columns are.
    ax
        Where to draw; by default a figure of its own.

    Raises
    ------
    ValueError
        There is no module or no cell type.
    """
    if table.empty:
        message = (
            f"the table of modules by cell type has {table.shape[0]} rows and {table.shape[1]} "
            "columns; it needs one module and one cell type at least."
        )
        raise ValueError(message)
    ax = _maps.axes(ax, list(table.index), list(table.columns))
    _style.titles(ax, xlabel, "module")
    _maps.cells(ax, table.to_numpy(dtype=float, na_value=np.nan), label)
    return ax
