"""Where each published data set is, how its public files are read, and what it must be."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

from . import rdata
from .public import Address, Dataset, Table, member

# Releases of Bioconductor stay where they are. The SHA-256 of their files are those that other
# collections of packages (the Arch user repository, Spack, r2nix) publish.
_BIOCONDUCTOR = "https://bioconductor.org/packages"
# The last commit that changed the files; their SHA-256 were found by others, too.
_WORKSHOPS = (
    "https://raw.githubusercontent.com/bioconnector/workshops/"
    "68ff3e4868b0e5673a1c4399828a3e0adc72f8e4/data"
)


def _columns(**wanted: tuple[str, Sequence[str | int]]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Takes columns of a table under new names: categories in this order, or numbers as such."""

    def tidy(table: pd.DataFrame) -> pd.DataFrame:
        found = {}
        for name, (old, levels) in wanted.items():
            values = table[old]
            if levels:
                kind = type(levels[0])
                values = pd.Categorical([kind(value) for value in values], list(levels))
            elif values.dtype.kind == "f" and np.array_equal(values, np.round(values)):
                values = values.astype(np.int64)
            found[name] = values
        return pd.DataFrame(found, index=table.index)

    return tidy


def _read_airway(paths: Sequence[Path]) -> Table:
    counts, samples = (pd.read_csv(path, index_col=0) for path in paths)
    obs = samples.rename(columns={"celltype": "cell"})
    obs["dex"] = obs["dex"].replace({"control": "untrt", "treated": "trt"})
    return Table(counts[obs.index].to_numpy().T, list(counts.index), obs)


def _read_pasilla(paths: Sequence[Path]) -> Table:
    texts = [member(paths[0], rf"/pasilla_{name}") for name in ("gene_counts.tsv", "sample_annot")]
    counts = pd.read_csv(BytesIO(texts[0][1]), sep="\t", index_col=0)
    obs = pd.read_csv(BytesIO(texts[1][1]), index_col=0)
    obs.index = pd.Index([str(name).removesuffix("fb") for name in obs.index])
    obs = obs.loc[list(counts.columns)].rename(columns={"number of lanes": "lanes"})
    return Table(counts.to_numpy().T, list(counts.index), obs)


def _read_fission(paths: Sequence[Path]) -> Table:
    name, content = member(paths[0], r"/data/fission\.(RData|rda)$")
    found = rdata.read(content, 36, ["strain", "minute", "replicate", "id"], name)
    return Table(found.values, found.genes, found.obs)


def _read_lcl3(paths: Sequence[Path]) -> Table:
    """The three studies one after the other, and the genes with a count in one of them."""
    columns = ["num.tech.reps", "population", "study", "gender"]
    counts, samples = [], []
    for study, people in (("Cheung", 41), ("Montgomery", 60), ("Pickrell", 69)):
        name, content = member(paths[0], rf"/data/{study.lower()}\.(RData|rda)$")
        found = rdata.read(content, people, columns, name)
        names = found.obs.index.astype(str)
        obs = found.obs.assign(individual=names, study=study)
        samples.append(obs.set_index(names + "_" + study[0]))
        counts.append(pd.DataFrame(found.values, samples[-1].index, pd.Index(found.genes)))
    whole = pd.concat(counts, join="inner")
    whole = whole.loc[:, whole.sum() > 0].sort_index(axis=1)
    return Table(whole.to_numpy(), list(whole.columns), pd.concat(samples))


def _read_shoemaker500(paths: Sequence[Path]) -> Table:
    name, content = member(paths[0], r"/data/exampleData\.(RData|rda)$")
    found = rdata.read(content, 126, ["Group", "Timepoint", "Replicate"], name)
    return Table(found.values, found.genes, found.obs)


