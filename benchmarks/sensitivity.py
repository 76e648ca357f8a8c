"""Derivatives of optima: Taylor terms, leave-one-out, cross-validation, a staged problem.

The rival is vittles 0.173 in an environment of its own (`--vittles`), left out if not given; both
read the same optima and run one after the other. "Documented" is its expansion of an objective,
"fastest" the better of its ways to be given the gradient by hand. Every measurement of ours is a
process of its own, whose peak memory is its own. First calls compile; warm times are the best of
many.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import optima
import pandas as pd
from measure import Cost, measure

PARTS = ("terms", "whole", "leave-one-out", "cross-validation", "staged")
ORDER = 3
LIMIT = 7200.0
QUICK = {"observations": 2000, "columns": 20, "regressions": [100, 200], "seconds": 0.05}


def main() -> None:
    """Print the tables of the parts that are wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--vittles", help="interpreter of an environment with vittles")
    parser.add_argument("--orders", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.5, help="of repeating a measurement")
    parser.add_argument("--observations", type=int, default=50_000, help="of cross-validation")
    parser.add_argument("--columns", type=int, default=100, help="of cross-validation")
    parser.add_argument("--repeats", type=int, default=0, help="of exact cross-validation, warm")
    parser.add_argument("--regressions", type=int, nargs="+", default=[1000, 4000, 16_000])
    parser.add_argument("--quick", action="store_true", help=f"sizes and times: {QUICK}")
    parser.add_argument("--out", type=Path, help="folder to keep what was found in")
    wanted = parser.parse_args()
    if wanted.quick:
        vars(wanted).update(QUICK)
    with tempfile.TemporaryDirectory() as scratch:
        folder = wanted.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        problems = folder / "optima.npz"
        optima.write(str(problems))
        theirs = rival(wanted, folder) if wanted.vittles else {}
        for part in wanted.parts:
            TABLES[part](wanted, folder, theirs)


