"""Where a warm fit's time goes: by stage, beside the time of its arithmetic alone.

The arithmetic of a stage is each compiled function's time for a block of genes that is in the
cache already, times the blocks that the stage evaluates, divided by the cores that share them. What
is above it is preparing blocks, packing, genes that wait for others of their block, and numbers
that are worked on between sums. Sorting and other work of NumPy on rows counts as arithmetic.
"""

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import anndata
import numpy as np
from problems import CONTRAST, DESIGN, GENES, SAMPLES

import expressway as ew
from expressway.core import cohort, solve
from expressway.core.cohort import Pooled

REPEATS = 7


def main() -> None:
    """Print a table for each number of samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--genes", type=int, default=GENES[0])
    wanted = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    for n in wanted.samples:
        adata = ew.datasets.simulate(
            wanted.genes, n, batches=2, outliers=wanted.genes // 100, seed=0
        )
        wall, cpu, work = by_stage(adata)
        limit = {stage: work[stage] / cores for stage in wall}
        print(f"\n{wanted.genes:,} genes x {n} samples, {cores} cores; milliseconds")
        print(f"{'stage':24}{'wall':>9}{'CPU':>9}{'limit':>9}{'ratio':>8}")
        for stage in [*wall, "all"]:
            a, b, c = (
                1e3 * (sum(part.values()) if stage == "all" else part[stage])
                for part in (wall, cpu, limit)
            )
            ratio = f"{a / c:8.1f}" if c else ""
            print(f"{stage:24}{a:9.1f}{b:9.1f}{c:9.1f}{ratio}")


def by_stage(adata: anndata.AnnData) -> tuple[dict, dict, dict]:
    """Wall and CPU seconds of each stage, and CPU seconds of its arithmetic; refits as one."""
    for _ in range(2):
        ew.tl.de(adata, DESIGN, CONTRAST)
    spent: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    for _ in range(REPEATS):
        ew.tl.de(adata, DESIGN, CONTRAST)
        for kind, found in (("wall", spent), ("cpu", cpu)):
            sums: dict[str, float] = defaultdict(float)
            for stage, seconds in adata.uns["de"]["seconds"].items():
                sums[stage.split(":")[0]] += seconds[kind]
            for stage, seconds in sums.items():
                found[stage].append(seconds)
    work = arithmetic(adata)
    medians = [{stage: float(np.median(v)) for stage, v in found.items()} for found in (spent, cpu)]
    return medians[0], medians[1], work


def arithmetic(adata: anndata.AnnData) -> dict[str, float]:
    """CPU seconds of functions of rows, each timed on a block that is there already."""
    work: dict[str, float] = defaultdict(float)
    now, known = [""], {}
    collect, moving = Pooled.collect, solve._moving

    def timed(key: Any, fn: Callable[..., Any], *args: Any) -> float:
        """Seconds of one block."""
        if key not in known:
            seconds = []
            for _ in range(REPEATS):
                begin = time.perf_counter()
                for leaf in cohort.jax.tree.leaves(fn(*args)):
                    np.asarray(leaf)
                seconds.append(time.perf_counter() - begin)
            known[key] = min(seconds)
        return known[key]

    def collected(self, fn, *args, shared=(), genes=None):
        inner = fn

        def counted(*block):
            work[now[0]] += timed((inner, block[-1].y.shape), inner, *block)
            return inner(*block)

        return collect(self, counted, *args, shared=shared, genes=genes)

    def moved(*what):
        inner = moving(*what)

        def counted(state, fixed, rows):
            work[now[0]] += timed((what, rows.y.shape), inner, state, fixed, rows)
            return inner(state, fixed, rows)

        return counted

    def watch(stage: str) -> None:
        now[0] = stage.split(":")[0]

    threads = cohort._threads
    cohort._threads = lambda: _InTurn()
    Pooled.collect, solve._moving = collected, moved
    try:
        ew.tl.de(adata, DESIGN, CONTRAST, watch=watch)
    finally:
        Pooled.collect, solve._moving, cohort._threads = collect, moving, threads
    return work


class _InTurn:
    """Blocks one after the other, so that nothing disturbs a measurement."""

    def map(self, fn, items):
        """As that of an executor."""
        return map(fn, items)

    def submit(self, fn):
        """Likewise."""
        fn()


if __name__ == "__main__":
    main()
