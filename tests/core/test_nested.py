import numpy as np
import pytest

from expressway._errors import InputError
from expressway.core.nested import basis, coordinates, leading, outside, without

RNG = np.random.default_rng(5)
GROUP = np.eye(3)[np.arange(12) % 3]
AGE = np.linspace(20, 70, 12)
FULL = np.column_stack([np.ones(12), GROUP[:, 1:], 1e6 * AGE])


def span(x):
    """Projector on the columns of a matrix."""
    return x @ np.linalg.pinv(x)


@pytest.mark.parametrize(
    "reduced",
    [
        FULL[:, [0, 3]],
        FULL[:, [1]],
        GROUP,  # the same span as the constant and two of its columns
        FULL @ (RNG.normal(size=(4, 2)) / [[1], [1], [1], [1e7]]),
        np.zeros((12, 0)),
    ],
)
def test_basis_is_orthonormal_and_begins_with_the_reduced_design(reduced):
    found = basis(FULL, reduced)
    q = reduced.shape[1]
    # Rounding of products of matrices of condition one; pinv of columns of 1e8 beside 1.
    np.testing.assert_allclose(found.T @ found, np.eye(4), atol=1e-13)
    np.testing.assert_allclose(found @ found.T, span(FULL / np.abs(FULL).max(0)), atol=1e-12)
    if q:
        first = span(reduced / np.abs(reduced).max(0))
        np.testing.assert_allclose(found[:, :q] @ found[:, :q].T, first, atol=1e-12)


@pytest.mark.parametrize(
    ("full", "reduced", "message"),
    [
        (FULL, np.column_stack([np.ones(12), AGE**2]), "column 1 .* no combination"),
        (FULL, FULL[:, [0, 0]], "reduced design has 2 columns of rank 1"),
        (np.column_stack([FULL, GROUP[:, 0]]), FULL[:, :1], "full design has 5 columns of rank 4"),
        (FULL, FULL, "reduced design has 4 columns and the full one 4"),
        (FULL[:, :1], FULL[:, :2], "reduced design has 2 columns and the full one 1"),
        (np.column_stack([FULL, np.zeros(12)]), FULL[:, :1], "5 columns of rank 4"),
        (np.where(FULL == 1, np.nan, FULL), FULL[:, :1], "full design has entries that are not"),
    ],
)
def test_designs_that_are_not_nested_are_refused(full, reduced, message):
    with pytest.raises(InputError, match=message) as error:
        basis(full, reduced)
    assert "\n" not in str(error.value)


def test_coordinates_meet_the_reduced_design():
    turned = FULL @ RNG.normal(size=(4, 2)) / [1, 1e7]
    for reduced in (FULL[:, [0, 3]], GROUP, turned):
        found = coordinates(FULL, reduced)
        # Rounding of sums of columns of 1e8.
        np.testing.assert_allclose(FULL @ found, reduced, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(coordinates(FULL, FULL[:, [0, 3]]), np.eye(4)[:, [0, 3]])
    expected = [[1, 0, 0], [-1, 1, 0], [-1, 0, 1], [0, 0, 0]]
    np.testing.assert_array_equal(coordinates(FULL, GROUP), expected)
    halved = [[0.5], [0], [0], [0]]
    np.testing.assert_allclose(coordinates(2 * FULL, FULL[:, :1]), halved, rtol=1e-14)
    with pytest.raises(InputError, match="no combination"):
        coordinates(FULL, AGE[:, None] ** 2)


def test_outside():
    reduced = np.column_stack([np.ones(12), AGE**2, AGE])
    np.testing.assert_array_equal(outside(FULL, reduced) > 1e-9, [False, True, False])


@pytest.mark.parametrize("contrast", [[0, 0, 2.0, 0], [0, 1.0, -1, 0], [1.0, 2, -1, 0.5]])
def test_without_a_contrast(contrast):
    contrast = np.array(contrast)
    found = without(contrast)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(contrast @ found, 0, atol=1e-14)
    for j in np.flatnonzero(contrast == 0):
        assert any(np.array_equal(column, np.eye(4)[j]) for column in found.T)
    rest = np.linalg.inv(leading(contrast))
    np.testing.assert_allclose(rest[0], contrast, atol=1e-14)
