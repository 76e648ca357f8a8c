"""Interpolants of functions known in closed form, and their minima."""

import numpy as np

from expressway.core.hermite import Interpolant

GENES = 40
RNG = np.random.default_rng(3)
CENTER = RNG.uniform(-2, 2, GENES)
SCALE = RNG.uniform(0.5, 3, GENES)


def wells(a):
    """cosh(a - center) × scale: its value and two derivatives."""
    away = a - CENTER[:, None]
    return tuple(SCALE[:, None] * f(away) for f in (np.cosh, np.sinh, np.cosh))


def interpolant(nodes, last=None):
    last = np.full(GENES, len(nodes) - 1) if last is None else last
    parts = [
        np.where(np.arange(len(nodes)) <= last[:, None], part, np.nan) for part in wells(nodes)
    ]
    return Interpolant(np.tile(nodes, (GENES, 1)), *parts, last)


def test_error_falls_with_the_sixth_power_of_the_distance():
    at, everyone = RNG.uniform(-3.5, 3.5, GENES), np.arange(GENES)
    truth = SCALE * np.cosh(at - CENTER)
    error = [
        np.max(np.abs(interpolant(np.linspace(-4, 4, m)).at(at, everyone)[0] - truth))
        for m in (9, 17, 33)
    ]
    # h^6 / 46080 times the sixth derivative, at most 3 cosh(6); and a 64th of it for h / 2.
    assert error[0] < 3 * np.cosh(6) / 46080
    assert error[1] < error[0] / 20
    assert error[2] < error[1] / 20


def test_slope_is_the_derivative_of_the_loss():
    table, everyone = interpolant(np.linspace(-4, 4, 9)), np.arange(GENES)
    at, h = RNG.uniform(-3.9, 3.9, GENES), 1e-5
    difference = table.at(at + h, everyone)[0] - table.at(at - h, everyone)[0]
    # Rounding of a loss of 100 over a step of 1e-5, and h² times a third derivative.
    np.testing.assert_allclose(table.at(at, everyone)[1], difference / (2 * h), atol=1e-7)


def test_minimum_from_either_side():
    table = interpolant(np.linspace(-4, 4, 9))
    for start in (np.full(GENES, -3.3), np.full(GENES, 3.9), CENTER + 1e-3, np.full(GENES, -9.0)):
        # h^5 / 720 × the sixth derivative, cosh(1), at most: 2e-3; half of it suffices.
        np.testing.assert_allclose(table.downhill(start), CENTER, atol=1e-3)


def test_minimum_outside_is_the_last_node_on_the_way():
    nodes = np.linspace(3.0, 6.0, 4)
    np.testing.assert_array_equal(interpolant(nodes).downhill(np.full(GENES, 5.2)), 3.0)
    nodes = np.linspace(-6.0, -3.0, 4)
    last = np.arange(GENES) % 3 + 1
    found = interpolant(nodes, last).downhill(np.full(GENES, -5.9))
    np.testing.assert_array_equal(found, nodes[last])


def test_genes_with_fewer_nodes_do_not_see_the_others():
    nodes = np.linspace(-4, 4, 9)
    last = np.where(CENTER < 0, 5, 8)
    few, all_ = interpolant(nodes, last), interpolant(nodes)
    start = np.full(GENES, -3.0)
    np.testing.assert_array_equal(few.downhill(start), all_.downhill(start))
    some = np.flatnonzero(CENTER < 0)
    np.testing.assert_array_equal(few.take(some).downhill(start[some]), few.downhill(start)[some])


def test_nearest_of_two_minima_downhill():
    """(a² - 4)² has minima at -2 and 2."""
    nodes = np.linspace(-4, 4, 17)
    square = nodes**2
    parts = ((square - 4) ** 2, 4 * nodes * (square - 4), 12 * square - 16)
    table = Interpolant(*(np.tile(part, (4, 1)) for part in (nodes, *parts)), np.full(4, 16))
    start = np.array([-3.2, -0.4, 0.3, 3.7])
    # A polynomial of degree four is interpolated exactly; six secants.
    np.testing.assert_allclose(table.downhill(start), 2 * np.sign(start), atol=1e-6)
