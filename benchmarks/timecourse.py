"""Time courses: the published jackknife, growth, clusters found again, choices, folds.

``published``: at the published optimum of 500 genes (df 7, 10 clusters), how far objective,
gradient, Hessian and jackknife are from the published code's, and what the jackknife costs, warm.
``scaling``: seconds and memory by genes and by clusters, each size in a process of its own.
``accuracy``: adjusted Rand index of clusters with known truth, beside k-means and Gaussian mixtures
by scikit-learn, which know the true df and number (``pip install scikit-learn``; without it ours
alone). ``choice``: chosen df and number of clusters beside the truth. ``folds``: errors without
time points, by the jackknife, corrected and refitted, and whether the trust flag tells good
predictions from bad ones.
"""

import argparse
import itertools
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import courses
import numpy as np
import pandas as pd
import timecourse_truth
from measure import measure
from timecourse_truth import EARLY

import expressway as ew
from expressway.core.newton import Certificate
from expressway.core.threads import one_each
from expressway.models import clusters, mixture, timecourse
from expressway.models.clusters import Clusters
from expressway.models.curves import Curves, Frame

LIMIT = 1800.0
# Measurements whose exponent of growth is fitted.
GROWING = ["stage_1_s", "find_s", "jackknife_s", "all_mb"]


def main() -> None:
    """Print the tables of one subcommand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("published")
    one.add_argument("--repeats", type=int, default=20)
    one = commands.add_parser("scaling")
    sizes = [500, 1000, 2000, 5000, 10_000, 20_000, 50_000]
    one.add_argument("--genes", type=int, nargs="*", default=sizes, help="with 10 clusters")
    one.add_argument("--clusters", type=int, nargs="*", default=[5, 10, 20, 40])
    one.add_argument("--repeats", type=int, default=3)
    one = commands.add_parser("once", help="one size of scaling, as a line of JSON")
    one.add_argument("genes", type=int)
    one.add_argument("clusters", type=int)
    one.add_argument("repeats", type=int)
    one = commands.add_parser("accuracy")
    courses.add_options(one, 5, [8])
    one.add_argument("--starts", type=int, default=20, help="of the others")
    one = commands.add_parser("choice")
    courses.add_options(one, 3, [8])
    one.add_argument("--df", type=int, nargs="+", default=[5, 6, 7])
    one.add_argument("--around", type=int, default=3, help="numbers tried about the truth")
    courses.add_options(commands.add_parser("folds"), 3, [8])
    wanted = parser.parse_args()
    # Folds without which a design is singular are counted in the tables.
    logging.disable(logging.WARNING)
    COMMANDS[wanted.what](wanted)


@one_each()
def published(wanted: argparse.Namespace) -> None:
    """Differences from the published code's values and milliseconds, one a line."""
    folder = ew.datasets.data_folder()
    if folder is None:
        sys.exit("no data folder: name it by EXPRESSWAY_DATA")
    kept = np.load(folder / "reference" / "shoemaker500.df7.k10.npz")
    x, turn = kept["X"], kept["transform"]
    # Their coordinates, so that the jackknife is compared entry by entry.
    same = Frame(kept["unrot"], turn, np.linalg.pinv(turn), np.mean(x, axis=0))
    stage = Curves(kept["Y"], None, same, 0.0)
    one = np.ones(len(x))
    t = mixture.terms(stage.observed(one))
    theta = kept["xo"]
    start = mixture.of_vector(theta, len(turn))
    value, gradient = mixture.value_gradient(theta, t)
    found = Clusters(start, value, Certificate(0.0, 0.0, 0.0, 0.0, "", 0, 0), ())
    jackknife = timecourse.differentiated(stage, found)
    line("objective: difference", value - float(kept["kl"]))
    line("gradient: largest entry at the published optimum", np.max(np.abs(gradient)))
    line("Hessian: largest difference", apart(mixture.hessian(theta, t), kept["H"]))
    line("jackknife: largest difference", apart(jackknife.sensitivity, kept["Smix"]))
    line("jackknife: largest entry", np.max(np.abs(kept["Smix"])))
    at = kept["t"].astype(float)
    folds = [
        timecourse.Fold("", np.flatnonzero(np.isin(at, each)))
        for size in (1, 2, 3)
        for each in itertools.combinations(EARLY, size)
    ]
    steps: dict[str, Callable[[], Any]] = {
        "stage one": lambda: mixture.terms(stage.observed(one)),
        "derivative and solve": lambda: timecourse.differentiated(stage, found, t),
        "jackknife: stage one, derivative, solve": lambda: timecourse.differentiated(stage, found),
        f"prediction of {len(folds)} folds": lambda: [
            jackknife.at(fold.weight(len(x))) for fold in folds
        ],
    }
    for name, step in steps.items():
        seconds = np.sort([clocked(step) for _ in range(wanted.repeats)])
        line(f"{name}: ms, best of {wanted.repeats}", 1e3 * seconds[0])
        line(f"{name}: ms, median", 1e3 * float(np.median(seconds)))
    seconds = [clocked(lambda f=fold: refit(stage, start, f)) for fold in folds[:7]]
    line("exact warm refit without one time: ms, median", 1e3 * float(np.median(seconds)))
    begin = time.perf_counter()
    own = clusters.fit(t, len(start.weight))
    line("our own 20 starts: s", time.perf_counter() - begin)
    line("our own 20 starts: objective, difference from the published", own.objective - value)


