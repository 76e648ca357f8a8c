"""Inverse square roots of random matrices: error and time against the number of Lanczos steps.

    python examples/random_spd.py --out DIR

A draw from N(0, A⁻¹) is ``A^(-1/2) z`` for standard normal z. For four symmetric positive definite
matrices of n = 1000 this compares

- *Expressway*: Lanczos with full re-orthogonalisation and an a-posteriori bound of its error;
- *textbook*: the recurrence of three terms, whose vectors lose their orthogonality;
- dense *eigendecomposition* (which is also the truth) and *Cholesky*, in time only.

The matrices are A = Q diag(λ) Q', Q random: λ log-uniform from 1 to 35 ("condition 35"); from 1 to
10⁴ ("condition 10⁴"); 200 values log-uniform from 1 to 10³ plus a damping of .01 ("rank 200 +
0.01 I", the shape of a neural network's information); and B B' of a square matrix B of normal
numbers, condition near 10⁷. A lower bound on the spectrum of the first three is known, so that the
bound on the error is a certificate; of the last none is, and it is an estimate.

It prints what tolerances of 1e-2, 1e-4 and 1e-8 cost, and writes random_spd.png (errors above, time
below, against steps) and random_spd.csv to DIR. A minute on two cores; ``--n 200`` takes three
seconds.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import linalg

import expressway as ew
from expressway.core.lanczos import inverse_root, rounding_of
from expressway.core.operator import matrix

TOLERANCES = (1e-2, 1e-4, 1e-8)
SMALLEST = 1e-10  # error at which histories end
DAMPING = 1e-2
OURS, BOUND, TEXTBOOK, DENSE = "#D55E00", "#222222", "#0072B2", "#8C8C8C"


class Case(NamedTuple):
    """A matrix, what is known of it, and the exact answer."""

    name: str
    a: np.ndarray
    lower: float | None
    """A proven lower bound of the spectrum."""
    z: np.ndarray
    exact: np.ndarray
    """``A^(-1/2) z``."""
    condition: float
    eigen: float
    """Seconds of the eigendecomposition."""
    cholesky: float
    """Seconds of a factorisation and one triangular solve."""


def cases(n: int, seed: int = 0) -> list[Case]:
    """The four matrices, n by n."""
    rng = np.random.default_rng(seed)
    spread = lambda top, k: np.exp(rng.uniform(0, np.log(top), k))  # noqa: E731
    rank = n // 5
    low = DAMPING + np.concatenate([spread(1e3, rank), np.zeros(n - rank)])
    found = []
    for name, values, lower in (
        ("condition 35", spread(35, n), 1.0),
        ("condition 10⁴", spread(1e4, n), 1.0),
        (f"rank {rank} + {DAMPING:g} I", low, DAMPING),
    ):
        q = linalg.qr(rng.normal(size=(n, n)))[0]
        # Rounding moves eigenvalues by n eps |A| at most: the bound must hold all the same.
        below = lower - n * np.finfo(float).eps * values.max()
        found.append(_case(name, (q * values) @ q.T, below, rng.normal(size=n)))
    b = rng.normal(size=(n, n))
    return [*found, _case("B B'", b @ b.T, None, rng.normal(size=n))]


def _case(name: str, a: np.ndarray, lower: float | None, z: np.ndarray) -> Case:
    a = (a + a.T) / 2
    clock = time.perf_counter()
    values, vectors = linalg.eigh(a)
    exact = vectors @ ((z @ vectors) / np.sqrt(values))
    eigen = time.perf_counter() - clock
    clock = time.perf_counter()
    linalg.solve_triangular(linalg.cholesky(a, lower=True), z, lower=True, trans=1)
    cholesky = time.perf_counter() - clock
    return Case(name, a, lower, z, exact, values[-1] / values[0], eigen, cholesky)


def ours(case: Case) -> pd.DataFrame:
    """Expressway after so many steps, and at every tolerance."""
    # It ends where rounding may be as large as the tolerance, which steps alone are not to meet.
    least = max(SMALLEST, 20 * rounding_of(np.float64, case.condition))
    rows = []
    _solved(case, least, 2)  # what is done once
    for steps in _steps(len(case.z)):
        rows.append((*_solved(case, least, int(steps)), np.nan))
        if rows[-1][2] <= least:
            break
    rows += [(*_solved(case, rtol, None), rtol) for rtol in TOLERANCES]
    names = ["products", "error", "bound", "seconds", "rtol"]
    return pd.DataFrame(rows, columns=np.array(names)).assign(method="Expressway")


def _solved(case: Case, rtol: float, steps: int | None) -> tuple[int, float, float, float]:
    """Products, error, bound and seconds."""
    operator = matrix(case.a, case.lower)
    clock = time.perf_counter()
    try:
        found = inverse_root(operator, case.z[None], rtol, steps=steps)
    except ew.Unfinished as error:  # rounding may be larger than the tolerance: what was reached
        found: Any = error.point
    seconds = time.perf_counter() - clock
    return found.matvecs, _error(found.rows[0], case), float(found.bound[0]), seconds


def _steps(n: int) -> np.ndarray:
    """After how many steps errors are looked at."""
    return np.unique(np.r_[np.geomspace(3, n, 14), np.linspace(n / 10, 0.98 * n, 8)].astype(int))


def textbook(case: Case) -> pd.DataFrame:
    """Lanczos as in textbooks: ``β v+ = A v - α v - β- v-``, and nothing else."""
    n = len(case.z)
    rows, seconds = [], 0.0
    v = np.zeros((n, n))
    alpha, beta = np.zeros(n), np.zeros(n)
    v[0] = case.z / linalg.norm(case.z)
    asked = set(_steps(n))
    for m in range(1, n + 1):
        clock = time.perf_counter()
        w = case.a @ v[m - 1]
        alpha[m - 1] = w @ v[m - 1]
        w -= alpha[m - 1] * v[m - 1] + (beta[m - 2] * v[m - 2] if m > 1 else 0.0)
        beta[m - 1] = linalg.norm(w)
        if m < n:
            v[m] = w / beta[m - 1]
        seconds += time.perf_counter() - clock
        if m in asked:
            clock = time.perf_counter()
            values, s = linalg.eigh_tridiagonal(alpha[:m], beta[: m - 1])
            # Rounding can make a copy of an eigenvalue negative: NaN, as the recurrence has it.
            with np.errstate(invalid="ignore"):
                x = linalg.norm(case.z) * (s @ (s[0] / np.sqrt(values))) @ v[:m]
            rows.append((m, _error(x, case), seconds + time.perf_counter() - clock))
    return pd.DataFrame(rows, columns=["products", "error", "seconds"]).assign(method="textbook")


def _error(x: np.ndarray, case: Case) -> float:
    return float(linalg.norm(x - case.exact) / linalg.norm(case.exact))


def run(n: int) -> tuple[list[Case], pd.DataFrame]:
    """All matrices, and the table of both methods on each."""
    made = cases(n)
    tables = [method(case).assign(case=case.name) for case in made for method in (ours, textbook)]
    return made, pd.concat(tables, ignore_index=True)


def printed(made: list[Case], table: pd.DataFrame) -> None:
    """Print what was found."""
    for case in made:
        rows = table[(table["case"] == case.name) & table["rtol"].notna()]
        print(
            f"\n{case.name}: condition {case.condition:.3g}; the bound is "
            f"{'an estimate' if case.lower is None else 'a certificate'}"
        )
        print("   rtol  products     error     bound  bound / error  seconds")
        for row in rows.to_dict("records"):
            print(
                f"{row['rtol']:7.0e} {row['products']:9d} {row['error']:9.1e} {row['bound']:9.1e} "
                f"{row['bound'] / row['error']:14.1f} {row['seconds']:8.3f}"
                + ("" if row["bound"] <= row["rtol"] else "  no more: rounding")
            )
        old = table[(table["case"] == case.name) & (table["method"] == "textbook")]
        at = old.iloc[np.searchsorted(old["products"], rows["products"]).clip(max=len(old) - 1)]
        said = ", ".join(
            f"{e:.1e} at {m}" for e, m in zip(at["error"], at["products"], strict=True)
        )
        print(f"textbook recurrence: error {said}")
        print(f"eigendecomposition {case.eigen:.3f} s, Cholesky {case.cholesky:.3f} s")


def figure(made: list[Case], table: pd.DataFrame) -> Figure:
    """Errors above, seconds below, against products with the matrix; one column a matrix."""
    page = Figure(figsize=(7.2, 4.2), dpi=200, layout="constrained")
    axes = page.subplots(2, len(made), sharex="col", sharey="row")
    for case, (above, below) in zip(made, axes.T, strict=True):
        rows = table[(table["case"] == case.name) & table["rtol"].isna()]
        new, old = (rows[rows["method"] == name] for name in ("Expressway", "textbook"))
        dash = (0, (3, 2)) if case.lower is None else "-"
        above.plot(old["products"], old["error"], color=TEXTBOOK, lw=1.2)
        above.plot(new["products"], new["bound"], color=BOUND, lw=1, ls=dash)
        above.plot(new["products"], new["error"], "o-", color=OURS, lw=1.2, ms=2.5)
        below.plot(old["products"], old["seconds"], color=TEXTBOOK, lw=1.2)
        below.plot(new["products"], new["seconds"], "o-", color=OURS, lw=1.2, ms=2.5)
        for seconds, style in ((case.eigen, "-"), (case.cholesky, ":")):
            below.axhline(seconds, color=DENSE, lw=1, ls=style, zorder=1)
        said = "estimate" if case.lower is None else "certificate"
        above.set_title(f"{case.name}\n{said}", fontsize=8, loc="left")
        above.set_xlim(0, min(len(case.z), 1.3 * new["products"].max()))
    _finish(page, axes)
    return page


def _finish(page: Figure, axes: np.ndarray) -> None:
    """Scales, titles and one legend."""
    for ax in axes.flat:
        ax.set_yscale("log")
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylim(SMALLEST / 10, 100)
    axes[0, 0].set_ylabel("relative error", fontsize=9)
    axes[1, 0].set_ylabel("seconds", fontsize=9)
    page.supxlabel("products with the matrix", fontsize=9)
    entries = (
        ("o-", OURS, "Expressway"),
        ("-", BOUND, "its bound"),
        ("-", TEXTBOOK, "textbook recurrence"),
        ("-", DENSE, "eigendecomposition"),
        (":", DENSE, "Cholesky"),
    )
    handles = [
        Line2D([], [], color=colour, ls=style[-1], marker=style[:-1], ms=2.5, lw=1.2, label=text)
        for style, colour, text in entries
    ]
    page.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False, fontsize=7.5)


def main(arguments: list[str] | None = None) -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("random_spd"), help="folder to write to")
    parser.add_argument("--n", type=int, default=1000, help="rows of the matrices")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    made, table = run(options.n)
    printed(made, table)
    table.to_csv(options.out / "random_spd.csv", index=False)
    figure(made, table).savefig(options.out / "random_spd.png")
    print(f"\n{options.out / 'random_spd.png'}\n{options.out / 'random_spd.csv'}")


if __name__ == "__main__":
    main()
