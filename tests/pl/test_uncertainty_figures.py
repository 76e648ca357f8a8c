import numpy as np
import pandas as pd
import pytest

from expressway import pl
from expressway.core.prediction import scores


def judged(sharper: float):
    """Scores of 2,000 random predictions of three classes, whose labels follow the first."""
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(2000, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.uniform(size=(2000, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=2)
    sharp = p**sharper
    return scores(sharp / sharp.sum(axis=1, keepdims=True), labels)


def test_calibration_draws_bins_and_writes_scores():
    given = {"right": judged(1.0), "too sure $": judged(3.0)}
    left, right = pl.calibration(given)
    found = given["right"]
    full = found.count >= 10
    dots = left.collections[1].get_offsets()
    np.testing.assert_allclose(dots, np.c_[found.confidence, found.bin_accuracy][full])
    (table,) = right.tables
    text = {where: cell.get_text().get_text() for where, cell in table.get_celld().items()}
    assert text[1, 0] == f"{found.accuracy:.4f}"
    assert text[2, 2] == f"{given['too sure $'].expected_calibration_error:.4f}"
    # What is too sure is below the line: farther than a standard error of 2,000, .01.
    assert given["too sure $"].expected_calibration_error > 0.05
    left.figure.draw_without_rendering()
    with pytest.raises(ValueError, match="no scores"):
        pl.calibration({})


def test_scaling_draws_each_method_with_its_slope():
    size = np.array([1e4, 1e5, 1e6])
    table = pd.concat(
        pd.DataFrame({"parameters": size, "seconds": seconds, "method": name})
        for name, seconds in (("CPU", 1e-4 * size), ("GPU", 1e-3 * size**0.5))
    )
    ax = pl.scaling(table)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), size)
    assert [text.get_text() for text in ax.texts] == ["slope 1.00", "slope 0.50"]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    ax.figure.draw_without_rendering()
    assert len(pl.scaling(table.drop(columns="method").iloc[:1]).texts) == 0
    with pytest.raises(ValueError, match="no column seconds"):
        pl.scaling(table.drop(columns="seconds"))
    with pytest.raises(ValueError, match="none of 3 rows"):
        pl.scaling(table.assign(seconds=np.nan).iloc[:3])
