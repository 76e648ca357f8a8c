"""Work side by side: in order, with one core for linear algebra, errors and all."""

import threading

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from expressway.core.threads import one_each, side_by_side


def cores():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_results_are_in_order():
    assert side_by_side(lambda i: i**2, range(50)) == [i**2 for i in range(50)]
    assert side_by_side(lambda i: i, []) == []
    main = threading.get_ident()
    assert all(each != main for each in side_by_side(lambda _: threading.get_ident(), range(4)))


def test_an_error_is_raised():
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda i: 1 / i, [1, 0, 2])


def test_linear_algebra_has_one_core_and_then_what_it_had():
    with threadpool_limits(2, "blas"):
        before = cores()
        assert all(set(each) <= {1} for each in side_by_side(lambda _: cores(), range(3)))
        assert cores() == before
        with one_each():
            assert set(cores()) <= {1}
        assert cores() == before
        assert one_each()(cores)() == [1] * len(before)
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda i: 1 / i, [0])
        assert cores() == before
