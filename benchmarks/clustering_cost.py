"""What clustering costs as genes and cells grow."""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import clustering_cases as cases
import numpy as np
import pandas as pd
from clustering_cases import Case
from measure import measure

LIMIT = 1800.0
# Seconds that a stage takes at the largest size, at least, for an exponent.
LEAST = 0.1


def add_options(commands: Any) -> None:
    """Add ``scaling`` and what it runs in processes of their own."""
    one = commands.add_parser("scaling")
    sizes = [f"{genes}x200" for genes in (1250, 2500, 5000, 10_000, 20_000)]
    one.add_argument("--sizes", nargs="+", default=[*sizes, "5000x1000"], help="genes x cells")
    one.add_argument("--numbers", default="33322", help="of clusters, a digit a coordinate")
    one.add_argument("--separation", type=float, default=5.0)
    one.add_argument("--repeats", type=int, default=2, help="the first is cold")
    one = commands.add_parser("once", help="one size of scaling, as a line of JSON")
    one.add_argument("genes", type=int)
    one.add_argument("cells", type=int)
    one.add_argument("numbers")
    one.add_argument("separation", type=float)
    one.add_argument("repeats", type=int)


def scaling(wanted: argparse.Namespace) -> None:
    """Seconds by stage and memory by genes and cells, with the exponent of growth in genes."""
    rows = []
    for size in wanted.sizes:
        genes, cells = map(int, size.split("x"))
        row = {"genes": genes, "cells": cells}
        rows.append(row | of_size([*row.values(), *shared(wanted)]))
        print(f"{size} done", flush=True)
    table = pd.DataFrame(rows)
    if wanted.out:
        table.to_csv(wanted.out, index=False)
    table = table.set_index(["genes", "cells"])
    title = f"clusters {wanted.numbers}, separation {wanted.separation:g}"
    cases.shown(table.T, f"{title}; of the last of {wanted.repeats} runs, MB of the first")
    grown = {}
    costs = [c for c in table if str(c).endswith(("_s", "_mb"))]
    costs = [c for c in costs if table[c].max() > LEAST]
    for cells, part in table[costs].groupby("cells"):
        size = np.log(part.index.get_level_values("genes").to_numpy(float))
        for name, some in (("all", slice(None)), ("upper half", slice(len(size) // 2, None))):
            if len(size[some]) > 1:
                logs = np.log(np.maximum(part.to_numpy(float)[some], 1e-9))
                slope = np.polyfit(size[some], logs, 1)[0]
                grown[f"{cells} cells, {name}"] = pd.Series(slope, costs)
    if grown:
        cases.shown(pd.DataFrame(grown), "exponent of growth in genes")


def shared(wanted: argparse.Namespace) -> list[Any]:
    """Arguments of ``once`` that all sizes share."""
    return [wanted.numbers, wanted.separation, wanted.repeats]


def of_size(arguments: list[Any]) -> dict[str, float]:
    """What `once` measured in a process of its own."""
    script = Path(__file__).with_name("clustering.py")
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        command = [sys.executable, script, "once", *map(str, arguments)]
        cost = measure(command, log, LIMIT, os.environ)
        found = json.loads(log.read_text().splitlines()[-1])
    return found | {"process_mb": cost.peak_mb}


def once(wanted: argparse.Namespace) -> None:
    """One size, clustered several times, as a line of JSON.

    Wall seconds of the first run (which reads or makes what is compiled), seconds by stage of the
    last, memory of the first.
    """
    case = Case(wanted.genes, wanted.cells, wanted.numbers, wanted.separation)
    begin = time.perf_counter()
    adata = cases.simulated(case)
    simulated = time.perf_counter() - begin
    runs = [cases.analysed(adata) for _ in range(wanted.repeats)]
    first, last = runs[0].cost, runs[-1].cost
    found = {"cold_s": first["wall_s"], **last}
    found |= {name: first[name] for name in ("peak_mb", "rise_mb")}
    found |= {f"found_{name}": k for name, k in runs[-1].clusters.numbers().items()}
    print(json.dumps(found | {"simulated_s": simulated}))
