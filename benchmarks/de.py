"""Differential expression beside other programs: time, memory, calls, agreement with DESeq2.

Every program reads the same files in a process of its own, one after the other, and writes a table
of results. Figures of the whole process are taken from outside: start-up, reading and writing are
in them. Those of the fit are taken from inside: from counts in memory to adjusted p-values.

- cold: a new process. For expressway its command line, which draws figures too, with an empty
  cache of compiled code (matplotlib has its list of fonts).
- cached: the same, after another data set of the same size has filled the cache folder.
- warm: the fourth fit of a process, of every program alike.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pandas as pd
from figure import draw
from measure import Cost, Failed, measure
from problems import CONTRAST, DESIGN, Problem, add_sizes, problems, written

ADAPTERS = Path(__file__).resolve().parent / "rivals"
ALPHA = 0.1
CLOSE = 1e-3  # log2 fold changes, as in the README's table of agreement
NOT_FIT = ("reading", "figures", "tables", "total")  # of the stages in run.json
_R_VERSION = "cat(as.character(packageVersion(commandArgs(TRUE)[1])))"
_PYTHON_VERSION = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"


class Program(NamedTuple):
    """A program's adapter and the packages that it needs."""

    adapter: str
    packages: tuple[str, ...]


PROGRAMS = {
    "expressway": Program("run_expressway.py", ("expressway",)),
    "deseq2": Program("deseq2.R", ("DESeq2",)),
    "deseq2_glmgampoi": Program("deseq2_glmgampoi.R", ("DESeq2", "glmGamPoi")),
    "edger_ql": Program("edger_ql.R", ("edgeR",)),
    "glmgampoi": Program("glmgampoi.R", ("glmGamPoi",)),
    "limma_voom": Program("limma_voom.R", ("limma", "edgeR")),
    "pydeseq2": Program("run_pydeseq2.py", ("pydeseq2",)),
    "delnx": Program("run_delnx.py", ("delnx",)),
}


class Ready(NamedTuple):
    """A program that is installed here."""

    name: str
    command: tuple[str, ...]
    """Its adapter, which wants FOLDER OUT FITS."""
    versions: dict[str, str]


class Run(NamedTuple):
    """What a process of a program took, and where its results are."""

    kind: str
    whole: Cost
    fit_wall_s: float
    fit_cpu_s: float
    results: Path


def main() -> None:
    """Run everything, print a table and save it."""
    wanted = arguments()
    asked = [ready(name, wanted) for name in wanted.programs]
    programs = [program for program in asked if program]
    wanted.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        scratch = wanted.keep or Path(temporary)
        for problem in problems(wanted.samples, wanted.genes):
            rows += on_problem(problem, programs, wanted, scratch)
            save(pd.DataFrame(rows), programs, wanted.out)
    print((wanted.out / "de.md").read_text())
    if wanted.figure and rows:
        draw([wanted.out / "de.csv"]).savefig(wanted.figure)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_sizes(parser)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    for name in ("pydeseq2", "delnx"):
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"of an environment with {name}")
    parser.add_argument(
        "--warm",
        nargs="+",
        choices=PROGRAMS,
        default=[],
        help="programs besides expressway whose fourth fit is measured too",
    )
    parser.add_argument("--limit", type=float, default=3600, help="seconds that a process may take")
    parser.add_argument("--out", type=Path, required=True, help="folder for de.csv and de.md")
    parser.add_argument("--keep", type=Path, help="folder for the problems and all results")
    parser.add_argument("--figure", type=Path, help="file for a figure of time against size")
    return parser.parse_args()


def ready(name: str, wanted: argparse.Namespace) -> Ready | None:
    """The program, or None after a line that says why it cannot run."""
    adapter, packages = PROGRAMS[name]
    if adapter.endswith(".R"):
        start, missing = shutil.which("Rscript"), "there is no Rscript"
        ask, runner = ("-e", _R_VERSION), (str(ADAPTERS / "run.R"),)
    else:
        start, missing = vars(wanted).get(name, sys.executable), f"--{name} is not given"
        ask, runner = ("-c", _PYTHON_VERSION), ()
    if start is None:
        print(f"{name}: skipped, {missing}")
        return None
    versions = {package: printed([start, *ask, package]) for package in packages}
    if absent := [package for package, found in versions.items() if not found]:
        print(f"{name}: skipped, {start} has no {' and no '.join(absent)}")
        return None
    return Ready(name, (start, *runner, str(ADAPTERS / adapter)), versions)


