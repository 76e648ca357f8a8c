"""One analysis by a Python program, whose adapter is called with: FOLDER OUT FITS.

Imported by the adapters, in environments that have pandas but not expressway.
"""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

DESIGN = "~ batch + condition"


def run(fit: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]) -> None:
    """Read, fit, write results.csv and found.json; the last of FITS fits is measured.

    Parameters
    ----------
    fit
        From counts (samples x genes) and their annotation to log2_fold_change, p_value and p_adj
        by gene.
    """
    folder, out, fits = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    samples = pd.read_csv(folder / "samples.csv", index_col=0)
    counts = pd.read_csv(folder / "counts.csv.gz", index_col=0).T
    for _ in range(fits - 1):
        fit(counts, samples)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    table = fit(counts, samples)
    measured = {"fit_wall_s": time.perf_counter() - wall, "fit_cpu_s": _cpu_seconds() - cpu}
    columns = ["log2_fold_change", "p_value", "p_adj"]
    table[columns].rename_axis("gene").to_csv(out / "results.csv")
    (out / "found.json").write_text(json.dumps(measured))


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its workers, ended or (on Linux) alive."""
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(u.ru_utime + u.ru_stime for u in usages)
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            with contextlib.suppress(OSError):  # it has just ended
                # proc(5): user and system time are fields 14 and 15; the second, a name, may hold
                # blanks but ends with the last parenthesis.
                fields = Path("/proc", child, "stat").read_text().rpartition(")")[2].split()
                seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds
