"""The published data sets that examples, tests and benchmarks use."""

import anndata

from .public import get
from .sources import AIRWAY, FISSION, LCL3, PASILLA, PAUL15, PAUL15_240, SHOEMAKER500


def airway() -> anndata.AnnData:
    """8 samples × 64,102 genes: human airway smooth muscle cells with and without dexamethasone.

    ``obs``: dex (untrt, trt), cell (four cell lines, each untreated and treated), geo_id. Of the
    genes 30,633 have no counts. Design: ``"~ cell + dex"``.

    From ``airway_counts.csv.gz`` and ``airway_metadata.csv`` in `data_folder`, else from the
    workshops of bioconnector on GitHub, at a commit. CC BY-NC-SA 4.0.

    Raises
    ------
    InputError
        It is in no folder and cannot be fetched, or is not what was published: one line.

    References
    ----------
    Himes et al. (2014), PLoS ONE 9(6): e99625.
    """
    return get(AIRWAY)


def pasilla() -> anndata.AnnData:
    """7 samples × 14,599 genes: fly cells in which the gene pasilla was knocked down, or not.

    ``obs``: condition (untreated, treated), type of reads (single-read, paired-end), lanes (how
    many). Design: ``"~ type + condition"``.

    From ``pasilla_counts.csv.gz`` and ``pasilla_metadata.csv`` in `data_folder`, else from
    Bioconductor's package pasilla 1.30.0. LGPL.

    Raises
    ------
    InputError
        As for `airway`.

    References
    ----------
    Brooks et al. (2011), Genome Research 21: 193-202.
    """
    return get(PASILLA)


def fission() -> anndata.AnnData:
    """36 samples × 7,039 genes: fission yeast after osmotic stress, two strains, six times.

    ``obs``: strain (wt, mut: without atf21), minute (categories 0, 15, 30, 60, 120, 180),
    replicate (r1, r2, r3), id. Design: ``"~ strain * minute"``.

    From ``fission_counts.csv.gz`` and ``fission_metadata.csv`` in `data_folder`, else from
    Bioconductor's package fission 1.18.0, whose file is one of R: this needs the package rdata
    (``pip install "expressway[datasets]"``). LGPL.

    Raises
    ------
    InputError
        As for `airway`; or rdata is missing.

    References
    ----------
    Leong et al. (2014), Nature Communications 5: 3947.
    """
    return get(FISSION)


def lcl3() -> anndata.AnnData:
    """170 samples × 13,140 genes: lymphoblastoid cell lines of three studies.

    ``obs``: study (Cheung, Montgomery, Pickrell: 41, 60 and 69 people), population (CEU, YRI),
    gender (female, male), individual, technical_replicates. Design: ``"~ study + gender"``; a
    federated analysis has a study a site. Genes with a count anywhere.

    From ``lcl3_counts.csv.gz`` and ``lcl3_metadata.csv`` in `data_folder`, else from Bioconductor's
    package tweeDEseqCountData 1.40.0, whose files are of R, as for `fission`. GPL (>= 2).

    Raises
    ------
    InputError
        As for `fission`.

    References
    ----------
    Cheung et al. (2010), PLoS Biology 8(9): e1000480; Montgomery et al. (2010), Nature 464:
    773-777; Pickrell et al. (2010), Nature 464: 768-772.
    """
    return get(LCL3)


def paul15() -> anndata.AnnData:
    """2,660 cells × 3,004 genes: mouse bone marrow, from progenitors to seven cell types.

    ``obs``: cell_type (seven, multipotent progenitors first), progenitor (CMP, erythroid, GMP),
    pseudotime, batch (of amplification, sixteen), umap1, umap2.

    From ``paul15_counts.csv.gz`` and ``paul15_metadata.csv`` in `data_folder` only: its authors
    state no licence and its public file is an object of R.

    Raises
    ------
    InputError
        As for `airway`.

    References
    ----------
    Paul et al. (2015), Cell 163: 1663-1677; Van den Berge et al. (2020), Nature Communications 11:
    1201.
    """
    return get(PAUL15)


def paul15_240() -> anndata.AnnData:
    """2,660 cells × 240 genes of `paul15`, with pseudotime along two lineages.

    ``obs``: cell_type, pseudotime1, pseudotime2, weight1, weight2 (of the cell in each lineage, by
    slingshot).

    From ``paul15_240_counts.csv.gz`` and ``paul15_240_slingshot.csv`` in `data_folder` only: the
    public file, in Bioconductor's package tradeSeq (MIT), holds curves of which pseudotime would
    have to be computed.

    Raises
    ------
    InputError
        As for `airway`.

    References
    ----------
    Van den Berge et al. (2020), Nature Communications 11: 1201.
    """
    return get(PAUL15_240)


def shoemaker500() -> anndata.AnnData:
    """126 samples × 500 genes: mouse lungs after influenza, log expression on microarrays.

    ``obs``: Group (M mock, C and K: two viruses), Timepoint (hours, a number), Replicate (1 to 3).

    From ``shoemaker500_expr.csv.gz`` and ``shoemaker500_metadata.csv`` in `data_folder`, else from
    Bioconductor's package moanin 1.10.0, whose file is one of R, as for `fission`. BSD-3.

    Raises
    ------
    InputError
        As for `fission`.

    References
    ----------
    Shoemaker et al. (2015), PLoS Pathogens 11(6): e1004856.
    """
    return get(SHOEMAKER500)
