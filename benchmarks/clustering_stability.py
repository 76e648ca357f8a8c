"""How much clusters change with the seed, with other cells, and with the prior."""

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import anndata
import clustering_cases as cases
import clustering_real
import clustering_truth as truth
import numpy as np
import pandas as pd
from clustering_cases import Case

import expressway as ew
from expressway.clustering import REQUEST, Clusters, Prior
from expressway.clustering.result import blocks, joined
from expressway.core.threads import one_each
from expressway.models.gene_clusters import cluster
from expressway.models.gene_mixtures import Mixtures, Starts, fit

Run = Callable[[anndata.AnnData], Clusters]


def add_options(commands: Any) -> None:
    """Add ``stability``."""
    one = commands.add_parser("stability")
    one.add_argument("--genes", type=int, default=1000, help="simulated")
    one.add_argument("--cells", type=int, default=200, help="simulated")
    one.add_argument("--separation", type=float, default=5.0)
    one.add_argument("--paul15", type=int, help="genes of it, at most; 0 to leave it out")
    one.add_argument("--seeds", type=int, default=5)
    one.add_argument("--halves", type=int, default=3, help="times that cells are halved")


def stability(wanted: argparse.Namespace) -> None:
    """One table: data, what was changed, adjusted Rand indices, numbers of clusters."""
    rows = []
    for name, adata, run in data(wanted):
        for row in of_data(adata, run, wanted):
            rows.append({"data": name, **row})
            if wanted.out:
                pd.DataFrame(rows).to_csv(wanted.out, index=False)
        print(f"{name} done", flush=True)
    title = "adjusted Rand index with the first row's clusters (or as said); numbers of clusters"
    cases.shown(pd.DataFrame(rows).set_index(["data", "changed"]), title)


def data(wanted: argparse.Namespace) -> Iterator[tuple[str, anndata.AnnData, Run]]:
    """Data sets and how each is clustered."""
    case = Case(wanted.genes, wanted.cells, separation=wanted.separation)
    yield "simulated", cases.simulated(case), cases.cluster
    folder = ew.datasets.data_folder()
    if wanted.paul15 == 0:
        return
    if folder is None or not (folder / "paul15_counts.csv.gz").is_file():
        print("no paul15: name the folder of the data by EXPRESSWAY_DATA", file=sys.stderr)
        return
    adata = clustering_real.paul15(folder, wanted.paul15)
    time = adata.obs["Pseudotime"].to_numpy(float)
    # The same functions for every half.
    centers = np.linspace(time.min(), time.max(), 3)

    def along(of: anndata.AnnData) -> Clusters:
        return ew.tl.cluster(of, "Pseudotime", centers=centers.tolist(), length=np.ptp(time) / 2)

    yield "paul15", adata, along


