"""Clusters that draws tell of do not depend on their labels."""

import numpy as np

from expressway.models.dirichlet_draws import Draws


def test_what_is_shared_does_not_depend_on_labels():
    eta = np.array([[0.0], [0.1], [5.0], [5.1], [5.2]])[None].repeat(2, axis=0)
    mean = np.array([[[0.0, 5.0]], [[5.0, 0.0]]])  # the second draw has labels exchanged
    weight = np.array([[[0.4, 0.6]], [[0.6, 0.4]]])
    draws = Draws(eta, mean, np.full((2, 1, 2), 0.5), weight)
    first = np.array([[1, 1, 0, 0, 0]])
    same = first.T @ first + (1 - first).T @ (1 - first)
    np.testing.assert_allclose(draws.together(0), same, atol=1e-15)  # exp(-5²/2/.5²) is 2e-22
    np.testing.assert_array_equal(draws.labels(0), [2, 2, 1, 1, 1])
    np.testing.assert_allclose(draws.label()[:, 0], 0.4 * 0 + 0.5, atol=1e-15)


def test_half_a_share():
    """A gene between two components of equal weight is in each with probability 1/2."""
    draws = Draws(
        np.array([[[-1.0], [0.0], [1.0]]]),
        np.array([[[-1.0, 1.0]]]),
        np.full((1, 1, 2), 0.1),
        np.full((1, 1, 2), 0.5),
    )
    expected = [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]
    np.testing.assert_allclose(draws.together(0), expected, atol=1e-15)