def printed(command: Sequence[str]) -> str:
    """What a command prints; empty where it fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def on_problem(
    problem: Problem, programs: Sequence[Ready], wanted: argparse.Namespace, scratch: Path
) -> list[dict[str, object]]:
    """Rows of all programs, compared with DESeq2 where that is among them."""
    data = written(problem, scratch / "problems")
    rows: list[dict[str, object]] = []
    tables: list[pd.DataFrame] = []
    for program in programs:
        out = scratch / "results" / problem.name / program.name
        shutil.rmtree(out, ignore_errors=True)
        if program.name == "expressway":
            other = written(problem._replace(seed=problem.seed + 1), scratch / "problems")
            runs = expressway(program, data, other, out, wanted.limit)
        else:
            kinds = ("cold", "warm") if program.name in wanted.warm else ("cold",)
            runs = (by_adapter(program, data, out / k, wanted.limit, os.environ) for k in kinds)
        try:
            for run in runs:
                tables.append(pd.read_csv(run.results, index_col="gene"))
                rows.append(row(program.name, problem, run, tables[-1]))
                print(*map(shown, rows[-1].values()), flush=True)
        except Failed as failure:
            print(f"{program.name} on {problem.name}: {failure}", flush=True)
    names = [found["program"] for found in rows]
    if "deseq2" not in names:
        return rows
    standard = tables[names.index("deseq2")]
    return [one | agreement(table, standard) for one, table in zip(rows, tables, strict=True)]


def expressway(program: Ready, data: Path, other: Path, out: Path, limit: float) -> Iterator[Run]:
    """Cold, cached and warm."""
    cold, filled = with_cache(out / "cache_cold"), with_cache(out / "cache")
    yield by_command_line(data, out / "cold", limit, cold)
    by_command_line(other, out / "other", limit, filled)
    yield by_command_line(data, out / "cached", limit, filled)
    yield by_adapter(program, data, out / "warm", limit, filled)


def with_cache(cache: Path) -> dict[str, str]:
    """An environment in which compiled code is kept in this folder."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return environment | {
        "XDG_CACHE_HOME": str(cache),
        "MPLCONFIGDIR": matplotlib.get_configdir(),
    }


def by_command_line(data: Path, out: Path, limit: float, environment: Mapping[str, str]) -> Run:
    """One run of `expressway de`; its kind is the name of its folder."""
    out.mkdir(parents=True)
    command = [sys.executable, "-m", "expressway", "de"]
    files = [data / "counts.csv.gz", data / "samples.csv"]
    choices = ["--design", DESIGN, "--contrast", *CONTRAST, "--out", out / "de"]
    whole = measure([*command, *files, *choices], out / "log.txt", limit, environment)
    stages = json.loads((out / "de" / "run.json").read_text())["seconds"]
    fit = [spent for stage, spent in stages.items() if stage not in NOT_FIT]
    wall, cpu = (sum(spent[kind] for spent in fit) for kind in ("wall", "cpu"))
    return Run(out.name, whole, wall, cpu, out / "de" / "results.csv")


def by_adapter(
    program: Ready, data: Path, out: Path, limit: float, environment: Mapping[str, str]
) -> Run:
    """One run of an adapter; its kind is the name of its folder: cold, or warm with four fits."""
    out.mkdir(parents=True)
    fits = "4" if out.name == "warm" else "1"
    whole = measure([*program.command, data, out, fits], out / "log.txt", limit, environment)
    found = json.loads((out / "found.json").read_text())
    return Run(out.name, whole, found["fit_wall_s"], found["fit_cpu_s"], out / "results.csv")


def row(name: str, problem: Problem, run: Run, table: pd.DataFrame) -> dict[str, object]:
    """What is measured; a process with four fits says nothing of the time of one with one."""
    whole = run.whole if run.kind != "warm" else run.whole._replace(wall_s=nan, cpu_s=nan)
    return {
        "program": name,
        "run": run.kind,
        "genes": problem.genes,
        "samples": problem.samples,
        **whole._asdict(),
        "fit_wall_s": run.fit_wall_s,
        "fit_cpu_s": run.fit_cpu_s,
        "calls": int((table["p_adj"] < ALPHA).sum()),
    }


def agreement(table: pd.DataFrame, standard: pd.DataFrame) -> dict[str, float]:
    """Of fold changes and calls with DESeq2's.

    Fold changes are correlated by ranks, for those of separated genes have no size to compare.
    Those that DESeq2 gives, on the log2 scale, are within 1e-3 of it or not.
    """
    changes = pd.DataFrame(
        {"ours": table["log2_fold_change"], "theirs": standard["log2_fold_change"]}
    ).dropna(subset="theirs")
    called = [set(one.index[one["p_adj"] < ALPHA]) for one in (table, standard)]
    union = called[0] | called[1]
    return {
        "lfc_rank_correlation": changes.corr(method="spearman").loc["ours", "theirs"],
        "lfc_within_1e-3": (changes["ours"] - changes["theirs"]).abs().lt(CLOSE).mean(),
        "calls_jaccard": len(called[0] & called[1]) / len(union) if union else 1.0,
    }


def save(table: pd.DataFrame, programs: Sequence[Ready], out: Path) -> None:
    """Write the table as csv and markdown, the latter with versions and machine."""
    table.to_csv(out / "de.csv", index=False)
    cells = [list(table.columns), ["---"] * table.shape[1]]
    cells += [[shown(value) for value in values] for values in table.itertuples(index=False)]
    lines = [f"| {' | '.join(words)} |" for words in cells]
    versions = {package: v for program in programs for package, v in program.versions.items()}
    with_versions = ", ".join(f"{package} {found}" for package, found in versions.items())
    about = f"{with_versions}; {platform.system()} {platform.machine()}, {os.cpu_count()} cores."
    (out / "de.md").write_text("\n".join([*lines, "", about, ""]))


def shown(value: object) -> str:
    """A value to four digits; empty where there is none."""
    if not isinstance(value, float):
        return str(value)
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


if __name__ == "__main__":
    main()
