"""Influence of samples on the calls of a fit: what it costs, and how well it predicts.

``cost``: wall and CPU seconds of both kinds, in a process that compiled nothing before (cold, with
an empty cache, and with what an earlier process left there) and warm, with the peak memory of the
process. ``agree``: influence beside exact leave-one-out, on a table of counts or a simulated one:
correlations, and the share of pairs of a sample and a gene that are predicted within 20 %, of the
derivative and of the step that `ew.tl.influence` reports, by the gene's status.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from problems import CONTRAST, DESIGN
from scipy import stats

import expressway as ew
from expressway.core.cohort import Pooled, samples
from expressway.io import peak_memory
from expressway.models import deseq, influence, leave_out
from expressway.models.cells import groups
from expressway.models.results import Takers, results

KINDS = ("conditional", "pipeline")
REPEATS = 5
WITHIN = 0.2


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cost", "agree", "once"))
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counts", type=Path, help="Table to read instead of a simulated one.")
    parser.add_argument("--table", type=Path, help="Its samples.")
    parser.add_argument("--design", default=DESIGN)
    parser.add_argument("--contrast", nargs=3, default=CONTRAST)
    parser.add_argument("--least", type=int, default=10, help="Counts a gene of a table needs.")
    wanted = parser.parse_args()
    {"cost": cost, "agree": agree, "once": once}[wanted.what](wanted)


def fitted(wanted: argparse.Namespace) -> tuple[deseq.DESeqFit, Pooled, np.ndarray, Any]:
    """A fit, its cohort, the contrast, and what the contrast found."""
    if wanted.counts is None:
        outliers = wanted.genes // 100
        adata = ew.datasets.simulate(
            wanted.genes, wanted.samples, batches=2, outliers=outliers, seed=wanted.seed
        )
    else:
        adata = ew.io.read_counts(wanted.counts, wanted.table)
        adata = adata[:, np.asarray(adata.X.sum(axis=0)).ravel() >= wanted.least].copy()
    factor, _, base = wanted.contrast
    coded = ew.io.design(wanted.design, pd.DataFrame(adata.obs), {factor: base})
    contrast = ew.io.contrast(coded, tuple(wanted.contrast))
    rows = samples(dense(adata), coded.matrix)
    fit, cohort = deseq.fit(Pooled(rows), groups(coded.matrix))
    found = results(fit, contrast.vector, Takers(contrast.constant, contrast.members))
    return fit, cohort, contrast.vector[None], found


def dense(adata: anndata.AnnData) -> np.ndarray:
    """Counts as an array."""
    x: Any = adata.X
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x, float)


def clocked(fn: Any) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    fn()
    return time.perf_counter() - wall, time.process_time() - cpu


def once(wanted: argparse.Namespace) -> None:
    """First and later calls of this process, as a line of JSON."""
    fit, cohort, contrast, _ = fitted(wanted)
    before = peak_memory()
    found: dict[str, Any] = {"fit_peak_mb": before}
    for kind in KINDS:
        fn = getattr(influence, kind)
        times = [clocked(lambda fn=fn: fn(fit, cohort, contrast)) for _ in range(1 + REPEATS)]
        found[kind] = {
            "first": times[0],
            "warm": [float(np.median(part)) for part in zip(*times[1:], strict=True)],
            "peak_mb": peak_memory(),
        }
    print(json.dumps(found))


def cost(wanted: argparse.Namespace) -> None:
    """Cold, cached and warm."""
    sizes = [f"--{k}={getattr(wanted, k)}" for k in ("genes", "samples", "seed")]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        command = [sys.executable, __file__, "once", *sizes]
        runs = [
            json.loads(
                subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
            )
            for _ in range(2)
        ]
    print(
        f"{wanted.genes:,} genes x {wanted.samples} samples, {len(os.sched_getaffinity(0))} cores"
    )
    print(f"{'seconds: wall / CPU':24}{'cold':>16}{'cached':>16}{'warm':>16}{'peak MB':>10}")
    for kind in KINDS:
        cells = (runs[0][kind]["first"], runs[1][kind]["first"], runs[1][kind]["warm"])
        times = "".join(f"{f'{wall:.2f} / {cpu:.2f}':>16}" for wall, cpu in cells)
        print(f"{kind:24}{times}{runs[1][kind]['peak_mb']:10.0f}")
    print(f"{'(the fit before)':72}{runs[1]['fit_peak_mb']:10.0f}")


def agree(wanted: argparse.Namespace) -> None:
    """Influence beside exact leave-one-out."""
    fit, cohort, contrast, found = fitted(wanted)
    status = np.where(fit.gene.boxed, "boxed", found.status.astype(str))
    called = found.adjusted.p_adj < fit.settings.alpha
    line = f"{'':14}{'':10}{'':12}{'pairs':>9}{'pearson':>9}{'spearman':>9}{'slope':>7}"
    for kind in KINDS:
        moves = getattr(influence, kind)(fit, cohort, contrast)
        begin = time.perf_counter()
        exact = getattr(leave_out, kind)(fit, cohort, contrast)
        seconds = time.perf_counter() - begin
        reasons = {r.name: int(np.sum(exact.reason == r)) for r in leave_out.Reason}
        print(f"\n{kind}: exact took {seconds:.1f} s; {reasons}; held {np.sum(moves.held)}")
        print(f"{line}{'within 20 %':>13}{'of larger half':>16}")
        for name in ("estimate", "se", "stat"):
            change = getattr(exact, name)[0]
            for how, guess in (
                ("derivative", -getattr(moves, name)[0]),
                ("step", np.asarray(getattr(moves.step, name))[0]),
            ):
                print(f"{name:14}{how:22}{row(guess, change)}")
        change, guess = exact.stat[0], np.asarray(moves.step.stat)[0]
        level = fit.gene.base_mean
        groups_of = {f"status {s}": status == s for s in np.unique(status)}
        groups_of |= {
            "called": called,
            "mean < 5": level < 5,
            "mean 5 to 100": (level >= 5) & (level < 100),
            "mean > 100": level >= 100,
        }
        if kind == "pipeline":
            groups_of["dispersion held"] = moves.held
        print("step of stat, by gene")
        for name, some in groups_of.items():
            if np.any(np.isfinite(change[:, some])):
                print(f"  {name:34}{row(guess[:, some], change[:, some])}")
        share = moves.leverage
        for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.01)):
            some = (share >= low) & (share < high) & np.isfinite(change)
            if np.sum(some) > 10:
                print(f"  {f'leverage {low} to {high}':34}{row(guess[some], change[some])}")


def row(guess: np.ndarray, change: np.ndarray) -> str:
    """How well guesses of changes do, over pairs."""
    there = np.isfinite(guess) & np.isfinite(change)
    a, b = guess[there], change[there]
    if len(a) < 3:
        return f"{len(a):9d}"
    near = np.abs(a - b) < WITHIN * np.abs(b)
    large = np.abs(b) >= np.median(np.abs(b))
    numbers = (np.corrcoef(a, b)[0, 1], stats.spearmanr(a, b)[0])
    slope = np.sum(a * b) / np.sum(b * b)
    text = "".join(f"{v:9.4f}" for v in numbers)
    return f"{len(a):9d}{text}{slope:7.2f}{np.mean(near):13.3f}{np.mean(near[large]):16.3f}"


if __name__ == "__main__":
    main()
