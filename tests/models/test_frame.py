import re

import numpy as np
import pytest

from expressway._errors import InputError
from expressway.models import along
from expressway.models.frame import at, frame, raw_moments, raw_slope

ROUNDING = 1e-12  # of sums of 200 squares, or of numbers times a condition number of 450
T = np.linspace(0, 1, 200)
LINE = along.lineages(T[:, None])


def toy() -> tuple[np.ndarray, list[str]]:
    """Design of the published toy."""
    c = along.curve("rbf", 3, T, centers=[0.1, 0.4, 0.7], length=0.5)
    return along.design([c], LINE), along.names([c])


def truth(weights: list[float]) -> np.ndarray:
    """Log mean of the toy's genes: 2.45 and six other radial functions."""
    c = along.curve("rbf", 6, T, centers=[0.15, 0.23, 0.4, 0.67, 0.7, 0.8], length=0.59)
    return 2.45 + along.values(c, T) @ np.array(weights)


def test_toy():
    f = frame(*toy())
    assert f.condition == pytest.approx(449.5, abs=0.1)  # published: about 450
    assert f.condition == pytest.approx(np.linalg.cond(toy()[0]), rel=1e-10)  # rounding times it
    up = f.z.T @ truth([-1.0, -0.76, 0.1, 0.5, 1.1, 1.4]) / 200
    down = f.z.T @ truth([1.2, 0.46, -0.1, -0.9, -1.1, -1.4]) / 200
    # As published, to two digits.
    np.testing.assert_allclose(up, [3.63, -0.75, 0.24, 0], rtol=0, atol=0.005)
    np.testing.assert_allclose(down, [0.83, 0.78, -0.28, 0], rtol=0, atol=0.005)


@pytest.mark.parametrize("number", [1, 3, 8, 15])
def test_orthonormal(number):
    c = along.curve("rbf", number, T)
    x = along.design([c], LINE)
    f = frame(x, along.names([c]))
    np.testing.assert_allclose(f.z.T @ f.z / 200, np.eye(number + 1), rtol=0, atol=ROUNDING)
    np.testing.assert_array_equal(f.z[:, 0], 1)
    np.testing.assert_allclose(f.z @ f.forward, x, rtol=0, atol=ROUNDING)
    np.testing.assert_array_equal(f.forward, np.triu(f.forward))
    assert np.all(np.diag(f.forward) > 0)
    # Rounding times the condition number, 2e4 with 15 functions.
    np.testing.assert_allclose(f.raw @ f.forward, np.eye(number + 1), rtol=0, atol=1e-10)
    np.testing.assert_allclose(at(f, x), f.z, rtol=0, atol=1e-10)
    assert f.orthonormal


def test_curves_are_the_same():
    x, names = toy()
    f = frame(x, names)
    b = np.array([3.6, -0.7, 0.2, 0.1])
    np.testing.assert_allclose(x @ (f.raw @ b), f.z @ b, rtol=0, atol=1e-10)  # times condition
    few = x[[3, 150]]
    np.testing.assert_allclose(at(f, few), f.z[[3, 150]], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(at(f, few)[:, 0], 1)


def test_slopes():
    c = along.curve("spline", 4, T)
    f = frame(along.design([c], LINE), along.names([c]))
    step, inside = 1e-6, T[1:-1]
    ahead, behind = (at(f, along.rows_at([c], 0, inside + s * step)) for s in (1, -1))
    found = raw_slope(f, along.design_slopes([c], LINE)[1:-1])
    # Rounding / step, times the size of raw: 10; a third derivative of 1e4 times step^2.
    np.testing.assert_allclose(found, (ahead - behind) / (2 * step), rtol=0, atol=1e-7)


def test_not_orthonormal():
    x, names = toy()
    f = frame(x, names, orthonormal=False)
    np.testing.assert_array_equal(f.z, x)
    np.testing.assert_array_equal(f.raw, np.eye(4))
    np.testing.assert_array_equal(f.forward, np.eye(4))
    assert not f.orthonormal
    assert f.condition == frame(x, names).condition


def test_raw_moments():
    f = frame(*toy())
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(5, 4))
    half = rng.normal(size=(5, 4, 4))
    covariance = half @ np.swapaxes(half, 1, 2)
    found, spread = raw_moments(f, mean, covariance)
    for g in range(5):
        np.testing.assert_allclose(found[g], f.raw @ mean[g], rtol=1e-12)
        # Rounding of numbers up to 1e4.
        expected = f.raw @ covariance[g] @ f.raw.T
        np.testing.assert_allclose(spread[g], expected, rtol=0, atol=1e-12 * np.max(expected))


@pytest.mark.parametrize("orthonormal", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_dependent_columns_are_named(orthonormal, scale):
    x, names = toy()
    x = np.column_stack([x, scale * (x[:, 1] - 2 * x[:, 3])])
    message = (
        "columns of the design that lie in the span of its others: basis[1], basis[3], twin; "
        "take fewer basis functions, or a shorter length"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        frame(x, [*names, "twin"], orthonormal=orthonormal)


def test_columns_that_vanish_are_named():
    x, names = toy()
    with pytest.raises(InputError, match="span of its others: none; take"):
        frame(np.column_stack([x, np.zeros(200)]), [*names, "none"])
    with pytest.raises(InputError, match=r": level, basis\[1\]; take"):
        frame(np.ones((10, 2)), ["level", "basis[1]"])


def test_fewer_rows_than_columns():
    x, names = toy()
    with pytest.raises(InputError, match="columns of the design that lie in the span"):
        frame(x[[0, 80, 190]], names)


def test_units_of_columns_do_not_make_a_design_dependent():
    x, names = toy()
    x[:, 2] *= 1e-12
    f = frame(x, names)
    np.testing.assert_allclose(f.z, frame(toy()[0], names).z, rtol=0, atol=1e-10)


def test_level_comes_first():
    x, names = toy()
    with pytest.raises(InputError, match=r"first column of the design, basis\[3\], is not 1"):
        frame(x[:, ::-1].copy(), names[::-1])