AIRWAY = Dataset(
    name="airway",
    files=("airway_counts.csv.gz", "airway_metadata.csv"),
    sha256="71b319ed7d3598f8d774a1a613cb6e5ba9651054df7d2faf80858bd28d0611bf",
    tidy=_columns(
        dex=("dex", ("untrt", "trt")),
        cell=("cell", ("N052611", "N061011", "N080611", "N61311")),
        geo_id=("geo_id", ()),
    ),
    about={
        "title": "Airway smooth muscle cells treated with dexamethasone",
        "source": "https://github.com/bioconnector/workshops",
        "licence": "CC BY-NC-SA 4.0",
        "citation": "Himes et al. 2014, PLoS ONE 9(6): e99625",
    },
    addresses=(
        Address(
            f"{_WORKSHOPS}/airway_rawcounts.csv",
            "504f3148e23e84061f3f28d109a37732ccc9f1f8e4833b00b105307f2f8eb326",
        ),
        Address(
            f"{_WORKSHOPS}/airway_metadata.csv",
            "05bd7e78a0ca5b2a2f60ec715296381ca19f31a8c5a51e70c9f60583fa9fcf97",
        ),
    ),
    read=_read_airway,
)
PASILLA = Dataset(
    name="pasilla",
    files=("pasilla_counts.csv.gz", "pasilla_metadata.csv"),
    sha256="8995fae49274c9157ce82aa2c9057d717ee9a3bb025847a8a94291ec89647f4d",
    tidy=_columns(
        condition=("condition", ("untreated", "treated")),
        type=("type", ("single-read", "paired-end")),
        lanes=("lanes", ()),
    ),
    about={
        "title": "Knock-down of pasilla in Drosophila cells",
        "source": "https://bioconductor.org/packages/pasilla",
        "licence": "LGPL",
        "citation": "Brooks et al. 2011, Genome Research 21: 193-202",
    },
    addresses=(
        Address(
            f"{_BIOCONDUCTOR}/3.18/data/experiment/src/contrib/pasilla_1.30.0.tar.gz",
            "a0594fbfe8292a5549a7deda36bcc3d27a9e1dd18b5c1f6af02f4a7cd622ea35",
        ),
    ),
    read=_read_pasilla,
)
FISSION = Dataset(
    name="fission",
    files=("fission_counts.csv.gz", "fission_metadata.csv"),
    sha256="42265164d1806be0bba9416c23ad2b5ee4e45e08ee1d4ec20477f5901ccf8c38",
    tidy=_columns(
        strain=("strain", ("wt", "mut")),
        minute=("minute", (0, 15, 30, 60, 120, 180)),
        replicate=("replicate", ("r1", "r2", "r3")),
        id=("id", ()),
    ),
    about={
        "title": "Fission yeast after osmotic stress",
        "source": "https://bioconductor.org/packages/fission",
        "licence": "LGPL",
        "citation": "Leong et al. 2014, Nature Communications 5: 3947",
    },
    addresses=(
        Address(
            f"{_BIOCONDUCTOR}/3.16/data/experiment/src/contrib/fission_1.18.0.tar.gz",
            "d2f6d1dbfc5612f00d62c34545331663ad5d7247afe80d6ce61f5b531c9f3c53",
        ),
    ),
    read=_read_fission,
)
LCL3 = Dataset(
    name="lcl3",
    files=("lcl3_counts.csv.gz", "lcl3_metadata.csv"),
    sha256="163262478810fa290e1cf6f08477802eade88088d95c3f33aa2293daf671c947",
    tidy=_columns(
        study=("study", ("Cheung", "Montgomery", "Pickrell")),
        population=("population", ("CEU", "YRI")),
        gender=("gender", ("female", "male")),
        individual=("individual", ()),
        technical_replicates=("num.tech.reps", ()),
    ),
    about={
        "title": "Lymphoblastoid cell lines of three studies",
        "source": "https://bioconductor.org/packages/tweeDEseqCountData",
        "licence": "GPL (>= 2)",
        "citation": (
            "Cheung et al. 2010, PLoS Biology 8(9): e1000480; Montgomery et al. 2010, Nature 464: "
            "773-777; Pickrell et al. 2010, Nature 464: 768-772"
        ),
    },
    addresses=(
        Address(
            f"{_BIOCONDUCTOR}/3.18/data/experiment/src/contrib/tweeDEseqCountData_1.40.0.tar.gz",
            "db14f527829f488876baed853758cb299462bf4a6d66ea8929b8518c4e0907e8",
        ),
    ),
    read=_read_lcl3,
)
_CELL_TYPES = (
    "Multipotent progenitors",
    "Megakaryocytes",
    "Erythrocyte",
    "GMP",
    "Basophils",
    "Neutrophils",
    "Monocytes",
)
PAUL15 = Dataset(
    name="paul15",
    files=("paul15_counts.csv.gz", "paul15_metadata.csv"),
    sha256="5dfcfe2da9ca6b1df2c7b6af7365b3838e0a0f6449d8719270ae3a2824fa2b08",
    tidy=_columns(
        cell_type=("cell_type2", _CELL_TYPES),
        progenitor=("cell_type", ("CMP", "erythroid", "GMP")),
        pseudotime=("Pseudotime", ()),
        batch=("Amp_batch_ID", ()),
        umap1=("UMAP1", ()),
        umap2=("UMAP2", ()),
    ),
    about={
        "title": "Myeloid progenitors of mouse bone marrow",
        "source": "https://github.com/statOmics/tradeSeqPaper",
        "licence": "none stated",
        "citation": "Paul et al. 2015, Cell 163: 1663-1677",
    },
)
PAUL15_240 = Dataset(
    name="paul15_240",
    files=("paul15_240_counts.csv.gz", "paul15_240_slingshot.csv"),
    sha256="b0d44d231972eeea1f77576233257896bff512df255a15169aba52aaf0205b02",
    tidy=_columns(
        cell_type=("celltype", _CELL_TYPES),
        pseudotime1=("pseudotime1", ()),
        pseudotime2=("pseudotime2", ()),
        weight1=("weight1", ()),
        weight2=("weight2", ()),
    ),
    about={
        "title": "240 genes of myeloid progenitors, with pseudotime of two lineages",
        "source": "https://bioconductor.org/packages/tradeSeq",
        "licence": "MIT",
        "citation": "Van den Berge et al. 2020, Nature Communications 11: 1201",
    },
)
SHOEMAKER500 = Dataset(
    name="shoemaker500",
    files=("shoemaker500_expr.csv.gz", "shoemaker500_metadata.csv"),
    sha256="20696c07b2751c146d1b2a18cc81b8ab0114c76ac2d942f8cee227b8adf0b4c6",
    tidy=_columns(
        Group=("Group", ("M", "C", "K")),
        Timepoint=("Timepoint", ()),
        Replicate=("Replicate", ()),
    ),
    about={
        "title": "Mouse lungs after influenza, 500 genes",
        "source": "https://bioconductor.org/packages/moanin",
        "licence": "BSD-3-Clause",
        "citation": "Shoemaker et al. 2015, PLoS Pathogens 11(6): e1004856",
    },
    addresses=(
        Address(
            f"{_BIOCONDUCTOR}/3.18/bioc/src/contrib/moanin_1.10.0.tar.gz",
            "302fbf94bd2ee1a2cfd7a983017bc040d6d09fa7c09f52a158b7adbb020635cd",
        ),
    ),
    read=_read_shoemaker500,
)