def rival(wanted: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything of vittles."""
    out = folder / "vittles.json"
    script = Path(__file__).parent / "rivals" / "run_vittles.py"
    options = ["--orders", str(wanted.orders), "--seconds", str(wanted.seconds)]
    command = [wanted.vittles, script, out, folder / "optima.npz", *options]
    measure(command, folder / "vittles.log", LIMIT, os.environ)
    found = json.loads(out.read_text())
    print("vittles in", " ".join(f"{k} {v}" for k, v in found.pop("versions").items()))
    return found


def ours(name: str, folder: Path, /, **given: Any) -> tuple[dict[str, Any], Cost]:
    """One measurement in a process of its own, and what that process cost."""
    log = folder / f"{name}.log"
    script = Path(__file__).parent / "sensitivity_one.py"
    cost = measure([sys.executable, script, name, json.dumps(given)], log, LIMIT, os.environ)
    return json.loads(log.read_text().splitlines()[-1]), cost


def terms(wanted: argparse.Namespace, folder: Path, theirs: dict[str, Any]) -> None:
    """Seconds by order beside vittles, the largest difference of each term, growth."""
    path = str(folder / "optima.npz")
    # Large, of ours alone: where arithmetic and not the call takes the time.
    np.savez(
        folder / "large.npz",
        **{
            f"large/{key}": a
            for key, a in optima.logistic(30, 50_000 // (1 + 9 * wanted.quick)).items()
        },
    )
    for name, problem in {**optima.read(path), "large": {}}.items():
        source = path if problem else str(folder / "large.npz")
        problem = problem or optima.read(source)["large"]
        given = {"name": name, "orders": wanted.orders, "seconds": wanted.seconds}
        found, _ = ours("terms", folder, path=source, **given)
        order = np.arange(1, wanted.orders + 1)
        table = pd.DataFrame({"first_ms": found["first_s"], "warm_ms": found["warm_s"]}, order)
        if name in theirs:
            compare(table, theirs[name]["ways"], np.array(found["terms"]))
        table[[c for c in table if c.endswith("_ms")]] *= 1e3
        warm = np.array(found["warm_s"])
        from_theta = apart(np.array(found["theta"]), problem["theta"])
        show(f"Taylor terms 1 to k of {name}, one direction", table.rename_axis("order"))
        print(f"optimum: largest difference {from_theta:.1e}; warm time grows as order^", end="")
        tail = slice(max(0, len(order) // 2 - 1), None)
        slope = [np.polyfit(np.log(order[s]), np.log(warm[s]), 1)[0] for s in (slice(None), tail)]
        print(f"{slope[0]:.2f}, of the upper half of orders {slope[1]:.2f}")


def compare(table: pd.DataFrame, ways: dict[str, Any], found: np.ndarray) -> None:
    """Add columns of vittles' times, how many times longer they are, and differences of terms."""
    fastest = np.min([ways[way]["evaluate_s"] for way in ways if way in ("equation", "linear")], 0)
    table["documented_ms"], table["fastest_ms"] = ways["objective"]["evaluate_s"], fastest
    for column in ("documented", "fastest"):
        table[f"x_{column}"] = (table[f"{column}_ms"] / table["warm_ms"]).round(1)
    for way in ("objective", "equation"):
        rows = np.array(ways[way]["terms"])
        table[f"from_{way}"] = [
            max(apart(a[k], b[k]) for a, b in zip(found, rows, strict=True))
            for k in range(len(table))
        ]


def whole(wanted: argparse.Namespace, folder: Path, theirs: dict[str, Any]) -> None:  # noqa: ARG001
    """Seconds of import, solve and first terms of order 4 in a new process, and of all of it."""
    path = str(folder / "optima.npz")
    rows = {}
    for name in optima.read(path):
        found, cost = ours("whole", folder, path=path, name=name, order=4)
        rows[name] = {**found, "process_s": cost.wall_s, "peak_mb": cost.peak_mb}
    show("a new process: first terms of order 4", pd.DataFrame(rows).T)


def leave_one_out(wanted: argparse.Namespace, folder: Path, theirs: dict[str, Any]) -> None:
    """All leave-one-out predictions of logistic regression at order 3."""
    path, rows = str(folder / "optima.npz"), {}
    for name in (f"logistic_{p}" for p in optima.COLUMNS):
        given = {"name": name, "order": ORDER, "seconds": wanted.seconds}
        found, _ = ours("leave_one_out", folder, path=path, **given)
        theta = np.array(found.pop("theta"))
        row = rows[name] = found
        ways = theirs.get(name, {}).get("ways", {})
        for way in ways if wanted.orders >= ORDER else ():
            other = ways[way]["leave_one_out"]
            row[f"vittles_{way}_s"] = other["seconds"]
            row[f"x_{way}"] = other["seconds"] / found["warm_s"]
            row[f"from_{way}"] = apart(theta, np.array(other["theta"]))
    show(f"all {optima.OBSERVATIONS} leave-one-out at order {ORDER}", pd.DataFrame(rows))


def cross_validation(
    wanted: argparse.Namespace,
    folder: Path,
    theirs: dict[str, Any],  # noqa: ARG001
) -> None:
    """Leave-one-out cross-validation, infinitesimal and exact."""
    rows, files = {}, {}
    for name, exact in (("infinitesimal", False), ("exact", True)):
        out = files[name] = folder / f"{name}.npz"
        found, _ = ours(
            "cross_validation",
            folder,
            observations=wanted.observations,
            columns=wanted.columns,
            exact=exact,
            sample=200,
            repeats=wanted.repeats if exact else 3,
            out=str(out),
        )
        rows[name] = found
    size = f"{wanted.observations:,} x {wanted.columns}"
    with pd.option_context("display.precision", 10):
        show(f"leave-one-out cross-validation of logistic regression, {size}", pd.DataFrame(rows))
    few, all_ = (np.load(files[name]) for name in rows)
    loss = np.abs(few["each"] - all_["each"])
    theta = np.max(np.abs(few["theta"] - all_["theta"]), axis=1)
    moved = np.max(np.abs(all_["theta"] - all_["whole"]), axis=1)
    print(
        f"losses differ by {rows['infinitesimal']['loss'] - rows['exact']['loss']:.2e}; of an "
        f"observation by {loss.mean():.2e} on average, {loss.max():.2e} at most; theta of "
        f"{len(theta)} by {theta.max():.2e} at most, of moves up to {moved.max():.2e}"
    )


def staged(wanted: argparse.Namespace, folder: Path, theirs: dict[str, Any]) -> None:  # noqa: ARG001
    """Time and memory of two stages by the size of the first; a small one against the dense."""
    size = {"observations": 40, "columns": 3}
    rows = {}
    for regressions in wanted.regressions:
        row, _ = ours("staged", folder, regressions=regressions, seconds=wanted.seconds, **size)
        row["dense_mb"] = (regressions * size["columns"] + 2) ** 2 * 8e-6
        rows[f"{regressions:,}"] = row
    show("two stages: by regressions in the first", pd.DataFrame(rows))
    print("dense_mb: what one joint Jacobian would take; _mb: peak memory after each step")
    found, _ = ours("against_dense", folder, regressions=20, **size)
    print(
        "d theta / d weights of 20 regressions, largest relative difference from the dense solve:"
    )
    print("\n".join(f"  {name}: {value:.1e}" for name, value in found.items()))


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table."""
    print(f"\n{title}")
    print(table.to_string(float_format=lambda x: f"{x:.{pd.get_option('display.precision')}g}"))


def apart(found: np.ndarray, other: np.ndarray) -> float:
    """Largest difference, relative to the largest entry."""
    return float(np.max(np.abs(found - other)) / np.max(np.abs(other)))


TABLES = dict(zip(PARTS, (terms, whole, leave_one_out, cross_validation, staged), strict=True))

if __name__ == "__main__":
    pd.set_option("display.precision", 4)
    main()
