"""Three sites: time, rounds and bytes, beside fedpydeseq2 in its own environment.

Data are simulated with outliers, so that Cook's refit has something to do. Cold is the command in
a new process, reading and writing included; warm is the analysis alone, the second in a process.
The rival's time is that of its experiment: without its imports, with its reading of the files.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import expressway as ew

DESIGN = ("--design", "~ condition", "--contrast", "condition", "treated", "control")


def main() -> None:
    """Run both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--samples", type=int, default=40, help="at each site")
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--rival", help="interpreter of an environment with fedpydeseq2")
    parser.add_argument("--jobs", type=int, nargs="*", default=[1], help="num_jobs of the rival")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sites = written(folder, wanted.sites, wanted.samples, wanted.genes)
        rows = [cold(folder), warm(sites)]
        table = sites_table(sites)
        for jobs in wanted.jobs if wanted.rival else []:
            rows.append(rival(folder, wanted.rival, jobs, table))
    print(pd.DataFrame(rows).to_string(index=False))


def written(folder: Path, count: int, samples: int, genes: int) -> dict[str, anndata.AnnData]:
    """Sites of simulated data, as folders for both programs."""
    whole = ew.datasets.simulate(genes, count * samples, outliers=genes // 100, seed=0)
    order = np.arange(whole.n_obs).reshape(samples, count).T  # both conditions at each site
    sites = {}
    for k, part in enumerate(order):
        own = whole[part].copy()
        sites[f"site_{k}"] = own
        place, theirs = folder / "sites" / f"site_{k}", folder / "rival" / f"center_{k}"
        place.mkdir(parents=True)
        theirs.mkdir(parents=True)
        obs = pd.DataFrame({"condition": own.obs["condition"].astype(str)}, own.obs_names)
        own.to_df().T.to_csv(place / "counts.csv.gz")
        obs.rename_axis("sample").to_csv(place / "samples.csv")
        own.to_df().rename_axis("barcode").to_csv(theirs / "counts_data.csv")
        obs.assign(center_id=k).rename_axis("barcode").to_csv(theirs / "metadata.csv")
    return sites


def cold(folder: Path) -> dict[str, object]:
    """The command in a new process."""
    out = folder / "out"
    command = [sys.executable, "-m", "expressway", "federated", "simulate"]
    begin, spent = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*command, str(folder / "sites"), *DESIGN, "--out", str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = json.loads((out / "run.json").read_text())
    return {
        "program": "expressway, cold",
        "wall_s": wall,
        "cpu_s": after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime,
        "peak_mb": record["peak_memory_mb"],
        "rounds": record["rounds"],
        "up_mb": sum(record["bytes_up"].values()) / 1e6,
        "down_mb": sum(record["bytes_down"].values()) / 1e6,
    }


def warm(sites: dict[str, anndata.AnnData]) -> dict[str, object]:
    """The second analysis of a process."""
    ew.federated.simulate(sites, DESIGN[1], DESIGN[3:])
    begin = time.perf_counter(), time.process_time()
    run = ew.federated.simulate(sites, DESIGN[1], DESIGN[3:])
    spent = [time.perf_counter() - begin[0], time.process_time() - begin[1]]
    return {
        "program": "expressway, warm",
        "wall_s": spent[0],
        "cpu_s": spent[1],
        "peak_mb": ew.io.peak_memory(),
        "rounds": run.rounds,
        "up_mb": sum(run.ledger.up.values()) / 1e6,
        "down_mb": sum(run.ledger.down.values()) / 1e6,
    }


def sites_table(sites: dict[str, anndata.AnnData]) -> pd.DataFrame:
    """Results of all samples in one table, to compare the rival's with."""
    whole = anndata.concat(list(sites.values()))
    settings = ew.tl.Settings(keep_if_larger=False)
    return ew.tl.de(whole, DESIGN[1], DESIGN[3:], settings=settings)


def rival(folder: Path, python: str, jobs: int, ours: pd.DataFrame) -> dict[str, object]:
    """Run fedpydeseq2's simulation."""
    script = Path(__file__).resolve().parent / "rivals" / "run_fedpydeseq2.py"
    out = folder / f"rival_{jobs}"
    subprocess.run(
        [python, str(script), str(folder / "rival"), str(out), str(jobs)],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=folder,  # it leaves files where it runs
    )
    found = json.loads((out / "found.json").read_text())
    theirs = pd.read_csv(out / "results.csv", index_col=0).loc[ours.index]
    apart = np.nanmax(np.abs(theirs["log2_fold_change"] - ours["log2_fold_change"]))
    row = {"program": f"fedpydeseq2, num_jobs={jobs}", **found}
    return row | {"largest_difference_of_log2_fold_change": apart}


if __name__ == "__main__":
    main()
