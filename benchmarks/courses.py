"""Time courses for benchmarks: simulated ones with known clusters, and the real subset."""

import argparse
import itertools
from pathlib import Path
from typing import Any

import anndata
import numpy as np

import expressway as ew
from expressway.models import spline
from expressway.models.curves import Curves, frame

# Columns of the curves that are simulated, unless said otherwise; and those to choose from.
DF = 6
DFS = (4, 5, 6, 7, 8)
NOISE = ("0.15,0.5", "0.4,0.8", "0.8,0.8")


def add_options(parser: argparse.ArgumentParser, seeds: int, clusters: list[int]) -> None:
    """Add the options that `problems` takes."""
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--noise", nargs="+", default=NOISE, help="median sd, sd of its log")
    parser.add_argument("--clusters", type=int, nargs="+", default=clusters)
    parser.add_argument("--spread", type=float, nargs="+", default=[0.0, 0.2], help="simulated")
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for the values of every data set (csv)")


def problems(wanted: argparse.Namespace) -> list[tuple[dict[str, Any], int]]:
    """Settings of simulated data sets, each with its seeds."""
    kinds = itertools.product(wanted.clusters, wanted.noise, wanted.spread)
    return [
        ({"clusters": k, "noise": noise, "spread": spread}, seed)
        for k, noise, spread in kinds
        for seed in range(wanted.seeds)
    ]


def drawn(
    kind: dict[str, Any], wanted: argparse.Namespace, seed: int, df: int = DF
) -> anndata.AnnData:
    """The data set of a kind and seed."""
    median, sd = map(float, kind["noise"].split(","))
    given = {"spread": kind["spread"], "replicates": wanted.replicates}
    return simulated(wanted.genes, kind["clusters"], seed, noise=(median, sd), df=df, **given)


def simulated(genes: int, k: int, seed: int = 0, **given: Any) -> anndata.AnnData:
    """A time course of known clusters."""
    return ew.datasets.simulate_timecourse(genes, clusters=k, seed=seed, **given)


def stage_of(adata: anndata.AnnData, df: int, spread: float = 0.1) -> Curves:
    """Curves of expression with one df."""
    at = np.asarray(adata.obs["time"], float)
    coordinates = frame(spline.evaluate(spline.basis(at, df), at))
    return Curves(np.ascontiguousarray(np.asarray(adata.X).T), None, coordinates, spread)
