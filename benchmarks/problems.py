"""Simulated tables of counts for benchmarks, as the files that every program reads."""

import argparse
from pathlib import Path
from typing import NamedTuple

import pandas as pd

import expressway as ew

DESIGN = "~ batch + condition"
CONTRAST = ("condition", "treated", "control")
SAMPLES = (12, 100, 500)
GENES = (20_000,)


class Problem(NamedTuple):
    """A table of counts with two batches and a count in a hundred genes that is an outlier."""

    samples: int
    genes: int
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.genes}_genes_{self.samples}_samples_seed_{self.seed}"


def main() -> None:
    """Write problems into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    add_sizes(parser)
    wanted = parser.parse_args()
    for problem in problems(wanted.samples, wanted.genes):
        print(written(problem, wanted.folder))


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add the options that `problems` takes."""
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--genes", type=int, nargs="+", default=GENES)


def problems(samples: list[int], genes: list[int]) -> list[Problem]:
    """Every number of samples with every number of genes, the small ones first."""
    return [Problem(n, g) for g in sorted(genes) for n in sorted(samples)]


def written(problem: Problem, folder: Path) -> Path:
    """Folder with counts.csv.gz (genes x samples) and samples.csv; made where it is not there."""
    place = folder / problem.name
    counts, annotation = place / "counts.csv.gz", place / "samples.csv"
    if annotation.is_file():  # the last to be written
        return place
    place.mkdir(parents=True, exist_ok=True)
    data = ew.datasets.simulate(
        problem.genes,
        problem.samples,
        batches=2,
        outliers=problem.genes // 100,
        seed=problem.seed,
    )
    fast = {"method": "gzip", "compresslevel": 1}
    data.to_df().T.rename_axis("gene").to_csv(counts, compression=fast)
    obs = pd.DataFrame(data.obs)[["batch", "condition"]]
    obs.rename_axis("sample").to_csv(annotation)
    return place


if __name__ == "__main__":
    main()