def refit(stage: Curves, start: mixture.Mixture, fold: timecourse.Fold) -> Clusters:
    """Both stages without a fold, from the clusters of all samples."""
    return clusters.solve(start, mixture.terms(stage.observed(fold.weight(len(stage.frame.u)))))


def line(name: str, value: float) -> None:
    """One figure."""
    print(f"{name:64}{value:12.4g}")


def apart(found: np.ndarray, other: np.ndarray) -> float:
    """Largest difference."""
    return float(np.max(np.abs(found - other)))


def clocked(fn: Callable[[], Any]) -> float:
    """Wall seconds."""
    begin = time.perf_counter()
    fn()
    return time.perf_counter() - begin


def scaling(wanted: argparse.Namespace) -> None:
    """Seconds and memory by genes and by clusters, with the exponent of growth."""
    for name, sizes in (
        ("genes", [(genes, 10) for genes in wanted.genes]),
        ("clusters", [(5000, k) for k in wanted.clusters]),
    ):
        if not sizes:
            continue
        rows = {}
        for genes, k in sizes:
            rows[genes if name == "genes" else k] = of_size(genes, k, wanted.repeats)
        table = pd.DataFrame(rows).T.rename_axis(name)
        if len(table) > 1:
            size = np.log(table.index.to_numpy(float))
            half = len(table) // 2
            for label, part in (
                ("exponent", slice(None)),
                ("of the upper half", slice(half, None)),
            ):
                if len(size[part]) > 1:
                    logs = np.log(table[GROWING].to_numpy()[: len(size)][part])
                    table.loc[label, GROWING] = np.polyfit(size[part], logs, 1)[0]
        print(f"\nby {name}" + (", 10 clusters" if name == "genes" else ", 5,000 genes"))
        print(table.to_string(float_format=lambda x: f"{x:.3g}"))
    print("MB: peak of the process, less what it was before that step or (all_mb) before them all")


def of_size(genes: int, k: int, repeats: int) -> dict[str, float]:
    """What `once` measured in a process of its own."""
    command = [sys.executable, __file__, "once", *map(str, (genes, k, repeats))]
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        cost = measure(command, log, LIMIT, os.environ)
        found = json.loads(log.read_text().splitlines()[-1])
    return {**found, "process_mb": cost.peak_mb}


@one_each()
def once(wanted: argparse.Namespace) -> None:
    """One size: stage one, five starts, jackknife; as a line of JSON."""
    warm = courses.stage_of(courses.simulated(200, 5), 6)
    timecourse.fit(warm, 5, starts=1)
    stage = courses.stage_of(courses.simulated(wanted.genes, wanted.clusters), 6)
    one = np.ones(len(stage.frame.u))
    before = ew.io.peak_memory()
    t = mixture.terms(stage.observed(one))
    memory = [before, ew.io.peak_memory()]
    begin = time.perf_counter()
    found = clusters.fit(t, wanted.clusters, starts=5)
    seconds = time.perf_counter() - begin
    memory.append(ew.io.peak_memory())
    steps: tuple[Callable[[], Any], ...] = (
        lambda: mixture.terms(stage.observed(one)),
        lambda: timecourse.differentiated(stage, found),
    )
    stage_s, jackknife_s = (min(clocked(f) for _ in range(wanted.repeats)) for f in steps)
    memory.append(ew.io.peak_memory())
    told = {"stage_1_s": stage_s, "find_s": seconds, "jackknife_s": jackknife_s}
    rises = zip(("stage_1_mb", "find_mb", "jackknife_mb"), np.diff(memory), strict=True)
    told |= {name: float(rise) for name, rise in rises} | {"all_mb": memory[-1] - before}
    print(json.dumps(told))


COMMANDS = {
    "published": published,
    "scaling": scaling,
    "once": once,
    "accuracy": timecourse_truth.accuracy,
    "choice": timecourse_truth.choice,
    "folds": timecourse_truth.folds,
}

if __name__ == "__main__":
    pd.set_option("display.width", 250)
    main()