def of_data(
    adata: anndata.AnnData, run: Run, wanted: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Rows of one data set."""
    begin = time.perf_counter()
    found = run(adata)
    base = labels(found)
    yield {"changed": "nothing", "wall_s": time.perf_counter() - begin} | numbers(found)
    if "truth" in adata.uns:
        known = whole(truth.labels(adata), adata)
        yield {"changed": "(truth)"} | agreement(known, base)
        fits = truth.genewise(adata)
        best = whole(truth.oracle(adata, fits), adata)
        yield {"changed": "(truth, oracle's)"} | agreement(known, best)
    others = []
    for seed in range(1, wanted.seeds + 1):
        begin = time.perf_counter()
        other = reseeded(found, seed)
        others.append(labels(other))
        row = {"changed": f"seed {seed}", "wall_s": time.perf_counter() - begin}
        yield row | agreement(base, others[-1]) | numbers(other)
    pairs = [agreement(a, b) for a, b in itertools.combinations([base, *others], 2)]
    if pairs:
        yield {"changed": "seeds, mean of pairs"} | pd.DataFrame(pairs).mean().to_dict()
        yield {"changed": "seeds, least of pairs"} | pd.DataFrame(pairs).min().to_dict()
    rng = np.random.default_rng(0)
    order = np.argsort(adata.obs[found_along(adata)].to_numpy(float), kind="stable")
    for number in range(wanted.halves):
        each = [run(adata[np.sort(half)].copy()) for half in halved(order, rng)]
        one, two = map(labels, each)
        yield {"changed": f"halves {number + 1}: each other"} | agreement(one, two)
        for half, own in zip(each, (one, two), strict=True):
            row = {"changed": f"half {number + 1}: all cells"}
            yield row | agreement(base, own) | numbers(half)
    yield from of_priors(found, base)


def whole(label: np.ndarray, adata: anndata.AnnData) -> pd.DataFrame:
    """Labels by coordinate; modules are the combinations of coefficients' labels."""
    told = pd.DataFrame(label, adata.var_names, pd.Index(truth.names(adata)))
    told["modules"] = np.unique(label[:, :-1], axis=0, return_inverse=True)[1].reshape(-1)
    return told


def found_along(adata: anndata.AnnData) -> str:
    """Column of pseudotime."""
    return "pseudotime" if "pseudotime" in adata.obs else "Pseudotime"


def halved(order: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Halves of the cells, of every two neighbours in pseudotime one each."""
    pairs = rng.permuted(order[: len(order) // 2 * 2].reshape(-1, 2), axis=1)
    return pairs[:, 0], np.append(pairs[:, 1], order[len(order) // 2 * 2 :])


@one_each()
def reseeded(found: Clusters, seed: int) -> Clusters:
    """The whole search with another seed, from the same gene-wise fits."""
    settings = found.settings._replace(seed=seed)
    each = cluster(
        found.counts(),
        found.data.sites,
        blocks(found.data),
        found.priors,
        start=Starts(settings.starts, seed),
        rounds=settings.rounds,
    )
    together = joined(found.data, each, found.priors, settings)
    return dataclasses.replace(found, settings=settings, found=each, joint=together)


def of_priors(found: Clusters, base: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows of other priors; how many nats the bound is behind that of a search from nothing."""
    for name, prior in priors(found).items():
        begin = time.perf_counter()
        other = found.again(prior)
        seconds = time.perf_counter() - begin
        together = other.together
        row = {
            "changed": f"prior: {name}",
            "wall_s": seconds,
            "with_modules_s": time.perf_counter() - begin,
        }
        with one_each():
            start = Starts(found.settings.starts, found.settings.seed)
            fresh = fit(found.found.sites, blocks(found.data), other.priors, start=start)
        row["nats_behind_fresh"] = bound(other, fresh) - bound(other, other.found.mixtures)
        fresh_found = other.found._replace(mixtures=fresh)
        own = joined(found.data, fresh_found, other.priors, found.settings)
        row["modules_behind_fresh"] = bound(other, own) - bound(other, together)
        yield row | agreement(base, labels(other)) | numbers(other)


def bound(found: Clusters, of: Mixtures) -> float:
    """Bound of the Gaussian likelihoods with the constant that a center takes off, at that of 0."""
    sites, center = found.found.sites, of.center
    square = np.einsum("a,gab,b->", center, sites.precision, center, optimize=True)
    return of.elbo + float(np.sum(sites.field @ center) - square / 2)


def priors(found: Clusters) -> dict[str, dict[str, Prior]]:
    """Other priors, by coordinate; rates are those of the default made a number."""
    own = dict(zip(found.data.names, found.priors, strict=True))
    rate = {
        name: float(block.base.rate[0])
        for name, block in zip(found.data.names, found.found.mixtures.blocks, strict=True)
    }
    return {
        "default": own,
        "of the request": dict.fromkeys(own, REQUEST),
        "rate x 1/4": {n: p._replace(rate=rate[n] / 4) for n, p in own.items()},
        "rate x 4": {n: p._replace(rate=rate[n] * 4) for n, p in own.items()},
        "concentration rate 10": {n: p._replace(concentration_rate=10.0) for n, p in own.items()},
        "truncation 15": {n: p._replace(truncation=15) for n, p in own.items()},
    }


def labels(found: Clusters) -> pd.DataFrame:
    """Labels of the genes that are clustered: coordinates, and modules."""
    told = found.clusters().pivot(index="gene", columns="coefficient", values="label")
    told["modules"] = found.modules()["module"].dropna().astype(int)
    return told


def agreement(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, float]:
    """Adjusted Rand index of each column, over the genes of both."""
    columns = [name for name in a.columns if name in b.columns]
    both = a.index.intersection(b.index)
    return {
        name: cases.rand(a.loc[both, name].to_numpy(), b.loc[both, name].to_numpy())
        for name in columns
    }


def numbers(found: Clusters) -> dict[str, str]:
    """Numbers of clusters in one cell of a table, modules last."""
    return {"clusters": " ".join(str(k) for k in found.numbers().values())}
