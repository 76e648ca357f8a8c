"""Work that goes side by side on all cores, each piece on one."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_each() -> Iterator[None]:
    """A context, or decorator, in which a call of linear algebra takes one core.

    Its threads wait for each other in busy loops: for products of a few hundred rows, beside
    anything else that runs, they take ten times the time of one.
    """
    with threadpool_limits(1, "blas"):
        yield


def side_by_side(fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``[fn(item) for item in items]``, on all cores."""
    with one_each(), ThreadPoolExecutor(_cores()) as pool:
        return list(pool.map(fn, items))


def _cores() -> int:
    found = getattr(os, "sched_getaffinity", None)
    return len(found(0)) if found else os.cpu_count() or 1
