"""That tests do check types and shapes, of functions in functions, too."""

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float

import typed
from expressway.core import linear

decorate = jaxtyping.jaxtyped(typechecker=beartype)
ONES = np.ones((3, 2))


@decorate
def doubled(
    a: Float[np.ndarray, "n p"], b: Float[np.ndarray, " p"], times: int = 2, *, short: bool = False
) -> Float[np.ndarray, "n p"]:
    @decorate
    def product(c: Float[np.ndarray, "p n"], k: int) -> Float[np.ndarray, "n p"]:
        return k * c.T if k < 9 else c[0]

    # Its axes are its own: here p is what is n outside.
    return product((a * b).T, times)[: -1 if short else None]


def test_what_fits_is_let_through():
    for _ in range(2):
        np.testing.assert_array_equal(doubled(ONES, np.array([1.0, 3.0]), 3), ONES * [3.0, 9.0])
    np.testing.assert_array_equal(doubled(np.ones((4, 1)), np.ones(1)), np.full((4, 1), 2.0))


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((ONES, np.ones(3)), {}),  # another p
        ((ONES, np.ones((1, 2))), {}),  # one axis more
        ((ONES.astype(int), np.ones(2)), {}),
        ((ONES, np.ones(2), 2.0), {}),
        ((ONES, np.ones(2)), {"short": True}),  # a result with another n
        ((ONES, np.ones(2), 9), {}),  # the inner one's result
    ],
)
def test_what_does_not_fit_is_refused(arguments, keywords):
    with pytest.raises(BeartypeCallHintViolation):
        doubled(*arguments, **keywords)


def test_functions_of_the_package_are_checked():
    assert jaxtyping.jaxtyped is typed.checked
    with pytest.raises(BeartypeCallHintViolation, match=r"_crossproduct\(\) parameter w"):
        linear.weighted_crossproduct(np.ones((3, 2)), np.ones((4, 2)))


def test_made_once_for_each_place():
    before = len(typed._made)
    for _ in range(3):
        doubled(ONES, np.ones(2))
    assert len(typed._made) <= before + 1
